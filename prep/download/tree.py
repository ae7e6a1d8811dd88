"""The files below a folder as downloaded: their paths, sizes and links, and one digest of all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError
from ...files import blake3_file, digest_of

# `.dcm.png` and `.dcm.jpg` (pictures made from DICOM files) count as one ending
ENDING = re.compile(r"\.dcm\.gz$|(\.dcm)?\.(png|jpe?g)$|\.dcm$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a root: relative path, bytes, and whether it is a link that leaves the root."""

    path: str
    size: int
    outside: bool = False

    @property
    def name(self) -> str:
        """File name without its folders."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All files below `root` by relative path; `links` are linked folders, never entered."""

    root: Path
    entries: dict[str, Entry]
    links: tuple[str, ...] = ()

    def pictures(self) -> list[Entry]:
        """Return the files whose ending is a picture's, sorted by path."""
        return [entry for path, entry in sorted(self.entries.items()) if ENDING.search(path)]

    def find(self, pattern: str) -> Path | None:
        """Return the file whose name matches, the nearest to the root; newer names come first."""
        wanted = re.compile(pattern)
        entries = [entry for entry in self.entries.values() if not entry.outside]
        found = [entry.path for entry in entries if wanted.fullmatch(entry.name)]
        if not found:
            return None
        nearest = min(path.count("/") for path in found)
        return self.root / max(path for path in found if path.count("/") == nearest)

    def behind_link(self, path: str) -> bool:
        """Tell whether `path` lies in a linked folder, which was not entered."""
        return any(path.startswith(link + "/") for link in self.links)


def without_ending(name: str) -> str:
    """Return a picture's file name or path without its ending."""
    return ENDING.sub("", name)


def scan(root: Path, skip: Sequence[Path] = ()) -> Tree:
    """List the files below a folder without opening any; hidden ones and `skip` are left out.

    Raises InputError when the folder is missing or cannot be listed.
    """
    if not root.is_dir():
        what = "a folder is expected, this is a file" if root.exists() else "folder not found"
        raise InputError(what, where=str(root), todo="give the archive's folder as downloaded")
    top = root.resolve()
    left_out = {path.resolve() for path in skip}
    entries: dict[str, Entry] = {}
    links: list[str] = []
    for path, item in _files(root, "", left_out):
        if item.is_symlink() and item.is_dir():
            links.append(path)
        elif item.is_symlink():
            target = Path(item.path).resolve()
            inside = target.is_relative_to(top)
            size = target.stat().st_size if inside and target.is_file() else 0
            entries[path] = Entry(path, size, outside=not inside)
        else:
            with contextlib.suppress(FileNotFoundError):  # a download's temporary file, gone by now
                entries[path] = Entry(path, item.stat().st_size)
    return Tree(root=root, entries=entries, links=tuple(links))


def _files(folder: Path, below: str, skip: set[Path]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield relative path and entry of every file and linked folder, in no order."""
    try:
        with os.scandir(folder) as listing:
            items = list(listing)
    except OSError:
        raise InputError("folder cannot be listed", where=str(folder)) from None
    for item in items:
        if item.name.startswith("."):
            continue
        path = below + item.name
        if item.is_dir(follow_symlinks=False):
            known = any(item.name == folder.name for folder in skip)  # resolving each is slow
            if not (known and Path(item.path).resolve() in skip):
                yield from _files(Path(item.path), path + "/", skip)
        elif item.is_symlink() or item.is_file():
            yield path, item


def shallow(folder: Path) -> Tree:
    """List only the files that lie directly in a folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return Tree(root=folder, entries={p.name: Entry(p.name, p.stat().st_size) for p in files})


def inputs_digest(used: Iterable[Entry], tables: Iterable[Path] = ()) -> dict[str, Any]:
    """Return what identifies the input: files, bytes, and a digest of paths, sizes and tables.

    Pictures and reports count by path and size, tables by their content, since they decide
    views, splits and labels. Files that are not used do not count.
    """
    listing = sorted((readable(entry.path), entry.size) for entry in used)
    contents = sorted(blake3_file(path) for path in tables)
    return {
        "digest": digest_of([listing, contents]),
        "files": len(listing) + len(contents),
        "bytes": sum(size for _, size in listing),
    }


def readable(path: str) -> str:
    """Return a path as text that any table can hold, bytes that are not UTF-8 escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
