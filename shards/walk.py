"""A shard file looked at byte by byte: which of its samples are damaged, missing or surplus.

Nothing here trusts the tar library: it ends without a word at the first damaged header. Every
header is compared with the one the writer makes, every member with its hash.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ..files import blake3_hex
from .sample import (
    BLOCK,
    MEMBERS,
    SHORT_NAME,
    Member,
    facts_of,
    hash16,
    header_of,
    members_of,
    padded,
    prefix,
    sizes_of,
)

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: with a sample if `key` is not None, else with a whole file."""

    problem: Literal["damaged", "missing", "surplus", "displaced", "table"]
    file: str
    key: str | None
    detail: str

    def __str__(self) -> str:
        return f"{self.problem:<9} {self.key or '-'}  {self.file}  {self.detail}"


def hash12(shard: str) -> str:
    """Return the 12 hex digits of the hash that a shard's name ends with."""
    return shard.removesuffix(".tar").rpartition("-")[2]


def inspect_shard(
    path: Path, rows: Sequence[Row], known: Mapping[str, str], *, deep: bool
) -> list[Problem]:
    """Return every problem of a shard, given its manifest rows.

    `known` maps the hash12 of every shard of the set to its name, to recognize swapped files.
    `deep` also decodes the pictures and compares their pixels.
    """
    file = f"shards/{path.name}"
    if not path.is_file():
        whole = Problem(problem="missing", file=file, key=None, detail="the shard is missing")
        return [whole, *_all_missing(file, rows)]
    data = memoryview(path.read_bytes())
    digest = blake3_hex(data)[:12]
    if digest != hash12(path.name) and digest in known:
        detail = f"holds the bytes of {known[digest]}"
        whole = Problem(problem="damaged", file=file, key=None, detail=detail)
        return [whole, *_all_missing(file, rows)]
    problems: list[Problem] = []
    if digest != hash12(path.name):
        detail = f"the file of {len(data)} bytes no longer has its hash"
        problems.append(Problem(problem="damaged", file=file, key=None, detail=detail))
    shard = _Shard(file, data, rows)
    for row in rows:
        problems += shard.check(row, deep=deep)
    return problems if not problems and shard.is_full() else problems + shard.surplus()


def _all_missing(file: str, rows: Sequence[Row]) -> list[Problem]:
    detail = "its shard is not there"
    return [Problem(problem="missing", file=file, key=row["key"], detail=detail) for row in rows]


