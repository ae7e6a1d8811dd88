"""One shard: written, read back, committed, or found to be committed already.

A shard is committed by its index file, which is written after the tar is synced and renamed. A
rerun trusts an index only if its rows are those that the prepared set asks for and the tar still
has the hash in its name.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import blake3
import numpy as np
from numpy.typing import NDArray

from ..contract import Access, InputError, Reject
from ..files import PARTIAL, blake3_hex, read_rows, set_private, sync_folder, write_table
from ..schema import SHARD_MANIFEST
from .sample import (
    facts_of,
    hash16,
    members_of,
    prefix,
    sizes_of,
    span_size,
    tar_format,
)
from .source.jpeg import picture_columns, to_jpeg

READ = 1 << 20  # bytes read, hashed or written at a time


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that one shard is made from; small, so that it travels to a worker cheaply.

    `places` are the first byte and the length of each sample's record.  # [samples, 2]
    """

    folder: Path
    prepared: Path
    records: Path
    places: NDArray[np.int64]
    stem: str
    start: int
    access: Access
    kind: str
    resume: bool

    @property
    def index(self) -> Path:
        """The shard's index file, its commit mark."""
        return self.folder / "index" / f"{self.stem}.parquet"


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """A committed shard and the samples that were damaged; `name` is empty if all of them were.

    `kept` tells that an earlier run committed it and it is still whole.
    """

    stem: str
    name: str
    bytes: int
    samples: int
    blake3: str
    sha256: str
    rejects: tuple[Mapping[str, Any], ...]
    kept: bool = False


class _Record(NamedTuple):
    """A sample as planned: its JSON as bytes and parsed, and prep's files with their hashes."""

    json: bytes
    document: Mapping[str, Any]
    image: str
    mask: str | None
    png_blake3: str
    mask_blake3: str | None
    pixel_blake3: str


def build_shard(task: ShardTask) -> ShardResult:
    """Commit one shard, unless an earlier run did; the function that Dask workers run."""
    set_private(task.access)
    records = list(_records(task))
    if task.resume and (done := _committed(task, records)):
        return done
    task.index.unlink(missing_ok=True)
    return _write(task, records)


def _records(task: ShardTask) -> Iterator[_Record]:
    with task.records.open("rb") as handle:
        for place, length in task.places.tolist():
            handle.seek(place)
            document, fields = handle.read(length).splitlines(keepends=True)
            yield _Record(document, json.loads(document), *json.loads(fields))


def _committed(task: ShardTask, records: Sequence[_Record]) -> ShardResult | None:
    """Return the result of an earlier run if its index and tar are what this run would write."""
    try:
        rows = read_rows(task.index, SHARD_MANIFEST)
        names = {row["shard"] for row in rows}
        if len(rows) != len(records) or len(names) != 1:
            return None
        if not all(_same(*pair, task) for pair in zip(rows, records, strict=True)):
            return None
        name = names.pop()
        hasher, sha = blake3.blake3(), hashlib.sha256()
        size = 0
        check_layout(task.folder / "shards" / name, rows)
        with (task.folder / "shards" / name).open("rb") as tar:
            while block := tar.read(READ):
                hasher.update(block)
                sha.update(block)
                size += len(block)
    except (InputError, OSError, Reject):
        return None
    if name != f"{task.stem}-{hasher.hexdigest()[:12]}.tar":
        return None
    return ShardResult(
        stem=task.stem,
        name=name,
        bytes=size,
        samples=len(rows),
        blake3=str(hasher.hexdigest()),
        sha256=sha.hexdigest(),
        rejects=(),
        kept=True,
    )


def _same(row: Mapping[str, Any], record: _Record, task: ShardTask) -> bool:
    """Tell whether an index row is the one that this record would give."""
    mask = (task.prepared / record.mask).read_bytes() if record.mask else None
    hashes = {"png_blake3": record.png_blake3, "pixel_blake3": record.pixel_blake3}
    picture = {name: bytes.fromhex(value)[:16] for name, value in hashes.items()}
    if task.kind == "jpg":
        picture = picture_columns(_read_members(task, record)["jpg"])
    return (
        row["codec"] == task.kind
        and picture.items() <= row.items()
        and row["json_blake3"] == hash16(record.json)
        and row["mask_blake3"] == (None if mask is None else hash16(mask))
        and facts_of(record.document).items() <= row.items()
        and _layout(row["key"], sizes_of(row), row["offset"]).items() <= row.items()
    )


def _write(task: ShardTask, records: Sequence[_Record]) -> ShardResult:
    folder = task.folder / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{PARTIAL}{os.getpid()}-{task.stem}.tar"
    try:
        with partial.open("wb") as handle:
            tar = _HashedFile(handle)
            rows, rejects = _write_samples(task, records, tar)
            tar.flush()
            os.fsync(handle.fileno())
        check_layout(partial, rows)
        digest = tar.blake3.hexdigest()
        name = f"{task.stem}-{digest[:12]}.tar" if rows else ""
        if rows:
            partial.replace(folder / name)
            sync_folder(folder)
    finally:
        partial.unlink(missing_ok=True)
    table = [row | {"shard": name, "ordinal": task.start + i} for i, row in enumerate(rows)]
    write_table(task.index, SHARD_MANIFEST, table)
    return ShardResult(
        stem=task.stem,
        name=name,
        bytes=tar.size,
        samples=len(rows),
        blake3=digest,
        sha256=tar.sha256.hexdigest(),
        rejects=tuple(rejects),
    )


