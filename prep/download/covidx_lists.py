"""The lists of COVIDx: which picture is in which split, of which class, from which source.

`train.txt` and `test.txt` as Kaggle serves them (from CXR-4 on also `val.txt`), or the lists of any
version under their names in lindawangg/COVID-Net (`train_COVIDx9B.txt`, `test_COVIDx_CXR-3A.txt`),
plain or packed. A line is `patient file class source` without a header; older lists lack the
source of some rows, and patients and files may hold blanks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...contract import InputError
from .tables import read_lines
from .tree import Tree

COVID = "COVID-19"
WORDS = {2: ("negative", "positive"), 3: ("normal", "pneumonia", COVID)}  # by number of classes
FOLDERS = {"train": ("train",), "validate": ("val", "valid"), "test": ("test",)}
LIST = re.compile(r"(train|valid|val|test)(?P<version>|_COVIDx(_?CXR-)?\d+[AB]?)\.txt(\.gz)?")
LINE = re.compile(
    r"(?P<head>.+\.(?:png|jpe?g))\s+"
    r"(?P<word>negative|positive|normal|pneumonia|COVID-19)(?:\s+(?P<origin>\S+))?",
    re.IGNORECASE,
)
ORIGINS = {"rnsa": "rsna"}  # a slip of the lists since version 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a list; `origin` is empty where the list names no source."""

    patient: str
    file: str
    word: str
    origin: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The lists that were chosen: their files, and their rows in order."""

    files: tuple[Path, ...]
    rows: tuple[Row, ...]


def choose_lists(tree: Tree, classes: int) -> Lists:
    """Return the newest lists of the tree whose words are those of `classes` classes.

    Kaggle's `train.txt` and `test.txt` come before the repository's names. Raises InputError when
    there are none, and for a damaged list.
    """
    matches = (LIST.fullmatch(entry.name) for entry in tree.entries.values())
    versions = {match["version"] for match in matches if match}
    pictures = {entry.name for entry in tree.pictures()}
    others: list[str] = []
    for version in sorted(versions, key=_newness, reverse=True):
        found = {split: _find(tree, split, version) for split in FOLDERS}
        files = {split: path for split, path in found.items() if path}
        rows = [row for split, path in files.items() for row in _read(path, split, pictures)]
        fitting = {row.word for row in rows} <= set(WORDS[classes])
        if fitting and {"train", "test"} <= files.keys():
            return Lists(files=tuple(files.values()), rows=tuple(rows))
        others += [path.name for path in files.values()]
    raise InputError(
        f"no two lists, train and test, with the classes {', '.join(WORDS[classes])}",
        where=str(tree.root),
        todo=f"there are {', '.join(sorted(others))}: see --classes"
        if others
        else "give the folder of COVIDx with its lists, train.txt and test.txt",
    )


def _newness(version: str) -> tuple[bool, bool, int, str]:
    """Return what sorts versions: Kaggle's own lists, then CXR-4, CXR-3, …, then 9, 8, …"""
    digits = re.search(r"\d+", version)
    return (not version, "CXR" in version, int(digits[0]) if digits else 0, version)


def _find(tree: Tree, split: str, version: str) -> Path | None:
    stems = "|".join(FOLDERS[split])
    return tree.find(rf"({stems}){re.escape(version)}\.txt(\.gz)?")


def _read(path: Path, split: str, pictures: Collection[str]) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        match = LINE.fullmatch(line)
        cut = _patient_and_file(match["head"], pictures) if match else None
        if match is None or cut is None:
            raise InputError(
                "a line is not `patient file class source`",
                where=f"{path}, line {number}",
                todo="download the list again",
            )
        word, origin = match["word"].lower(), (match["origin"] or "").lower()
        yield Row(
            patient=cut[0],
            file=cut[1],
            word=COVID if word == COVID.lower() else word,
            origin=ORIGINS.get(origin, origin),
            split=split,
        )


def _patient_and_file(head: str, pictures: Collection[str]) -> tuple[str, str] | None:
    """Cut `patient file`, either of which may hold blanks: a picture that is there decides."""
    words = head.split(" ")
    cuts = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
    return next((cut for cut in cuts if cut[1] in pictures), cuts[-1] if cuts else None)
