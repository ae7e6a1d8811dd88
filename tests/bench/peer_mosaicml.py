"""MosaicML Streaming as a peer of bench_peers.py, run by the Python of an environment that has it.

Usage: peer_mosaicml.py SAMPLES TAR…. It first writes the samples in its own format. For each line
on stdin it reads a batch of SAMPLES, decodes the pictures with cv2, and says how many seconds of
CPU time that took.
"""

import json
import sys
import tarfile
import tempfile
import time
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from itertools import islice
from typing import Any

import cv2
import numpy as np

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


def write(tars: list[str], folder: str) -> None:
    """Write the PNG and JSON of every sample in MDS shards of 64 MiB."""
    columns = {"json": "bytes", "png": "bytes"}
    with MDSWriter(out=folder, columns=columns, size_limit=64 << 20) as writer:
        for tar in tars:
            with tarfile.open(tar) as archive:
                members = {m.name: archive.extractfile(m) for m in archive}
                for name, member in members.items():
                    if name.endswith(".json"):
                        png = members[name.removesuffix("json") + "png"]
                        assert member is not None and png is not None
                        writer.write({"json": member.read(), "png": png.read()})


def stream(folder: str) -> Iterator[Any]:
    samples = StreamingDataset(local=folder, shuffle=True, batch_size=1)
    while True:
        yield from samples


def main() -> None:
    count, tars = int(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        write(tars, folder)
        samples = stream(folder)
        next(samples)
        sys.stdout.write("ready\n")
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
