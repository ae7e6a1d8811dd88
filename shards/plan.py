"""Which samples go into which shard, decided before any shard is written.

The plan is a function of the prepared set, the options and the sizes of its files alone, so the
shards do not depend on the number of workers, on their order or on interruptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..contract import MANIFEST, SCHEMA_VERSION, SPLITS, Access, InputError, UsageError
from ..files import blake3_file, canonical_json, digest_of, read_json, read_table
from .order import permutation
from .sample import document_of, span_size

RECORD = 10_240  # bytes a tar file is padded to
END = 1_024  # two zero blocks end a tar file
BATCH = 4_096  # rows of the prepared manifest held as Python objects at a time


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How samples are put into shards.

    A shard holds at most `samples` samples and `bytes` bytes; a single sample larger than that
    has a shard of its own. `seed` draws the order in which samples fill the shards.
    """

    samples: int = 2_048
    bytes: int = 256 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.bytes < 1:
            raise UsageError("a shard holds at least one sample and one byte")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A finished prepared set; `digest` changes with its manifest or its card."""

    folder: Path
    card: Mapping[str, Any]
    access: Access
    digest: str

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Read the card and hash the manifest; InputError unless the set is finished."""
        todo = "prepare it first: imitate prep --help lists the archives"
        for name in ("card.json", "manifest.parquet"):
            if not (folder / name).is_file():
                raise InputError("not a finished prepared set", where=str(folder / name), todo=todo)
        card = read_json(folder / "card.json")
        if card.get("access") not in ("open", "credentialed"):
            raise InputError(
                "the card does not say whether access is open or credentialed",
                where=str(folder / "card.json"),
                todo=todo,
            )
        stable = {name: value for name, value in card.items() if name != "run"}
        digest = digest_of([SCHEMA_VERSION, stable, blake3_file(folder / "manifest.parquet")])
        return cls(folder=folder, card=card, access=cast(Access, card["access"]), digest=digest)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the manifest, holding a few thousand at a time.

        Raises InputError for a manifest that is damaged or whose rows cannot be trusted.
        """
        path = self.folder / "manifest.parquet"
        keys = read_table(path, MANIFEST, ["key"]).column("key")
        if len(keys.unique()) != len(keys):
            raise InputError("two samples have the same key", where=str(path))
        maps = [field.name for field in MANIFEST.fields if field.type.startswith("map<")]
        try:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(BATCH, columns=list(MANIFEST.names)):
                    for row in batch.to_pylist():
                        row.update({name: dict(row[name]) for name in maps})
                        yield _trusted(row)
        except (pa.ArrowException, OSError, KeyError):
            raise InputError("manifest table is not readable", where=str(path)) from None


def _trusted(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose key, split and paths can name files and tar members."""
    paths = [PurePosixPath(row[name] or "x") for name in ("image", "mask")]
    good = (
        re.fullmatch(r"[A-Za-z0-9_-]{1,240}", row["key"])
        and row["split"] in SPLITS
        and all(re.fullmatch(r"[0-9a-f]{64}", row[n]) for n in ("png_blake3", "pixel_blake3"))
        and not any(path.is_absolute() or ".." in path.parts for path in paths)
    )
    if not good:
        raise InputError(
            "the key, split, path or hash of a sample is not one that prep writes",
            where=f"manifest.parquet, image {row['image']!r}",
        )
    return row


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every sample of a prepared set, in the order of its manifest, as the plan sees it.

    `split` is an index into SPLITS, `size` the bytes of the sample's span in a shard, `first` and
    `length` say where its record lies in the file of records.  # all [n]
    """

    split: NDArray[np.int64]
    size: NDArray[np.int64]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    has_text: bool


def scan(prepared: Prepared, records: BinaryIO | None) -> Samples:
    """Read the prepared manifest once and return what the plan needs to know of each sample.

    The record of a sample, all that a shard needs beside the picture, goes to the file `records`,
    so that neither this process nor the tasks hold the texts of a whole archive.
    """
    columns: list[tuple[int, int, int, int]] = []
    has_text, place = False, 0
    for row in prepared.rows():
        document = document_of(row)
        record = document + canonical_json([row[name] for name in RECORD_FIELDS])
        if records is not None:
            records.write(record)
        sizes = {"json": len(document)} | {
            kind: _size(prepared.folder / row[name])
            for kind, name in (("mask.png", "mask"), ("png", "image"))
            if row[name] is not None
        }
        size = span_size(row["key"], sizes)
        columns.append((SPLITS.index(row["split"]), size, place, len(record)))
        place += len(record)
        has_text = has_text or bool(row["findings"] or row["impression"])
    if not columns:
        raise InputError("the prepared set has no samples", where=str(prepared.folder))
    split, sizes_n, first, length = np.array(columns, dtype=np.int64).T.copy()
    return Samples(split=split, size=sizes_n, first=first, length=length, has_text=has_text)


RECORD_FIELDS = ("image", "mask", "png_blake3", "pixel_blake3")  # of a record's second line


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
    """Return every shard: per split, a seeded permutation fills one after the other."""
    plans: list[ShardPlan] = []
    start = 0
    for code, split in enumerate(SPLITS):
        rows = np.flatnonzero(samples.split == code)
        purpose = f"shard order {split}"
        order = rows[permutation(len(rows), purpose=purpose, seed=options.seed, epoch=0)]
        for number, (first, last) in enumerate(_cuts(samples.size[order].tolist(), options)):
            taken = order[first:last]
            plan = ShardPlan(
                stem=f"{split}-{number:06d}",
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


def _cuts(sizes: Sequence[int], options: ShardOptions) -> Iterator[tuple[int, int]]:
    """Yield first and last (excluded) place of every shard, filled as far as the limits allow."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        full = place - first == options.samples or tar_size(total + size) > options.bytes
        if full and place > first:
            yield first, place
            first, total = place, 0
        total += size
    if len(sizes):
        yield first, len(sizes)
