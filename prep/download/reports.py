"""Where reports lie: a folder of text files, or a zip of them that is read in place."""

from __future__ import annotations

import functools
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...contract import InputError, Reject
from .tree import Tree, scan

LARGEST = 64 * 1024  # bytes of a report; real ones stay under 10 kB


@dataclass(frozen=True, kw_only=True)
class ReportPlace:
    """A folder or a zip file with one text a report, found by name."""

    path: Path
    zipped: bool

    def read(self, name: str) -> bytes:
        """Return a report's bytes; Reject when it is gone, damaged or over 64 kB."""
        return _read_member(self.path, name) if self.zipped else _read_file(self.path / name)

    def mark(self, name: str) -> int | None:
        """Return what changes with a report: its size, in a zip its CRC-32; None without it."""
        try:
            if self.zipped:
                return _archive(self.path).getinfo(name).CRC
            return (self.path / name).stat().st_size
        except (OSError, KeyError):
            return None


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(LARGEST + 1)
    except FileNotFoundError:
        raise Reject("report_missing") from None
    except OSError:
        raise Reject("report_unreadable") from None
    return _checked(data)


def _read_member(path: Path, name: str) -> bytes:
    try:
        with _archive(path).open(name) as member:
            data = member.read(LARGEST + 1)
    except KeyError:
        raise Reject("report_missing") from None
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, EOFError):
        raise Reject("report_unreadable") from None
    return _checked(data)


def _checked(data: bytes) -> bytes:
    if len(data) > LARGEST:
        raise Reject("report_unreadable", "over 64 kB")
    return data


@functools.lru_cache(maxsize=4)
def _archive(path: Path) -> zipfile.ZipFile:
    """Open a zip once a process: its directory of 227,835 names takes seconds to read."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        raise InputError(
            "not readable as a zip file", where=str(path), todo="download it again"
        ) from None


def close_archives() -> None:
    """Close the zip files that this process holds open."""
    _archive.cache_clear()


def find_reports(tree: Tree, given: Path | None, name: str, zip_name: str) -> Reports:
    """Find the reports in a zip, in another folder, or in the archive's own tree.

    `name` is the pattern of a report's file name, with its id as the first group. A zip is
    preferred to single files where both are there, since it is read faster.
    """
    if given is not None and not given.exists():
        raise InputError("reports not found", where=str(given))
    if given is not None and given.is_file():
        return _in_zip(given, name)
    if given is not None:
        tree = scan(given)
    packed = tree.find(re.escape(zip_name))
    return _in_zip(packed, name) if packed else _in_tree(tree, name)


@dataclass(frozen=True, kw_only=True)
class Reports:
    """The reports that are there: their place, and the name of each by its id."""

    place: ReportPlace
    names: dict[str, str]
    tree: Tree | None

    def __bool__(self) -> bool:
        return bool(self.names)


def _in_zip(path: Path, pattern: str) -> Reports:
    names = _by_id(iter(sorted(_archive(path).namelist())), pattern)
    return Reports(place=ReportPlace(path=path, zipped=True), names=names, tree=None)


def _in_tree(tree: Tree, pattern: str) -> Reports:
    inside = (path for path, entry in sorted(tree.entries.items()) if not entry.outside)
    place = ReportPlace(path=tree.root, zipped=False)
    return Reports(place=place, names=_by_id(inside, pattern), tree=tree)


def _by_id(paths: Iterator[str], pattern: str) -> dict[str, str]:
    """Return the first path of each report id."""
    found: dict[str, str] = {}
    for path in paths:
        if match := re.fullmatch(pattern, path.rpartition("/")[2]):
            found.setdefault(match[1], path)
    return found
