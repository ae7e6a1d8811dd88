"""Tables as archives publish them: csv, plain or packed, read by column name."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ...contract import InputError


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a csv or tsv, plain, .gz or .zip, by column; cells a row lacks are empty.

    Raises InputError naming the file when it is missing or damaged, and the column when one of
    `columns` is not there.
    """
    with _lines(path) as lines:
        yield from _rows(path, lines, columns)


def read_header(path: Path) -> tuple[str, ...]:
    """Return the column names of a csv or tsv; InputError as for `read_csv`."""
    with _lines(path) as lines:
        return tuple(name.strip() for name in next(lines, []))


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Iterator[list[str]]]:
    if not path.is_file():
        raise InputError("table not found", where=str(path))
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    try:
        with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            yield csv.reader(text, delimiter=delimiter)
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, zipfile.BadZipFile):
        raise InputError(
            "table is damaged or is not csv text", where=str(path), todo="download it again"
        ) from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list, plain or packed, without those that are blank.

    Raises InputError naming the file when it is damaged or is not text.
    """
    try:
        with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig") as text:
            return [line.strip() for line in text if line.strip()]
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile):
        raise InputError(
            "list is damaged or is not text", where=str(path), todo="download it again"
        ) from None


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        if len(archive.namelist()) != 1:
            raise InputError("one table is expected in the zip", where=str(path))
        return archive.open(archive.namelist()[0])
    return path.open("rb")


def _rows(
    path: Path, lines: Iterator[list[str]], columns: Sequence[str]
) -> Iterator[dict[str, str]]:
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"no column named {', '.join(missing)}", where=str(path))
    for line in lines:
        if line:
            absent = [""] * (len(header) - len(line))
            yield dict(zip(header, line + absent, strict=False))


def number(text: str, *, path: Path, column: str) -> float:
    """Return a cell as a finite number; InputError naming the file and the column otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError("a cell is not a number", where=f"{path}, column {column}")
    return value


def marks(row: dict[str, str], names: Sequence[str], *, path: Path) -> dict[str, float]:
    """Return the label cells of a row as numbers; an empty cell is no label."""
    return {name: number(row[name], path=path, column=name) for name in names if row[name].strip()}


def person(*, sex: str, age: str) -> dict[str, str]:
    """Return what cells tell of a patient: `sex` F or M, `age` in whole years; neither is guessed.

    Ages may be written 61, 61.0 or, as in DICOM headers, 061Y.
    """
    known = {}
    if (letter := sex.strip().upper()) in ("F", "FEMALE", "M", "MALE"):
        known["sex"] = letter[0]
    if years := re.fullmatch(r"0*(\d{1,3})(\.\d*)?Y?", age.strip().upper()):
        known["age"] = years[1]
    return known