class _Shard:
    """The bytes of a shard and what its manifest rows say of them."""

    def __init__(self, file: str, data: memoryview, rows: Sequence[Row]) -> None:
        self.file, self.data, self.rows = file, data, rows
        self._found: dict[str, list[tuple[int, int]]] | None = None

    @property
    def found(self) -> dict[str, list[tuple[int, int]]]:
        """Data offset and size of every member in the file, by name; computed when needed."""
        if self._found is None:
            self._found = {}
            for name, offset, size in members_in(self.data):
                self._found.setdefault(name, []).append((offset, size))
        return self._found

    def check(self, row: Row, *, deep: bool) -> list[Problem]:
        """Return the problem of one sample, if any, as a list."""
        members = list(members_of(row["key"], sizes_of(row), row["offset"]))
        wrong = [fault for member in members if (fault := self._fault(member, row))]
        if not wrong:
            return self._check_content(row, members, deep=deep)
        if all(self._elsewhere(member, row) for member in members):
            return [self._problem("displaced", row, "whole, but not where the manifest says")]
        gone = all(member.header >= len(self.data) for member in members)
        return [self._problem("missing" if gone else "damaged", row, ", ".join(wrong))]

    def _problem(
        self, problem: Literal["damaged", "missing", "displaced", "table"], row: Row, detail: str
    ) -> Problem:
        return Problem(problem=problem, file=self.file, key=row["key"], detail=detail)

    def _fault(self, member: Member, row: Row) -> str | None:
        """Return what is wrong with a member where the manifest says it is."""
        if member.data + member.size > len(self.data):
            return f"{member.kind} cut off"
        if hash16(self.data[member.data : member.data + member.size]) != self._hash(member, row):
            return f"{member.kind} damaged"
        header = header_of(member.name, member.size)
        if self.data[member.header : member.data] != header:
            return f"{member.kind} header damaged"
        if _not_zero(self.data[member.data + member.size : member.end]):
            return f"{member.kind} padding damaged"
        return None

    @staticmethod
    def _hash(member: Member, row: Row) -> bytes:
        return bytes(row[f"{prefix(member.kind)}_blake3"])

    def _elsewhere(self, member: Member, row: Row) -> bool:
        """Tell whether the member lies whole at another place of the file."""
        return any(
            hash16(self.data[offset : offset + size]) == self._hash(member, row)
            for offset, size in self.found.get(member.name, [])
            if offset != member.data
        )

    def _check_content(self, row: Row, members: Sequence[Member], *, deep: bool) -> list[Problem]:
        """Compare the manifest row of an intact sample with its JSON, and its pixels if deep."""
        data = {m.kind: self.data[m.data : m.data + m.size] for m in members}
        facts = facts_of(json.loads(bytes(data["json"])))
        wrong = sorted(name for name, value in facts.items() if row[name] != value)
        for member in members:
            if row[f"{prefix(member.kind)}_off"] != member.data - row["offset"]:
                wrong.append(f"{prefix(member.kind)}_off")
        if wrong:
            return [self._problem("table", row, f"manifest row differs in {', '.join(wrong)}")]
        if deep and pixel_hash(data[row["codec"]])[:16] != row["pixel_blake3"]:
            return [self._problem("damaged", row, "the picture decodes to other pixels")]
        return []

    def is_full(self) -> bool:
        """Tell whether the spans of the rows cover the file from its start to its end blocks."""
        end = 0
        for row in self.rows:
            if row["offset"] != end:
                return False
            end += row["size"]
        return not _not_zero(self.data[end:])

    def surplus(self) -> list[Problem]:
        """Return the samples in the file that no row of it explains."""
        expected = {f"{row['key']}.{kind}" for row in self.rows for kind in MEMBERS}
        # where a long name's own header is damaged, the short form of it is read in its place
        shortened = {
            (member.name[:SHORT_NAME], member.data)
            for row in self.rows
            for member in members_of(row["key"], sizes_of(row), row["offset"])
            if len(member.name) > SHORT_NAME
        }
        extra: Counter[str] = Counter()
        for name, places in self.found.items():
            key = name.split(".", 1)[0]
            there = sum((name, data) not in shortened for data, _ in places)
            extra[key] = max(extra[key], there - (name in expected))
        return [
            Problem(problem="surplus", file=self.file, key=key, detail=f"{n} more than it should")
            for key, n in sorted(extra.items())
            if n
        ]


def _not_zero(data: memoryview) -> bool:
    return bool(bytes(data).strip(b"\0"))


def pixel_hash(png: bytes | memoryview) -> bytes:
    """Return the BLAKE3 of a PNG's decoded pixels in row order; empty if it does not decode."""
    try:
        pixels = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return b""
    return b"" if pixels is None else bytes.fromhex(blake3_hex(pixels.tobytes()))


def members_in(data: memoryview) -> Iterator[tuple[str, int, int]]:
    """Yield name, data offset and size of every tar member, going on behind damaged headers."""
    place, long_name = 0, ""
    while place + BLOCK <= len(data):
        try:
            info = tarfile.TarInfo.frombuf(bytes(data[place : place + BLOCK]), "utf-8", "replace")
        except tarfile.HeaderError:
            place += BLOCK
            continue
        place += BLOCK
        if info.type == tarfile.XHDTYPE:  # before a long name
            record = bytes(data[place : place + info.size])
            long_name = record.partition(b"path=")[2].partition(b"\n")[0].decode("utf-8", "replace")
        else:
            yield long_name or info.name, place, info.size
            long_name = ""
        place += padded(info.size)
