"""MosaicML Streaming as a peer of bench_peers.py, run by the Python of an environment that has it.

Usage: peer_mosaicml.py SAMPLES LOOSE TAR…. It first writes the loose samples in its own format, and
says what that took. For each line on stdin it reads a batch of SAMPLES, decodes the pictures with
cv2, and says how many seconds of CPU time that took.
"""

import json
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from itertools import islice
from typing import Any

import cv2
import numpy as np
from peer_writing import cost_of_writing, loose_samples

try:
    import torchvision.datasets  # noqa: F401
except (ImportError, RuntimeError):
    # it only derives picture datasets from it, which are not used here
    stand_in, inside = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    stand_in.__spec__ = ModuleSpec("torchvision", None)
    inside.VisionDataset = stand_in.datasets = type("VisionDataset", (), {})  # type: ignore[attr-defined]
    transforms = types.ModuleType("torchvision.transforms.functional")
    transforms.to_tensor = None  # type: ignore[attr-defined]
    sys.modules |= {
        "torchvision": stand_in,
        "torchvision.datasets": inside,
        "torchvision.transforms": types.ModuleType("torchvision.transforms"),
        "torchvision.transforms.functional": transforms,
    }
from streaming import MDSWriter, StreamingDataset


def write(folders: list[str], out: str) -> None:
    """Write every sample of the folders in MDS shards of 64 MiB."""
    columns = {"json": "bytes", "png": "bytes"}
    with MDSWriter(out=out, columns=columns, size_limit=64 << 20) as writer:
        for folder in folders:
            for sample in loose_samples(folder):
                writer.write(sample)


def stream(folder: str) -> Iterator[Any]:
    samples = StreamingDataset(local=folder, shuffle=True, batch_size=1)
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
            texts = [json.loads(sample["json"]) for sample in batch]
            assert len(pictures) == len(texts) == count
            sys.stdout.write(f"{time.process_time() - start}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
