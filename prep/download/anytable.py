"""A table that a user hands in: csv, tsv or Parquet, its columns, and its rows as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError
from .tables import read_csv, read_header

CSV = re.compile(r"\.(csv|tsv)(\.gz|\.zip)?$", re.IGNORECASE)
PARQUET = re.compile(r"\.(parquet|pq)$", re.IGNORECASE)
BATCH = 4096  # rows of a Parquet file in memory at once


@dataclass(frozen=True, kw_only=True)
class AnyTable:
    """A table by its path, and its column names in order; nothing else of it is in memory."""

    path: Path
    columns: tuple[str, ...]

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield the cells of these columns as text, row by row; what is absent is empty.

        Raises InputError when the table is damaged, or a column holds bytes or lists.
        """
        if PARQUET.search(self.path.name):
            yield from _parquet_rows(self.path, list(columns))
            return
        for row in read_csv(self.path, columns):
            yield {name: row[name] for name in columns}


def open_table(path: Path) -> AnyTable:
    """Return a csv, tsv (plain, .gz or .zip) or Parquet table.

    Raises InputError when it is missing, damaged, of another kind, or names a column twice.
    """
    if not path.is_file():
        raise InputError("table not found", where=str(path))
    if PARQUET.search(path.name):
        columns = _parquet_columns(path)
    elif CSV.search(path.name):
        columns = read_header(path)
    else:
        raise InputError(
            "not a kind of table that is known",
            where=str(path),
            todo="give a .csv, .tsv, .csv.gz, .tsv.gz or .parquet file",
        )
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise InputError(f"two columns named {', '.join(twice)}", where=str(path))
    return AnyTable(path=path, columns=columns)


def _parquet_columns(path: Path) -> tuple[str, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError):
        raise _unreadable(path) from None


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = pq.read_schema(path)
    for name in columns:
        kind = types.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise InputError(
                "a column holds bytes or lists, not text or numbers",
                where=f"{path}, column {name}",
            )
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=columns):
                for row in batch.to_pylist():
                    yield {name: _text(row[name]) for name in columns}
    except (pa.ArrowException, OSError, ValueError):
        raise _unreadable(path) from None


def _unreadable(path: Path) -> InputError:
    return InputError("table is not readable as Parquet", where=str(path))


def _text(value: Any) -> str:
    """Return a cell as csv would hold it; a whole number without its `.0`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
