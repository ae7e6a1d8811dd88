"""A finished shard set: its card, its tables and its identity, committed last and opened checked.

Until the card is written, an earlier set in the same folder stays whole: shards are named by their
content and removed only when no table names them any more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..contract import Access, InputError
from ..files import (
    blake3_file,
    digest_of,
    read_json,
    read_rows,
    read_table,
    write_json,
    write_table,
    write_text,
)
from ..schema import REJECTS, SCHEMA_VERSION, SHARD_MANIFEST, SHARDS
from ..work import command_line
from .order import Ordinals
from .shard import ShardResult

TODO = "imitate verify names what is wrong; imitate shard writes the set again"
REPETITIVE = ("dataset", "split", "shard", "codec", "view")  # text columns of few values
HASHED = ("manifest.parquet", "shards.parquet")  # tables whose hash the card holds


def dataset_digest(shards: Iterable[Mapping[str, Any]]) -> str:
    """Return the identity of a shard set: a digest over the hash of every shard in order.

    The shards hold all that the tables hold, so the identity covers it; the bytes of the tables,
    which also depend on the version of the Parquet library, are hashed apart in the card.
    """
    names = ("name", "split", "bytes", "n_samples", "blake3")
    return digest_of([SCHEMA_VERSION, [[shard[name] for name in names] for shard in shards]])


class ShardSet:
    """The manifest of a shard set, its columns loaded when they are first asked for.

    A sample is named by its ordinal, its row in the manifest. `digest` is the identity of the
    data, `card` the content of dataset.json, `n` the number of samples.
    """

    keeps_open = True  # a reader may keep the descriptors of shards

    def __init__(self, folder: Path, card: Mapping[str, Any]) -> None:
        self.folder = folder
        self.card = card
        self.name: str = card["dataset"]
        self.digest: str = card["digest"]
        self.access: Access = card["access"]
        self.n: int = card["samples"]
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> ShardSet:
        """Open a finished shard set after checking its card, its tables and its shards' sizes.

        Raises InputError when the set is unfinished, when a table or the digest is not the one
        that the card names, or when a shard is missing or cut.
        """
        card = read_card(folder)
        try:
            check_tables(folder, card)
            check_shards(folder, read_rows(folder / "shards.parquet", SHARDS), card)
            return cls(folder, card)
        except KeyError:
            where = str(folder / "dataset.json")
            raise InputError("a field of the card is missing", where=where, todo=TODO) from None

    def open_shard(self, name: str) -> int:
        """Return a descriptor of a shard's file."""
        return os.open(self.folder / "shards" / name, os.O_RDONLY)

    def expect(self, ordinals: Ordinals) -> None:
        """Take note of samples that will soon be read, in this order: here they are all there."""

    def doubt(self, name: str) -> None:
        """Take note that a shard did not read as it should: here there is no other copy."""

    def rows(self, split: str) -> Ordinals:
        """Return the ordinals of a split (train, validate or test), ascending."""
        return np.flatnonzero(pc.equal(self._arrow("split"), split).to_numpy()).astype(np.int64)

    def column(self, name: str) -> NDArray[Any] | list[Any]:
        """Return a column of contract.SHARD_MANIFEST, one value a sample in order of ordinals.

        Numbers come as an array, with -1 for null; hashes as uint8 [n, 16], zero for null; texts
        and maps as a list.
        """
        values = self._arrow(name)
        if pa.types.is_fixed_size_binary(values.type):
            return _bytes_of(values).reshape(-1, 16)
        if pa.types.is_integer(values.type) and values.null_count:
            return np.asarray(values.cast(pa.int64()).fill_null(-1).to_numpy())
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            return np.asarray(values.to_numpy())
        listed: list[Any] = values.to_pylist()
        return [dict(v) for v in listed] if pa.types.is_map(values.type) else listed

    def codes(self, name: str) -> tuple[Ordinals, list[str]]:
        """Return a text column as codes and their meaning: value i is names[codes[i]]."""
        values = self._arrow(name).combine_chunks()
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        codes: Ordinals = values.indices.to_numpy().astype(np.int64)
        return codes, values.dictionary.to_pylist()

    def _arrow(self, name: str) -> pa.ChunkedArray:
        with self._lock:
            if name not in self._columns:
                few = [name] if name in REPETITIVE else []
                table = read_table(
                    self.folder / "manifest.parquet", SHARD_MANIFEST, [name], repetitive=few
                )
                self._columns[name] = table.column(name)
            return self._columns[name]


