"""Our reader and writer beside other people's, as ratios of CPU time a sample within one run.

A peer with dependencies of its own lives in its own environment: IMITATE_PEERS names a folder with
one virtual environment a peer, such as IMITATE_PEERS/hf with `datasets` and
opencv-python-headless. `peer_<name>.py` runs there and reads a batch whenever it is told to, so
that the rounds are interleaved. A peer without an environment is left out of the table.

All deliver a batch of gray pictures and their texts from one process; ours compares the hash of
every member, no other one does. All write the same PNG and JSON files; ours hashes them, reads the
tar back and sums it up in SHA256SUMS, no other one does.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from bench_shards import (
    FILMS,
    PART,
    SIZE,
    Row,
    at_least,
    decode,
    film,
    medians,
    prepare,
    writing_work,
)
from peer_writing import cost_of_writing, loose_samples
from PIL import Image

from imitate.prep.pixels.png import encode_png
from imitate.shards.manifest import ShardSet
from imitate.shards.order import permutation
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import ShardReader
from imitate.shards.write import write_shards

ROUNDS = 24
PEERS = {
    "hf": "HF datasets, streaming + cv2",
    "litdata": "litdata + cv2, its own format",
    "mosaicml": "MosaicML Streaming + cv2, its own format",
}
Work = dict[str, Callable[[int], float]]  # does the batch of a round, returns its CPU seconds


@contextlib.contextmanager
def peer(
    python: Path, name: str, loose: Path, tars: list[str]
) -> Iterator[tuple[Callable[[int], float], float]]:
    """Start the peer in its environment; yield what has it read a batch, and its cost to write."""
    script = Path(__file__).with_name(f"peer_{name}.py")
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [str(python), str(script), str(PART), str(loose), *tars],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | quiet,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        words, answers = process.stdin, process.stdout

        def batch(turn: int) -> float:
            words.write("\n")
            words.flush()
            return float(answers.readline())

        word, _, written = answers.readline().partition(" ")
        if word != "ready":
            raise RuntimeError(f"the peer {name} does not start in {python}")
        yield batch, float(written)
        words.close()


def timed(function: Callable[[int], object]) -> Callable[[int], float]:
    def work(turn: int) -> float:
        start = time.process_time()
        function(turn)
        return time.process_time() - start

    return work


def own_work(shards: ShardSet, films: list[np.ndarray], folder: Path) -> Work:
    """Our reader, loose files and a memory map of decoded pixels, in one order of the samples."""
    reader = ShardReader(shards)
    order = permutation(shards.n, purpose="bench", seed=0, epoch=0)
    batches = np.split(order, len(order) // PART)
    texts = reader.texts(np.arange(shards.n))
    pixels = np.memmap(folder / "pixels", np.uint8, "w+", shape=(len(films), SIZE, SIZE))
    for i, pictures in enumerate(films):
        pixels[i] = pictures
        (folder / f"{i}.png").write_bytes(encode_png(pictures))
        (folder / f"{i}.json").write_text(json.dumps(texts[i]))

    def ours(turn: int) -> object:
        ordinals = batches[turn % len(batches)]
        return reader.images(ordinals), reader.texts(ordinals)

    def loose(turn: int) -> object:
        chosen = batches[turn % len(batches)].tolist()
        documents = [json.loads((folder / f"{i}.json").read_bytes()) for i in chosen]
        return np.stack([decode((folder / f"{i}.png").read_bytes()) for i in chosen]), documents

    def mapped(turn: int) -> object:
        chosen = batches[turn % len(batches)].tolist()
        return [Image.fromarray(pixels[i]).convert("RGB") for i in chosen], [
            texts[i] for i in chosen
        ]

    work = {
        "ours": ours,
        "loose files + cv2": loose,
        "memory map of decoded pixels + PIL RGB": mapped,
    }
    return {name: timed(function) for name, function in work.items()}


def bench() -> list[Row]:
    cv2.setNumThreads(1)
    environments = Path(os.environ.get("IMITATE_PEERS", "-"))
    films = [film(number) for number in range(FILMS)]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        root = Path(name)
        prepare(root, films)
        shards = ShardSet.open(write_shards(root, "films", ShardOptions(samples=PART)).path)
        tars = [str(path) for path in sorted((shards.folder / "shards").iterdir())]
        (root / "loose").mkdir()
        work = own_work(shards, films, root / "loose")
        written = writing_costs(root, films, root / "loose")
        for short, title in PEERS.items():
            python = environments / short / "bin" / "python"
            if python.is_file():
                started = peer(python, short, root / "loose", tars)
                work[title], written[title] = stack.enter_context(started)
            else:
                sys.stderr.write(f"not measured: {title} (no environment {python})\n")
        taken: dict[str, list[float]] = {title: [] for title in work}
        for turn in range(ROUNDS + 1):
            for title, batch in work.items():
                taken[title].append(batch(turn))
    cpu = {title: statistics.median(times[1:]) for title, times in taken.items()}
    litdata = PEERS["litdata"]
    rows = [shown(f"{title} / ours", cpu[title] / cpu["ours"]) for title in work if title != "ours"]
    rows += [
        shown(f"writing: {title} / ours", cost / written["ours"])
        for title, cost in written.items()
        if title != "ours" and cost == cost  # not NaN
    ]
    if litdata in cpu:
        rows.append(at_least("reading, against litdata", 0.97, cpu[litdata] / cpu["ours"]))
    return rows


def shown(goal: str, measured: float) -> Row:
    """Return a row that has no goal of its own."""
    return {"goal": goal, "target": "shown", "measured": measured, "ok": None}


def writing_costs(root: Path, films: list[np.ndarray], loose: Path) -> dict[str, float]:
    """Return CPU seconds a sample: our shards with their checks, and webdataset's TarWriter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from webdataset import TarWriter

    def write(folders: list[str], out: str) -> None:
        for turn, folder in enumerate(folders):
            with Path(out, f"{turn}.tar").open("wb") as handle, TarWriter(handle) as writer:
                for number, sample in enumerate(loose_samples(folder)):
                    writer.write({"__key__": f"film-{number:05d}", **sample})

    work = writing_work(root)
    times = medians(work, time.process_time, 7)
    ours = (times["shard"] - times["read"]) / len(films)
    return {"ours": ours, "webdataset TarWriter": cost_of_writing(write, str(loose))}


if __name__ == "__main__":
    for row in bench():
        print(row)  # noqa: T201
