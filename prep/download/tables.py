"""Tables as archives publish them: csv, plain or packed, read by column name."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ...contract import InputError


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a csv, csv.gz or csv.zip by column; cells that a row lacks are empty.

    Raises InputError naming the file when it is missing or damaged, and the column when one of
    `columns` is not there.
    """
    if not path.is_file():
        raise InputError("table not found", where=str(path))
    try:
        with _open(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
            yield from _rows(path, csv.reader(text), columns)
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, zipfile.BadZipFile):
        raise InputError(
            "table is damaged or is not csv text", where=str(path), todo="download it again"
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