class _HashedFile:
    """A binary file that hashes what is written to it, in blocks large enough to be cheap."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._waiting = handle, bytearray()
        self.blake3, self.sha256, self.size = blake3.blake3(), hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= READ:
            self.flush()

    def flush(self) -> None:
        self.blake3.update(self._waiting)
        self.sha256.update(self._waiting)
        self.size += len(self._waiting)
        self._handle.write(self._waiting)
        self._handle.flush()
        self._waiting.clear()


def _write_samples(
    task: ShardTask, records: Sequence[_Record], tar: _HashedFile
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write every sample that still has its hash; return the index rows and the rejects."""
    os.environ["WDS_SECURE"] = "1"  # refuse shell pipes and pickles, ours has neither
    import webdataset

    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    with webdataset.TarWriter(tar, encoder=False, mtime=0, user="", group="") as writer:
        # the writer's own argument for it has no effect; the bytes of short names are the same
        writer.tarstream.format = tar_format(record.document["key"] for record in records)
        for record in records:
            try:
                members = _read_members(task, record)
            except Reject as reject:
                rejects.append(_reject_row(record, reject))
                continue
            offset = writer.tarstream.offset
            writer.write({"__key__": record.document["key"], **members})
            rows.append(_row(record, members, offset) | {"codec": task.kind})
    return rows, rejects


def _read_members(task: ShardTask, record: _Record) -> dict[str, bytes]:
    """Return the files of a sample by member kind; Reject when one is not as prepared."""
    png = _read(f"{task.prepared}/{record.image}", "picture", record.png_blake3)
    members = {"json": record.json, task.kind: to_jpeg(png) if task.kind == "jpg" else png}
    if record.mask is not None:
        members["mask.png"] = _read(f"{task.prepared}/{record.mask}", "mask", record.mask_blake3)
    return members


def _read(path: str, what: str, blake3: str | None) -> bytes:
    """Return a file that must have this hash; a Path's own reading takes a third longer."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            data = os.read(handle, os.fstat(handle).st_size)
        finally:
            os.close(handle)
    except OSError:
        raise Reject("sample_damaged", f"the {what} is missing or unreadable") from None
    if blake3_hex(data) != blake3:
        raise Reject("sample_damaged", f"the {what} no longer has its hash")
    return data


def _row(record: _Record, members: Mapping[str, bytes], offset: int) -> dict[str, Any]:
    """Return the index row of a sample, all but the shard's name and the ordinal."""
    key = record.document["key"]
    sizes = {kind: len(data) for kind, data in members.items()}
    hashes = {"png": bytes.fromhex(record.png_blake3)[:16]}  # just compared with the picture
    row = facts_of(record.document) | {
        "pixel_blake3": bytes.fromhex(record.pixel_blake3)[:16],
        "mask_blake3": None,
    }
    for kind, data in members.items():
        name = prefix(kind)
        row[f"{name}_blake3"] = hashes.get(name) or hash16(data)
    if "jpg" in members:
        row |= picture_columns(members["jpg"])
    return row | _layout(key, sizes, offset)


def _layout(key: str, sizes: Mapping[str, int], offset: int) -> dict[str, Any]:
    """Return the columns that say where a sample's files lie."""
    row: dict[str, Any] = {"offset": offset, "size": span_size(key, sizes)}
    row |= dict.fromkeys(("mask_off", "mask_len"))  # the only member that may be missing
    for member in members_of(key, sizes, offset):
        row[f"{prefix(member.kind)}_off"] = member.data - offset
        row[f"{prefix(member.kind)}_len"] = member.size
    return row


def _reject_row(record: _Record, reject: Reject) -> dict[str, Any]:
    ids = {name: record.document[name] for name in ("source", "image_id", "study_id")}
    return ids | {"stage": "shard", "reason": reject.reason, "detail": reject.detail}


def check_layout(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Walk a tar with the standard library and compare names, places and sizes with its rows.

    Raises InputError when they differ, as on a disk that loses writes.
    """
    expected = [
        (member.name, member.data, member.size)
        for row in rows
        for member in members_of(row["key"], sizes_of(row), row["offset"])
    ]
    try:
        with (
            path.open("rb") as handle,
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data,
            tarfile.open(fileobj=data, mode="r:") as tar,
        ):
            found = [(info.name, info.offset_data, info.size) for info in tar]
    except (tarfile.TarError, OSError, ValueError):  # ValueError: an empty file cannot be mapped
        found = []
    if found != expected:
        raise InputError(
            "a shard does not read back as it was written",
            where=str(path),
            todo="check the disk, then run the same command again",
        )
