"""The goals of writing and reading shards, as ratios of CPU time within one run.

Synthetic films: smooth noise with as many bits a pixel as PNGs of radiographs (4.4 at 256 px).
Rounds are interleaved and their medians compared, because other work may run beside.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import blake3
import cv2
import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader

from imitate.contract import Folders
from imitate.files import arrow_schema, blake3_file, blake3_hex, write_json, write_table
from imitate.prep.pixels.png import encode_png
from imitate.schema import MANIFEST, SCHEMA_VERSION, SHARD_MANIFEST, SHARDS
from imitate.shards.manifest import HASHED, ShardSet, dataset_digest
from imitate.shards.order import EpochPlan, Window, permutation
from imitate.shards.plan import ShardOptions, scan
from imitate.shards.reader import ShardReader, iterate
from imitate.shards.reading import png as fast
from imitate.shards.reading.dataset import ShardDataset, as_it_is
from imitate.shards.shard import ShardTask, build_shard
from imitate.shards.source.prepared import Prepared
from imitate.shards.write import write_shards

FILMS, SIZE, PART = 600, 256, 50  # a batch and a round are PART films, a shard at most
ROUNDS = 48
MIMIC = 400_000  # samples of the large manifest
# loads what training reads of the manifest; prints seconds and the growth of memory in MB
COLUMNS = """
import sys, time
from pathlib import Path
from imitate.shards.manifest import ShardSet
from imitate.shards.reader import ShardReader
from imitate.train.identity import training_rows
import pyarrow.parquet
shards = ShardSet.open(Path(sys.argv[1]))
# not ru_maxrss, which a process inherits from the one that started it
status = Path("/proc/self/status")
peak = lambda: int(status.read_text().partition("VmHWM:")[2].split()[0])
start, before = time.perf_counter(), peak()
rows, reader = training_rows(shards), ShardReader(shards)
print(time.perf_counter() - start, (peak() - before) * 1024 / 1e6)
"""
Row = dict[str, Any]


def film(number: int) -> np.ndarray:
    """A picture with the smoothness and the noise of a radiograph.  # [SIZE, SIZE]"""
    rng = np.random.default_rng(number)
    coarse = cv2.resize(rng.normal(128, 60, (8, 8)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)), (0, 0), 0.6)
    return np.clip(coarse + 8.5 * grain, 0, 255).astype(np.uint8)


def prepare(root: Path, films: list[np.ndarray]) -> None:
    """Write the films as a prepared set."""
    folder = Folders(root).prepared("films")
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, pixels in enumerate(films):
        png, key = encode_png(pixels), f"film-{number:05d}"
        (folder / "images" / f"{key}.png").write_bytes(png)
        text = f"Synthetic sentence number {number} of a synthetic report. " * 6
        row = dict.fromkeys(MANIFEST.names, "none") | {
            "key": key,
            "image_id": key,
            "split": "train",
            "image": f"images/{key}.png",
            "orientation": 1,
            "png_blake3": blake3_hex(png),
            "pixel_blake3": blake3_hex(pixels.tobytes()),
            "findings": text,
            "impression": text[:60],
            "sections": {"findings": text, "impression": text[:60]},
            "sentences": {"findings": text.split(". ")[:-1], "impression": [text[:60]]},
            **{name: {} for name in ("labels", "report_labels", "metadata")},
            "boxes": [],
            **dict.fromkeys(("mask", "mask_blake3")),
            "bits": 8,
        }
        sizes = ("height", "width", "source_height", "source_width")
        row |= dict.fromkeys(sizes, SIZE) | dict.fromkeys(("scale_x", "scale_y"), 1.0)
        rows.append(row | dict.fromkeys(("offset_x", "offset_y"), 0.0))
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    card = {"schema_version": SCHEMA_VERSION, "access": "open", "options": {}}
    write_json(folder / "card.json", card)


