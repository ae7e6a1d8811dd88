"""HF `datasets` as a peer of bench_peers.py, run by the Python of an environment that has it.

Usage: peer_hf.py SAMPLES LOOSE TAR…. It reads our shards and writes nothing. For each line on
stdin it streams a batch of SAMPLES, decodes the pictures with cv2, and says how many seconds of
CPU time that took.
"""

import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from datasets import Image, load_dataset


def stream(tars: list[str]) -> Iterator[dict[str, Any]]:
    samples = load_dataset("webdataset", data_files={"all": tars}, split="all", streaming=True)
    samples = samples.cast_column("png", Image(decode=False))
    while True:
        yield from samples


def main() -> None:
    count, samples = int(sys.argv[1]), stream(sys.argv[3:])
    next(samples)
    sys.stdout.write("ready nan\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        start = time.process_time()
        batch = list(islice(samples, count))
        pngs = [np.frombuffer(sample["png"]["bytes"], np.uint8) for sample in batch]
        pictures = np.stack([cv2.imdecode(png, cv2.IMREAD_GRAYSCALE) for png in pngs])
        assert len(pictures) == len([sample["json"] for sample in batch]) == count
        sys.stdout.write(f"{time.process_time() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
