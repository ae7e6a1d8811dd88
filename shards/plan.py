"""Which samples go into which shard, decided before any shard is written.

The plan is a function of the prepared set, the options and the sizes of its files alone, so the
shards do not depend on the number of workers, on their order or on interruptions.

Every sample has a place of its own, 64 bits of a hash of its key. A split is one shard, or where
that is over a limit its halves by the next bit of the place, and so on. The samples of a shard are
a random draw from the split in random order; and one sample more or less changes the shard that
holds its place, cuts it in two or joins two, but no other shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import blake3
import numpy as np
from numpy.typing import NDArray

from ..contract import SPLITS, InputError, UsageError
from ..files import canonical_json
from .sample import document_of, span_size
from .source.prepared import Prepared

RECORD = 10_240  # bytes a tar file is padded to
END = 1_024  # two zero blocks end a tar file
BITS = 64  # of a place
DIGITS = 6  # of a shard's number, as long as they tell its range from all others


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How samples are put into shards.

    A shard holds at most `samples` samples and `bytes` bytes; a single sample larger than that
    has a shard of its own. `seed` draws the place of every sample. With the codec `jpeg` pictures
    are written as JPEG of quality 95, lossy and half as large; `bytes` still counts prep's PNGs.
    """

    samples: int = 2_048
    bytes: int = 256 << 20
    seed: int = 0
    codec: str = "png"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.bytes < 1:
            raise UsageError("a shard holds at least one sample and one byte")
        if self.codec not in ("png", "jpeg"):
            raise UsageError(f"--codec {self.codec!r} is neither png nor jpeg")

    @property
    def kind(self) -> str:
        """Ending of a picture's name in the tar."""
        return "jpg" if self.codec == "jpeg" else "png"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every sample of a prepared set, in the order of its manifest, as the plan sees it.

    `split` is an index into SPLITS, `place` the hash that decides the shard, `size` the bytes of
    the sample's span in a shard, `first` and `length` say where its record lies in the file of
    records.  # all [n]
    """

    split: NDArray[np.int64]
    place: NDArray[np.uint64]
    size: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    has_text: bool


def scan(prepared: Prepared, records: BinaryIO | None, options: ShardOptions) -> Samples:
    """Read the prepared manifest once and return what the plan needs to know of each sample.

    The record of a sample, all that a shard needs beside the picture, goes to the file `records`,
    so that neither this process nor the tasks hold the texts of a whole archive.
    """
    columns: list[tuple[int, int, int, int]] = []
    places = bytearray()
    secret = blake3.blake3(canonical_json(["shard place", options.seed])).digest()
    has_text, start = False, 0
    for row in prepared.rows():
        if options.codec == "jpeg" and row["bits"] != 8:
            raise UsageError(
                "--codec jpeg holds 8 bits; these pictures have more",
                where=str(prepared.folder),
                todo="use --codec png, or prepare the set with --bits 8",
            )
        document = document_of(row)
        record = document + canonical_json([row[name] for name in RECORD_FIELDS])
        if records is not None:
            records.write(record)
        sizes = {"json": len(document)} | {
            kind: _size(prepared.folder / row[name])
            for kind, name in (("mask.png", "mask"), (options.kind, "image"))
            if row[name] is not None
        }
        size = span_size(row["key"], sizes)
        columns.append((SPLITS.index(row["split"]), size, start, len(record)))
        places += blake3.blake3(row["key"].encode(), key=secret).digest(8)
        start += len(record)
        has_text = has_text or bool(row["findings"] or row["impression"])
    if not columns:
        raise InputError("the prepared set has no samples", where=str(prepared.folder))
    split, sizes_n, first, length = np.array(columns, dtype=np.int64).T.copy()
    return Samples(
        split=split,
        place=np.frombuffer(places, dtype="<u8").astype(np.uint64),
        size=sizes_n,
        first=first,
        length=length,
        has_text=has_text,
    )


# of a record's second line
RECORD_FIELDS = ("image", "mask", "png_blake3", "mask_blake3", "pixel_blake3")


def _size(path: Path) -> int:
    """Return a file's size; a missing file plans as empty and is rejected when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to be: its name without the hash, its first ordinal, its samples in order."""

    stem: str
    split: str
    start: int
    rows: NDArray[np.int64]
    bytes: int


def plan_shards(samples: Samples, options: ShardOptions) -> list[ShardPlan]:
    """Return every shard: per split, the ranges of places that are within the limits.

    The number in a stem is the start of the shard's range in hex, so a shard keeps its stem when
    others come and go.
    """
    plans: list[ShardPlan] = []
    start = 0
    for code, split in enumerate(SPLITS):
        rows = np.flatnonzero(samples.split == code)
        order = rows[np.argsort(samples.place[rows], kind="stable")]
        for first, last, number in _ranges(samples.place[order], samples.size[order], options):
            taken = order[first:last]
            plan = ShardPlan(
                stem=f"{split}-{number}",
                split=split,
                start=start,
                rows=taken,
                bytes=tar_size(int(samples.size[taken].sum())),
            )
            plans.append(plan)
            start += len(taken)
    return plans


def tar_size(spans: int) -> int:
    """Return the bytes of a tar file that holds spans of this many bytes together."""
    return -(-(spans + END) // RECORD) * RECORD


def _ranges(
    places: NDArray[np.uint64], sizes: NDArray[np.int64], options: ShardOptions
) -> Iterator[tuple[int, int, str]]:
    """Yield first and last (excluded) sample of every shard, and the start of its range in hex.

    `places` ascend. A range over a limit is halved until both halves are within it.
    """
    total = np.concatenate([[0], np.cumsum(sizes)])
    waiting = [(0, len(places), 0, 0)]
    while waiting:
        first, last, depth, start = waiting.pop()
        within = tar_size(int(total[last] - total[first])) <= options.bytes
        if last - first <= 1 or depth == BITS or (within and last - first <= options.samples):
            if last > first:
                yield first, last, f"{start:016x}"[: max(DIGITS, -(-depth // 4))]
            continue
        half = start | 1 << (BITS - 1 - depth)
        middle = first + int(np.searchsorted(places[first:last], np.uint64(half)))
        waiting.append((middle, last, depth + 1, half))
        waiting.append((first, middle, depth + 1, start))