def _bytes_of(values: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return the bytes of a fixed-size binary column in a row, zeros for null."""
    if values.null_count:
        values = pc.fill_null(values, pa.scalar(bytes(16), values.type))
    filled = values.combine_chunks()
    start = filled.offset * 16
    data = np.frombuffer(filled.buffers()[1], dtype=np.uint8)
    return data[start : start + len(filled) * 16]


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a finished shard set; InputError when there is none of this version."""
    path = folder / "dataset.json"
    if not path.is_file():
        raise InputError(
            "not a finished shard set", where=str(path), todo="write it with: imitate shard"
        )
    card = read_json(path)
    if card.get("schema_version") != SCHEMA_VERSION:
        raise InputError("written by another version of imitate", where=str(path), todo=TODO)
    return card


def check_tables(folder: Path, card: Mapping[str, Any]) -> None:
    """Raise InputError when a table is missing or is not the one that the card names."""
    for name in HASHED:
        path = folder / name
        if not path.is_file():
            raise InputError("a table is missing", where=str(path), todo=TODO)
        if blake3_file(path) != card["files"][name]:
            raise InputError("a table is not the one the card names", where=str(path), todo=TODO)


def check_digest(
    folder: Path, shards: Iterable[Mapping[str, Any]], card: Mapping[str, Any]
) -> None:
    """Raise InputError when the digest of the card is not that of the shards' table."""
    if dataset_digest(shards) != card["digest"]:
        raise InputError(
            "the digest is not that of the shards", where=str(folder / "dataset.json"), todo=TODO
        )


def check_shards(
    folder: Path, shards: Iterable[Mapping[str, Any]], card: Mapping[str, Any]
) -> None:
    """Raise InputError when the digest differs or a shard is missing or has another size."""
    shards = list(shards)
    check_digest(folder, shards, card)
    for shard in shards:
        path = folder / "shards" / shard["name"]
        if not path.is_file():
            raise InputError("a shard is missing", where=str(path), todo=TODO)
        if path.stat().st_size != shard["bytes"]:
            raise InputError(
                f"a shard has {path.stat().st_size} bytes instead of {shard['bytes']}",
                where=str(path),
                todo=TODO,
            )


def commit(
    folder: Path,
    card: dict[str, Any],
    results: Sequence[ShardResult],
    run: Mapping[str, Any],
) -> None:
    """Write tables and card, in this order, and remove what no longer belongs to the set.

    `card` holds all that the tables do not decide, `run` what may differ between two runs.
    """
    shards: list[dict[str, Any]] = [
        {
            "name": result.name,
            "split": result.stem.rpartition("-")[0],
            "bytes": result.bytes,
            "n_samples": result.samples,
            "blake3": result.blake3,
            "sha256": result.sha256,
        }
        for result in results
        if result.name
    ]
    manifest = _manifest(folder, [result.stem for result in results])
    write_table(folder / "manifest.parquet", SHARD_MANIFEST, manifest)
    write_table(folder / "shards.parquet", SHARDS, shards)
    write_table(folder / "rejects.parquet", REJECTS, [r for s in results for r in s.rejects])
    write_text(folder / "SHA256SUMS", sha256sums(shards))
    splits = Counter(manifest.column("split").to_pylist())
    card |= {
        "digest": dataset_digest(shards),
        "splits": dict(splits),
        "files": {name: blake3_file(folder / name) for name in HASHED},
        "run": {"command": command_line(), "finished": time.strftime("%FT%TZ", time.gmtime())},
    }
    card["run"] |= run
    _forget_caches(folder, card["digest"])
    write_json(folder / "dataset.json", card)
    _remove_others(folder / "shards", {shard["name"] for shard in shards})
    _remove_others(folder / "index", {f"{result.stem}.parquet" for result in results})


def sha256sums(shards: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of SHA256SUMS, which `sha256sum -c` reads in the set's folder."""
    return "".join(f"{shard['sha256']}  shards/{shard['name']}\n" for shard in shards)


def _manifest(folder: Path, stems: Sequence[str]) -> pa.Table:
    """Return all index files together, after damaged samples have given up their ordinals."""
    tables: list[pa.Table] = []
    start = 0
    for stem in stems:
        path = folder / "index" / f"{stem}.parquet"
        table = read_table(path, SHARD_MANIFEST)
        ordinals = pa.array(np.arange(start, start + len(table)), type=pa.uint32())
        if table.column("ordinal").combine_chunks() != ordinals:
            table = table.set_column(0, table.schema.field("ordinal"), ordinals)
            write_table(path, SHARD_MANIFEST, table)
        tables.append(table)
        start += len(table)
    return pa.concat_tables(tables)


def _forget_caches(folder: Path, digest: str) -> None:
    """Remove cached text embeddings and pixels of another content of the set."""
    with contextlib.suppress(InputError):
        if read_json(folder / "dataset.json").get("digest") == digest:
            return
    for name in ("text", "pixels"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
