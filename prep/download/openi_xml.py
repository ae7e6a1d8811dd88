"""The report XML of Open-i: texts, indexed terms and picture ids of a study."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ...contract import InputError

LARGEST = 1 << 20  # bytes of one report's XML; real ones stay under 20 kB


@dataclass(frozen=True, kw_only=True)
class Citation:
    """One report: study id, section texts by lower-case label, major terms, picture ids."""

    uid: str
    texts: Mapping[str, str]
    terms: Sequence[str]
    pictures: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A report that cannot be read, by its name below the archive."""

    name: str


def read_citations(packed: Path | None, loose: Mapping[str, Path]) -> Iterator[Citation | Damaged]:
    """Yield every report of a packed archive, or of single files by name, in the order of names.

    Raises InputError when the packed archive itself is damaged.
    """
    for name, data in sorted(_members(packed)) if packed else _files(loose):
        yield parse_citation(data) or Damaged(name=name)


def _files(paths: Mapping[str, Path]) -> Iterator[tuple[str, bytes]]:
    for name, path in sorted(paths.items()):
        with path.open("rb") as handle:
            yield name, handle.read(LARGEST + 1)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isreg() else None
                if handle is not None and member.name.endswith(".xml"):
                    yield member.name, handle.read(LARGEST + 1)
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        raise InputError(
            "not readable as a tar.gz of reports", where=str(path), todo="download it again"
        ) from None


def parse_citation(data: bytes) -> Citation | None:
    """Read one report's XML; None when it is not one.

    A file over 1 MiB, or one that declares entities, is refused unread: reports do neither.
    """
    if len(data) > LARGEST or b"<!" in data.replace(b"<!--", b""):
        return None
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    identity = root.find("uId")
    uid = (identity.get("id") or "") if identity is not None else ""
    if not uid:
        return None
    texts = {
        (part.get("Label") or "").lower(): (part.text or "").strip()
        for part in root.iter("AbstractText")
    }
    return Citation(
        uid=uid.removeprefix("CXR"),
        texts=texts,
        terms=[(term.text or "").strip() for term in root.iter("major")],
        pictures=[picture.get("id") or "" for picture in root.iter("parentImage")],
    )
