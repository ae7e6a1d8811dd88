"""The SHA256SUMS that lie in an archive, as PhysioNet publishes them: `hash  path` a line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError, Reject
from ...files import blake3_file, digest_of
from .tree import scan

NAME = re.compile(r"SHA256SUMS(\.txt)?")
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
TABLE = re.compile(r"\.(csv|tsv|json|parquet)(\.gz)?$|\.(zip|tgz|tar\.gz)$")


@dataclass(frozen=True, kw_only=True)
class Checksums:
    """SHA-256 of files by their path below the folder that was looked through; `lists` said so."""

    expected: Mapping[str, str]
    lists: tuple[Path, ...]
    tables: int

    def digest(self) -> str:
        """Return what changes with the lists."""
        return digest_of(sorted(blake3_file(path) for path in self.lists))

    def facts(self, used: Sequence[str]) -> dict[str, Any]:
        """Return what the card says: how many of the files that are `used` the lists name."""
        named = sum(name in self.expected for name in used)
        return {
            "lists": sorted(path.name for path in self.lists),
            "files_named": named,
            "files_not_named": len(used) - named,
            "tables_verified": self.tables,
        }


def read_checksums(folders: Sequence[Path]) -> Checksums:
    """Read every SHA256SUMS at any depth below the folders, and compare the tables they name.

    A list counts paths from the folder in which it lies; of two lists the deeper one decides.
    Raises InputError when there is no list, when one is damaged, and naming each table that
    differs. Pictures and reports are compared when they are read.
    """
    expected: dict[str, str] = {}
    lists: list[Path] = []
    tables: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        tree = scan(folder)
        own: dict[str, str] = {}
        found = [path for path, entry in tree.entries.items() if NAME.fullmatch(entry.name)]
        for path in sorted(found, key=lambda path: (path.count("/"), path)):
            lists.append(folder / path)
            below = path[: len(path) - len(path.rpartition("/")[2])]
            for name, sha256 in _lines(folder / path):
                own[below + name] = sha256
        for name in own.keys() & tree.entries.keys():
            if TABLE.search(name):
                tables[folder / name] = own[name]
        expected |= own
    if not lists:
        raise InputError(
            "no SHA256SUMS",
            where=", ".join(map(str, folders)),
            todo="download it into the archive's folder, or leave --checksums out",
        )
    _check_tables(tables)
    return Checksums(expected=expected, lists=tuple(lists), tables=len(tables))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        match = LINE.fullmatch(line)
        if line.strip() and match is None:
            raise InputError(
                "not a list of SHA-256 and paths",
                where=f"{path}, line {number}",
                todo="download it again",
            )
        if match:
            yield match[2], match[1].lower()


def _check_tables(tables: Mapping[Path, str]) -> None:
    wrong = [str(path) for path, sha256 in sorted(tables.items()) if sha256_file(path) != sha256]
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(tables)} tables differ from SHA256SUMS",
            where=", ".join(wrong),
            todo="download them again",
        )


def verify(path: Path, sha256: str | None) -> None:
    """Reject a file whose SHA-256 is another; one that cannot be opened is left to its reader."""
    if sha256 is None:
        return
    try:
        differs = sha256_file(path) != sha256
    except OSError:
        return
    if differs:
        raise Reject("checksum_mismatch")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
