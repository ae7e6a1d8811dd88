"""litdata as a peer of bench_peers.py, run by the Python of an environment that has it.

Usage: peer_litdata.py SAMPLES TAR…. It first writes the samples in its own format. For each line on
stdin it reads a batch of SAMPLES, decodes the pictures with cv2, and says how many seconds of CPU
time that took.
"""

import contextlib
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from litdata import StreamingDataset, optimize


def samples_of(tar: str) -> Iterator[dict[str, bytes]]:
    """Yield the PNG and JSON of each sample of a shard."""
    with tarfile.open(tar) as archive:
        members = {m.name: archive.extractfile(m) for m in archive}
        for name, member in members.items():
            if name.endswith(".json"):
                png = members[name.removesuffix("json") + "png"]
                assert member is not None and png is not None
                yield {"json": member.read(), "png": png.read()}


def stream(folder: str) -> Iterator[Any]:
    samples = StreamingDataset(folder, shuffle=True)
    while True:
        yield from samples


def main() -> None:
    count, tars = int(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            optimize(samples_of, tars, folder, chunk_bytes="64MB", num_workers=1)
        samples = stream(folder)
        next(samples)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            start = time.process_time()
            batch = list(islice(samples, count))
            pngs = [np.frombuffer(sample["png"], np.uint8) for sample in batch]
            pictures = np.stack([cv2.imdecode(png, cv2.IMREAD_GRAYSCALE) for png in pngs])
            texts = [json.loads(bytes(sample["json"])) for sample in batch]
            assert len(pictures) == len(texts) == count
            sys.stdout.write(f"{time.process_time() - start}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
