"""What earlier runs of a set have finished, and how much of it still stands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files import read_rows, read_table, write_json
from ...schema import MANIFEST, REJECTS, SOURCES
from ...work import Ledger
from ..record import Record
from .plan import CARD, PARTS, Job
from .rows import Identity, Row, identity, work_of

TABLES = ("manifest.parquet", "rejects.parquet", "sources.parquet")
BEFORE = -1  # number of the part that is the set as it was before it was opened again
BATCH = 4_096  # rows of an earlier manifest held as Python objects at a time

Places = Mapping[Identity, int]  # which part holds the last word on a record


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some of the finished work: what was opened, the rows made of it, and the rejects."""

    done: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    rejects: list[Row] = field(default_factory=list)


class Parts:
    """The finished work of a set in `.parts/`: its tables of before, then chunks by number.

    A record that was done twice counts as it was done last.
    """

    def __init__(self, job: Job) -> None:
        plan = job.plan.as_json()
        self.folder = job.out / PARTS
        finished = (job.out / CARD).is_file()
        self._ledger = Ledger(self.folder, {k: v for k, v in plan.items() if k != "inputs"})
        if finished:
            for name in TABLES:
                _link(job.out / name, self.folder / name)
        write_json(self.folder / "plan.json", plan)
        # from here on the set is one that was begun, and a kill loses nothing of it
        (job.out / CARD).unlink(missing_ok=True)

    def numbers(self) -> list[int]:
        """Return the numbers of all parts in the order in which they were finished."""
        chunks = sorted(int(path.stem) for path in self.folder.glob("[0-9]*.json"))
        return [BEFORE, *chunks] if (self.folder / "sources.parquet").is_file() else chunks

    def path(self, number: int) -> Path:
        """File of a chunk."""
        return self._ledger.path(number)

    def done(self, number: int) -> list[Row]:
        """Return what a part has done: source, image_id, image or None, work, and a reason."""
        if number != BEFORE:
            with self.path(number).open("rb") as handle:
                done: list[Row] = json.loads(handle.readline())
            return done
        rejects = read_rows(self.folder / "rejects.parquet", REJECTS)
        reasons = {identity(row): row["reason"] for row in rejects}
        rows = read_rows(self.folder / "sources.parquet", SOURCES)
        return [
            row if row["image"] else {**row, "reason": reasons[identity(row)]}
            for row in rows
            if row["image"] or identity(row) in reasons
        ]

    def batches(self, places: Places) -> Iterator[Batch]:
        """Yield the finished work that counts, each record from the part that `places` names.

        A few thousand rows at a time: for less, Arrow takes more memory than the rows do.
        """
        batch = Batch()
        for number in self.numbers():
            kept = [row for row in self.done(number) if places.get(identity(row)) == number]
            wanted = {identity(row): row["image"] is not None for row in kept}
            batch.done.extend(kept)
            if number == BEFORE:
                batch.rejects.extend(self._rejects(wanted))
                yield from self._rows(wanted)
            elif kept:
                with self.path(number).open("rb") as handle:
                    handle.readline()
                    made = json.loads(handle.read())
                batch.rows.extend([row for row in made["rows"] if identity(row) in wanted])
                batch.rejects.extend([row for row in made["rejects"] if identity(row) in wanted])
            if len(batch.done) >= BATCH:
                yield batch
                batch = Batch()
        yield batch

    def _rejects(self, wanted: Mapping[Identity, bool]) -> list[Row]:
        rows = read_rows(self.folder / "rejects.parquet", REJECTS)
        return [row for row in rows if wanted.get(identity(row)) is False]

    def _rows(self, wanted: Mapping[Identity, bool]) -> Iterator[Batch]:
        path = self.folder / "manifest.parquet"
        if not path.is_file():
            return
        table = read_table(path, MANIFEST)
        maps = [field.name for field in MANIFEST.fields if field.type.startswith("map<")]
        for begin in range(0, table.num_rows, BATCH):
            rows: list[dict[str, Any]] = table.slice(begin, BATCH).to_pylist()
            rows = [row for row in rows if wanted.get(identity(row))]
            for row in rows:
                row.update({name: dict(row[name]) for name in maps})
            yield Batch(rows=rows)

    def clear(self) -> None:
        """Remove all of it."""
        self._ledger.clear()


def _link(path: Path, target: Path) -> None:
    """Let `target` hold what `path` holds, also after `path` is replaced."""
    target.unlink(missing_ok=True)
    if not path.is_file():
        return
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def standing(job: Job, parts: Parts, todo: Sequence[Record]) -> dict[Identity, int]:
    """Return the records of `todo` that need not be done again, and the part that holds each.

    A record is done again when its files or what is told of them have changed, when its PNG is
    gone, or when its reject is to be retried.
    """
    records = {identity(record): record for record in todo}
    places: dict[Identity, int] = {}
    for number in parts.numbers():
        for row in parts.done(number):
            who = identity(row)
            places.pop(who, None)
            record = records.get(who)
            if record is None or row.get("reason") in job.retry:
                continue
            if row["image"] and not (job.out / row["image"]).is_file():
                continue
            if row["work"] == work_of(record, job.assignment.reports, job.expected):
                places[who] = number
    return places
