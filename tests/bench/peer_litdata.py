"""litdata as a peer of bench_peers.py, run by the Python of an environment that has it.

Usage: peer_litdata.py SAMPLES LOOSE TAR…. It first writes the loose samples in its own format, and
says what that took. For each line on stdin it reads a batch of SAMPLES, decodes the pictures with
cv2, and says how many seconds of CPU time that took.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from litdata import StreamingDataset, optimize
from peer_writing import cost_of_writing, loose_samples


def write(folders: list[str], out: str) -> None:
    """Write every sample of the folders in chunks of 64 MB."""
    with contextlib.redirect_stdout(io.StringIO()):
        optimize(loose_samples, folders, out, chunk_bytes="64MB", num_workers=1)


def stream(folder: str) -> Iterator[Any]:
    samples = StreamingDataset(folder, shuffle=True)
    while True:
        yield from samples


def main() -> None:
    count, loose = int(sys.argv[1]), sys.argv[2]
    written = cost_of_writing(write, loose)
    with tempfile.TemporaryDirectory() as folder:
        write([loose], folder)
        samples = stream(folder)
        next(samples)
        sys.stdout.write(f"ready {written}\n")
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
