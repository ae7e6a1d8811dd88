"""What an evaluation has found: finished cells, each committed by its mark, and their assembly."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...contract import InputError
from ...files import (
    blake3_file,
    digest_of,
    read_json,
    read_table,
    sweep_partials,
    write_bytes,
    write_json,
    write_table,
    write_text,
)
from ...schema import PREDICTIONS, TABLES, Table
from ..table import CONTROLS, Cell, to_csv
from ..tasks.registry import TASKS
from ..tasks.task import Found

BY_NAME = {table.name: table for table in TABLES}


class Record:
    """The finished cells of an evaluation in its folder.

    `state` is all that every cell depends on, `tasks` what those of each task do besides.
    """

    def __init__(self, folder: Path, *, state: object, tasks: Mapping[str, object]) -> None:
        self.folder = folder
        self.cells = folder / "cells" / digest_of(state)[:16]
        self.of_task = {
            name: self.cells / f"{name}-{digest_of(told)[:16]}" for name, told in tasks.items()
        }

    def forget_others(self) -> None:
        """Remove the cells of other states."""
        forget_others(self.cells)
        for path in self.cells.glob("*"):
            if path not in self.of_task.values():
                shutil.rmtree(path)

    def mark(self, cell: Cell) -> Path:
        """Return the file whose presence says that a cell is finished."""
        return self.of_task[cell.task] / f"{cell.name}.json"

    def unfinished(self, cell: Cell) -> Path:
        """Return the folder of what a cell keeps until it is finished."""
        return self.of_task[cell.task] / f".{cell.name}"

    def has(self, cell: Cell) -> bool:
        """Tell whether a cell is done; damaged samples may be back, so it is tried again then."""
        mark = self.mark(cell)
        if not mark.is_file():
            return False
        try:
            told = read_json(mark)
        except InputError:  # a damaged mark marks nothing
            return False
        whole = all(
            (path := mark.parent / name).is_file() and blake3_file(path) == blake3
            for name, blake3 in told["files"].items()
        )
        return bool(whole and not told["damaged"])

    def commit(self, cell: Cell, found: Found, *, damaged: list[str]) -> None:
        """Write what came of a cell, its numbers last: they mark it done."""
        mark = self.mark(cell)
        mark.unlink(missing_ok=True)
        shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
        paths = []
        for table, rows in found.tables:
            paths.append(mark.with_suffix(f".{table.name}.parquet"))
            write_table(paths[-1], table, rows)
        for name, data in sorted(found.files.items()):
            paths.append(mark.with_suffix("") / name)
            write_bytes(paths[-1], data)
        told = {
            "cell": asdict(cell),
            "rows": list(found.rows),
            "facts": dict(found.facts),
            "damaged": damaged,
            "files": {str(path.relative_to(mark.parent)): blake3_file(path) for path in paths},
        }
        write_json(mark, told)
        shutil.rmtree(self.unfinished(cell), ignore_errors=True)

    def assemble(self, facts: Mapping[str, Any], *, write: bool) -> dict[str, Any]:
        """Return the content of results.json: every finished cell, in the table's order.

        With `write`, write it, the rows as csv, and what the cells predicted.
        """
        marks = {path: _read_mark(path) for path in self.cells.glob("*/*.json")}
        paths = sorted(marks, key=lambda path: _place(marks[path]["cell"]))
        told = [marks[path] for path in paths]
        document = {
            **facts,
            "cells": [{"cell": mark["cell"], **mark["facts"]} for mark in told],
            "damaged": sorted({key for mark in told for key in mark["damaged"]}),
            "rows": [row for mark in told for row in mark["rows"]],
        }
        if write:
            self._write_tables(paths)
            self._write_files(paths)
            write_text(self.folder / "results.csv", to_csv(document["rows"]))
            write_json(self.folder / "results.json", document)
            sweep_partials(self.folder)
        return document

    def _write_tables(self, marks: list[Path]) -> None:
        """Join the tables of all cells; predictions.parquet is always there."""
        for table in BY_NAME.values():
            parts = [
                read_table(path, table)
                for mark in marks
                if (path := mark.with_suffix(f".{table.name}.parquet")).is_file()
            ]
            if parts or table is PREDICTIONS:
                write_table(self.folder / f"{table.name}.parquet", table, _joined(table, parts))

    def _write_files(self, marks: list[Path]) -> None:
        """Copy the other files of all cells to `<task>/<cell>/`, and remove those of none."""
        for name in TASKS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for mark in marks:
            task = mark.parent.name.rpartition("-")[0]
            for path in sorted(mark.with_suffix("").glob("**/*")):
                if path.is_file():
                    place = self.folder / task / path.relative_to(mark.parent)
                    write_bytes(place, path.read_bytes())


def _read_mark(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(
            error.what, where=error.where, todo="evaluate anew with --no-resume"
        ) from None


def _joined(table: Table, parts: list[pa.Table]) -> pa.Table | list[Any]:
    return pa.concat_tables(parts) if parts else []


def forget_others(folder: Path) -> None:
    """Remove what lies beside a folder."""
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a cell's place in the table: the encoder first, its controls after it."""
    task = list(TASKS).index(cell["task"])
    encoder = cell["encoder"]
    control = CONTROLS.index(encoder) + 1 if encoder in CONTROLS else 0
    return (control, task, cell["fraction"], cell["draw"], cell["head_seed"])