def medians(
    work: dict[str, Callable[[int], object]], clock: Callable[[], float], rounds: int = ROUNDS
) -> dict[str, float]:
    """Return the median of each piece of work over interleaved rounds; each is told the round."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, function in work.items():
            start = clock()
            function(turn)
            if turn:  # the first round warms the caches
                taken[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def at_least(goal: str, limit: float, measured: float) -> Row:
    return {"goal": goal, "target": f">= {limit}", "measured": measured, "ok": measured >= limit}


def at_most(goal: str, limit: float, measured: float) -> Row:
    return {"goal": goal, "target": f"<= {limit}", "measured": measured, "ok": measured <= limit}


def decode(png: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    return pixels


def bench_reading(shards: ShardSet, pngs: list[bytes]) -> list[Row]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from webdataset import WebDataset
    reader = ShardReader(shards)
    order = permutation(shards.n, purpose="bench", seed=0, epoch=0)
    batches = np.split(order, len(order) // PART)
    urls = [str(path) for path in sorted((shards.folder / "shards").iterdir())]

    def ours(turn: int) -> object:
        ordinals = batches[turn % len(batches)]
        return reader.images(ordinals), reader.texts(ordinals)

    def endless(stock: WebDataset) -> Iterator[dict[str, Any]]:
        while True:
            yield from stock

    plain = endless(WebDataset(urls, shardshuffle=False))
    decoded = endless(WebDataset(urls, shardshuffle=False).decode("pil"))

    def webdataset(turn: int) -> object:
        samples = list(islice(plain, PART))
        texts = [json.loads(sample["json"]) for sample in samples]
        return np.stack([decode(sample["png"]) for sample in samples]), texts

    def pil(turn: int) -> object:
        samples = list(islice(decoded, PART))
        return np.stack([sample["png"] for sample in samples]), samples

    one = np.empty((SIZE, SIZE), np.uint8)
    work: dict[str, Callable[[int], object]] = {
        "bare": lambda turn: [decode(pngs[i]) for i in batches[turn % len(batches)]],
        "images": lambda turn: reader.images(batches[turn % len(batches)]),
        "ours": ours,  # a batch of pictures and its texts, as of the other readers
        "webdataset": webdataset,
        "pil": pil,
        "own": lambda turn: [fast.decode(pngs[i], one) for i in batches[turn % len(batches)]],
    }
    cpu = medians(work, time.process_time)
    stem = "read + verify + decode"
    return [
        at_least(f"{stem} / bare cv2 decode", 0.93, cpu["bare"] / cpu["images"]),
        {"goal": f"{stem} / bare decode of our own", "target": "shown", "ok": None}
        | {"measured": cpu["own"] / cpu["images"]},
        at_least(f"{stem}, against webdataset + cv2", 1.25, cpu["webdataset"] / cpu["ours"]),
        at_least(f"{stem}, against .decode('pil')", 1.7, cpu["pil"] / cpu["ours"]),
        bench_cat(reader, order, [Path(url) for url in urls]),
        *bench_two_cores(reader, batches, pngs),
    ]


def bench_cat(reader: ShardReader, order: np.ndarray, paths: list[Path]) -> Row:
    def cat(turn: int) -> None:
        for path in paths:
            with path.open("rb", buffering=0) as handle:
                while handle.read(1 << 20):
                    pass

    def read(turn: int) -> None:
        for _ in reader.members(order, "png"):
            pass

    cpu = medians({"cat": cat, "ours": read}, time.process_time)
    return at_most("verified pictures without decoding / cat", 6, cpu["ours"] / cpu["cat"])


def bench_two_cores(reader: ShardReader, batches: list[np.ndarray], pngs: list[bytes]) -> list[Row]:
    """Against bare cv2 in two threads: what two cores give while other work runs beside."""

    def share(pictures: list[bytes]) -> None:
        for png in pictures:
            decode(png)

    def bare(turn: int) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(share, (pngs[::2], pngs[1::2])))

    def threads(turn: int) -> None:
        for _ in iterate(reader, batches, workers=2):
            pass

    def processes(turn: int) -> None:
        for _ in loader:
            pass

    loader = DataLoader(
        ShardDataset(reader.shards.folder),
        batch_sampler=[batch.tolist() for batch in batches],
        collate_fn=as_it_is,
        num_workers=2,
        persistent_workers=True,
    )
    work = {"bare": bare, "threads": threads, "processes": processes}
    wall = medians(work, time.perf_counter, 21)
    rows = [
        at_least("two threads / limit of two cores", 0.80, wall["bare"] / wall["threads"]),
        at_least("two processes / limit of two cores", 0.72, wall["bare"] / wall["processes"]),
    ]
    return rows if (os.cpu_count() or 1) >= 2 else [row | {"ok": None} for row in rows]


def writing_work(root: Path) -> dict[str, Callable[[int], object]]:
    """Return what writing the prepared set `films` as one shard takes, and parts of that."""
    prepared = Prepared.open(Folders(root).prepared("films"))
    records = root / "records"
    with records.open("wb") as handle:
        samples = scan(prepared, handle, ShardOptions())
    task = ShardTask(
        folder=root,
        prepared=prepared.folder,
        records=records,
        places=np.stack([samples.first, samples.length], axis=1),
        stem="train-000000",
        start=0,
        access="open",
        kind="png",
        resume=False,
    )
    paths = sorted((prepared.folder / "images").iterdir())
    pictures = b"".join(path.read_bytes() for path in paths)
    return {
        # a folder each: to free the pages of a file that is replaced takes a tenth of the time
        "shard": lambda turn: build_shard(replace(task, folder=root / f"one-{turn}")),
        "read": lambda turn: [path.read_bytes() for path in paths],
        "sha256": lambda turn: hashlib.sha256(pictures),
    }


def bench_writing(root: Path, films: list[np.ndarray]) -> list[Row]:
    prepare(root, films)
    encode = {"encode": lambda turn: [encode_png(pixels) for pixels in films]}
    cpu = medians(encode | writing_work(root), time.process_time, 7)
    written = cpu["shard"] - cpu["read"] - cpu["sha256"]
    return [
        at_most("tar + BLAKE3 + re-read + index / PNG encoding", 0.30, written / cpu["encode"]),
        at_most("SHA256SUMS / PNG encoding", 0.10, cpu["sha256"] / cpu["encode"]),
    ]


def large_set(folder: Path) -> ShardSet:
    """Write the tables of a set of MIMIC-CXR's size, its shards as empty files of full size."""
    n, per = MIMIC, 2_048
    names = [f"train-{i:06d}-{blake3_hex(str(i).encode())[:12]}.tar" for i in range(-(-n // per))]
    values: dict[str, Any] = {}
    numbers = np.arange(n)
    hashes = blake3.blake3(b"x").digest(16 * n)
    for field in arrow_schema(SHARD_MANIFEST):
        if field.type == pa.binary(16):
            values[field.name] = pa.FixedSizeBinaryArray.from_buffers(
                field.type, n, [None, pa.py_buffer(hashes)]
            )
        elif pa.types.is_map(field.type):
            values[field.name] = pa.array([[("Edema", 1.0)]] * n, type=field.type)
        elif pa.types.is_string(field.type):
            values[field.name] = pa.array([f"s{i}" for i in range(n)])
        else:
            values[field.name] = pa.array(numbers % 200).cast(field.type)
    values |= {
        "split": pa.array(["train"] * n),
        "shard": pa.array([names[i // per] for i in range(n)]),
        "offset": pa.array(numbers % per * 34_000).cast(pa.uint64()),
    }
    write_table(folder / "manifest.parquet", SHARD_MANIFEST, pa.table(values))
    (folder / "shards").mkdir()
    rows = []
    for place, name in enumerate(names):
        with (folder / "shards" / name).open("wb") as handle:
            handle.truncate(70 << 20)
        count = min(per, n - place * per)
        row = {"name": name, "split": "train", "bytes": 70 << 20, "n_samples": count}
        rows.append(row | {"blake3": "0" * 64, "sha256": "0" * 64})
    write_table(folder / "shards.parquet", SHARDS, rows)
    card = {"schema_version": SCHEMA_VERSION, "dataset": "large", "access": "open", "samples": n}
    card["digest"] = dataset_digest(rows)
    write_json(
        folder / "dataset.json",
        card | {"files": {name: blake3_file(folder / name) for name in HASHED}},
    )
    return ShardSet.open(folder)


def bench_order(folder: Path) -> list[Row]:
    shards = large_set(folder)

    def resume(turn: int) -> None:
        opened = ShardSet.open(folder)
        ShardReader(opened)
        plan = EpochPlan(opened.rows("train"), seed=0, global_batch=256)
        plan.batch(7 * plan.steps_per_epoch + plan.steps_per_epoch // 2)

    wall = medians({"resume": resume}, time.perf_counter, 3)["resume"]
    codes, _ = shards.codes("shard")
    order = np.random.default_rng(0).permutation(shards.n)
    steps = range(300)

    def distinct(window: Window | None) -> float:
        plan = EpochPlan(shards.rows("train"), seed=0, global_batch=256, window=window)
        return float(np.mean([len(np.unique(codes[plan.batch(step)])) for step in steps]))

    true = np.mean([len(np.unique(codes[order[256 * i : 256 * i + 256]])) for i in steps])
    stem = "distinct shards a batch / true permutation"
    return [
        at_most("resume in the middle of 400,000 samples, seconds", 1.0, wall),
        *bench_columns(folder),
        at_least(stem, 0.99, distinct(None) / float(true)),
        at_least(f"{stem}, window:64", 0.3, distinct(Window(size=64, blocks=codes)) / float(true)),
    ]


def bench_columns(folder: Path) -> list[Row]:
    """In a process of its own, whose memory grows by nothing else; the best of three."""
    done = [
        subprocess.run(
            [sys.executable, "-c", COLUMNS, str(folder)], capture_output=True, text=True, check=True
        )
        for _ in range(3)
    ]
    seconds, megabytes = np.array([one.stdout.split() for one in done], dtype=float).min(axis=0)
    return [
        at_most("training columns of 400,000 samples, seconds", 0.1, float(seconds)),
        at_most("training columns of 400,000 samples, MB", 100, float(megabytes)),
    ]


def bench() -> list[Row]:
    films = [film(number) for number in range(FILMS)]
    pngs = [encode_png(pixels) for pixels in films]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare(root, films)
        report = write_shards(root, "films", ShardOptions(samples=PART))
        rows = bench_reading(ShardSet.open(report.path), pngs)
        rows += bench_writing(root / "full", films * 3)  # a shard nearly full
        (root / "large").mkdir()
        return rows + bench_order(root / "large")


if __name__ == "__main__":
    for row in bench():
        print(row)  # noqa: T201
