"""A shard set at an address: its tables fetched and checked first, its shards when they are read.

    data/cache/addresses/<hash>.json     which data set an address held when it was last reached
    data/cache/<digest>/dataset.json  manifest.parquet  shards.parquet  shards/  locks/

The tables are kept, so a set that is here as a whole can be read without a network.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...contract import InputError
from ...files import (
    PARTIAL,
    atomic,
    blake3_file,
    blake3_hex,
    read_json,
    read_rows,
    set_private,
    write_json,
)
from ...schema import SHARDS
from ..manifest import HASHED, ShardSet, check_digest, check_tables, read_card
from ..order import Ordinals
from .prefetch import Prefetch
from .shardcache import ShardCache, locked
from .transfer import Undelivered, check_address, fetch

CACHE = Path("data/cache")  # below the root
CARD_BYTES = 64 << 20  # a card holds no rows
TABLE_BYTES = 4 << 30
KEYS_SHOWN = 3
CHANGED = "the set there may have been written anew: call this again to read the new one"


class RemoteShardSet(ShardSet):
    """A shard set whose shards are fetched, verified and kept when they are first read.

    `folder` holds its tables, and what is derived from the set. Reading raises InputError, with
    the keys concerned, when a shard is not at its address as shards.parquet knows it.
    """

    keeps_open = False  # an open shard is in use, and what is in use cannot make room

    def __init__(
        self, folder: Path, card: Mapping[str, Any], *, address: str, cache: ShardCache
    ) -> None:
        super().__init__(folder, card)
        self.address, self.cache = address, cache
        rows = read_rows(folder / "shards.parquet", SHARDS)
        self._facts = {row["name"]: row for row in rows}
        self._code_of, self._names = self.codes("shard")
        largest = max(row["bytes"] for row in rows)
        self._prefetch = Prefetch(self._fetch, largest=largest, limit=cache.limit)

    def open_shard(self, name: str) -> int:
        """Return a descriptor of a shard, fetched if it is not here; close it after reading."""
        handle = self._open(name)
        self._prefetch.opened(name)
        return handle

    def expect(self, ordinals: Ordinals) -> None:
        """Fetch the shards of samples in their order, some in advance of the one that is read."""
        codes = dict.fromkeys(self._code_of[ordinals].tolist())
        names = (self._names[code] for code in codes)
        self._prefetch.expect([name for name in names if not self._path(name).exists()])

    def doubt(self, name: str) -> None:
        """Remove a shard from the cache if it was damaged there, so that it is fetched anew."""
        self.cache.drop_unless(self._path(name), lambda path: not self._fault(path, name))

    def _path(self, name: str) -> Path:
        return self.folder / "shards" / name

    def _open(self, name: str) -> int:
        if name not in self._facts:
            raise InputError("a shard is not in shards.parquet", where=f"{self.address}, {name}")
        path, size = self._path(name), self._facts[name]["bytes"]
        try:
            return self.cache.open(path, size, lambda partial: self._bring(name, partial))
        except OSError:
            raise InputError(
                "the shard cache cannot be used",
                where=str(self.cache.folder),
                todo="see whether there is room, and whether this user may write there",
            ) from None

    def _fetch(self, name: str) -> None:
        os.close(self._open(name))

    def _bring(self, name: str, partial: Path) -> None:
        """Fetch a shard, once more if it did not arrive as it should."""
        fault = ""
        for _ in range(2):
            try:
                most = self._facts[name]["bytes"]
                fetch(f"{self.address}/shards/{name}", partial, most=most)
            except Undelivered as lost:
                raise self._lost(name, lost.why) from None
            fault = self._fault(partial, name)
            if not fault:
                return
        raise self._lost(name, fault)

    def _fault(self, path: Path, name: str) -> str:
        wanted = self._facts[name]
        try:
            size, found = path.stat().st_size, blake3_file(path)
        except OSError:
            return "cannot be read"
        if size != wanted["bytes"]:
            return f"has {size} bytes instead of {wanted['bytes']}"
        return "" if found == wanted["blake3"] else "no longer has its hash"

    def _lost(self, name: str, why: str) -> InputError:
        keys = self.column("key")
        mine = [keys[i] for i in (self._code_of == self._names.index(name)).nonzero()[0]]
        more = f" and {len(mine) - KEYS_SHOWN} more" if len(mine) > KEYS_SHOWN else ""
        shown = f"keys {', '.join(mine[:KEYS_SHOWN])}{more}"
        return InputError(
            f"a shard {why}", where=f"{self.address}/shards/{name}; {shown}", todo=CHANGED
        )


def open_remote(
    root: Path, address: str, *, cache_bytes: int | None = None, quiet: bool = False
) -> RemoteShardSet:
    """Open the shard set at an address, such as https://host/folder, after checking its tables.

    An address that cannot be reached is opened from what is kept of it below `root`, if anything.
    Raises UsageError for an address that cannot be, InputError when there is no shard set or a
    table is not the one that the card names.
    """
    address = check_address(address)
    cache = root / CACHE
    known = cache / "addresses" / f"{blake3_hex(address.encode())[:32]}.json"
    with locked(cache / ".tables"):
        try:
            folder = _fetch_tables(cache, address)
            write_json(known, {"digest": folder.name})
        except Undelivered as lost:
            where = f"{address}/dataset.json"
            if lost.answered or not known.is_file():
                raise InputError(f"the shard set's card {lost.why}", where=where) from None
            folder = cache / read_json(known)["digest"]
            if not quiet:
                sys.stderr.write(f"{address} {lost.why}: going on with what is kept of it\n")
    card = _checked(folder)
    return RemoteShardSet(folder, card, address=address, cache=ShardCache(cache, cache_bytes))


def open_kept(root: Path, digest: str) -> ShardSet:
    """Open the tables that are kept of a remote set; its shards cannot be read.

    Raises InputError when they are not there.
    """
    folder = root / CACHE / digest
    return ShardSet(folder, _checked(folder))


def _checked(folder: Path) -> dict[str, Any]:
    card = read_card(folder)
    set_private(card["access"])
    check_tables(folder, card)
    check_digest(folder, read_rows(folder / "shards.parquet", SHARDS), card)
    return card


def _fetch_tables(cache: Path, address: str) -> Path:
    """Bring card and tables to the folder of their digest, the card last; return the folder.

    Raises Undelivered when the card is not to be had, InputError for all else.
    """
    partial = cache / f"{PARTIAL}dataset.json"
    partial.touch(mode=0o600)
    try:
        fetch(f"{address}/dataset.json", partial, most=CARD_BYTES)
        card = _card(partial, address)
        folder: Path = cache / card["digest"]
        set_private(card["access"])
        for name in HASHED:
            _fetch_table(f"{address}/{name}", folder / name, card["files"][name])
        _check_names(folder, address)
        partial.replace(folder / "dataset.json")
    finally:
        partial.unlink(missing_ok=True)
    return folder


def _fetch_table(address: str, path: Path, wanted: str) -> None:
    if path.is_file() and blake3_file(path) == wanted:
        return
    with atomic(path) as partial:
        try:
            fetch(address, partial, most=TABLE_BYTES)
        except Undelivered as lost:
            raise InputError(f"a table {lost.why}", where=address) from None
        if blake3_file(partial) != wanted:
            raise InputError(
                "a table is not the one that the card names", where=address, todo=CHANGED
            )


def _card(path: Path, address: str) -> dict[str, Any]:
    """Return a card from elsewhere; its digest becomes the name of a folder here."""
    with contextlib.suppress(InputError, KeyError, TypeError):
        card = read_json(path)
        known = card["access"] in ("open", "credentialed") and all(
            re.fullmatch(r"[0-9a-f]{64}", text)
            for text in (card["digest"], *(card["files"][name] for name in HASHED))
        )
        if known:
            return card
    raise InputError(
        "not the card of a shard set",
        where=f"{address}/dataset.json",
        todo="give the folder that holds it",
    )


def _check_names(folder: Path, address: str) -> None:
    """Raise InputError when a shard's name could lead out of the cache."""
    names = [row["name"] for row in read_rows(folder / "shards.parquet", SHARDS)]
    if not names or not all(re.fullmatch(r"[A-Za-z0-9][\w.-]*\.tar", name) for name in names):
        raise InputError("the name of a shard is not one", where=f"{address}/shards.parquet")
