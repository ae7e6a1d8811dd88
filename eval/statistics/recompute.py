"""Every number of an evaluation once more, from what was predicted; and where it differs."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError, TooManyFaults
from ...files import read_rows
from ...schema import DETECTIONS, REGIONS, RESULTS, RETRIEVALS, Table
from ..boxes import detection_rows
from ..grounding.numbers import grounding_rows
from ..masks import Overlaps, overlap_rows
from ..metrics import DECIDED
from ..retrieval.ranks import retrieval_rows
from ..tasks.task import SEED
from .answers import VALIDATE, answer_rows
from .kept import PLACE, Kept
from .written import FILE, TABLES, again, csv_of

NUMBERS = ("value", "ci_low", "ci_high", "ci_method", "n", "n_pos", "n_subjects")
SHOWN = 20  # differences that are named
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recount:
    """How many numbers were computed once more, and what is said of each that differs."""

    evaluations: int
    numbers: int
    differences: tuple[str, ...]
    left_out: tuple[str, ...]

    def check(self) -> None:
        """Raise TooManyFaults when a number differs."""
        if self.differences:
            named = [*self.differences[:SHOWN]]
            more = len(self.differences) - len(named)
            raise TooManyFaults(
                f"{len(self.differences)} of {self.numbers} numbers do not follow from the "
                "predictions:\n  " + "\n  ".join([*named, *([f"and {more} more"] if more else [])]),
                todo="results or predictions were changed; `imitate eval` with --no-resume "
                "writes them anew",
            )

    def as_text(self) -> str:
        """Return a sentence, and what could not be computed."""
        what = f"{self.numbers} numbers of {self.evaluations} evaluations follow from their files"
        return "\n".join([what, *self.left_out])


def recompute(path: Path) -> Recount:
    """Compute every number below a run, or of one evaluation, once more.

    Read are predictions.parquet and the other tables of predictions, samples.parquet, and from
    results.json what was settled before the test split. Raises InputError when there is no
    evaluation or a file is missing or damaged.
    """
    found = [path] if (path / "results.json").is_file() else []
    folders = found or sorted(p.parent for p in path.glob("eval/*/results.json"))
    if not folders:
        raise InputError(
            "no evaluation there", where=str(path), todo="evaluate the run first: imitate eval"
        )
    count, differences, left_out = 0, [], []
    for folder in folders:
        kept = Kept.open(folder)
        numbers = {_identity(row): row for row in _numbers(kept)}
        can = {cell["task"] for cell, _ in kept.answered} | set(KINDS)
        count += sum(row["value"] is not None for row in kept.document["rows"])
        for row in (*kept.document["rows"], *_csv(folder)):
            if row["task"] in can:
                differences += _compare(folder, row, numbers.get(_identity(row)))
        tasks = {row["task"] for row in kept.document["rows"]}
        left_out += [f"{folder.name}: {task} is not computed again" for task in sorted(tasks - can)]
        known, anew = again(folder)
        if anew is None:
            left_out.append(f"{folder.name}: a run that was compared is not here; {FILE} not done")
            continue
        for name in TABLES:
            count += len(known[name])
            differences += _other(folder, name, known[name], anew[name])
    return Recount(
        evaluations=len(folders),
        numbers=count,
        differences=tuple(differences),
        left_out=tuple(left_out),
    )


def _csv(folder: Path) -> Iterator[Row]:
    """Yield the rows of results.csv with their types."""
    types = {field.name: field.type for field in RESULTS.fields}
    read = {"int32": int, "float64": float, "string": str}
    with (folder / "results.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            try:
                yield {
                    name: read[types[name].rstrip("?")](text) if text else None
                    for name, text in row.items()
                }
            except (KeyError, ValueError):
                raise InputError("a field is not readable", where=f"{folder}/results.csv") from None


def _numbers(kept: Kept) -> Iterator[Row]:
    """Yield every number of every cell, computed from its predictions."""
    for cell, answers in kept.answered:
        told = {row["threshold_source"] for row in kept.document["rows"] if _of(row, cell)}
        sources = sorted(told - {None}) or [VALIDATE]
        yield from answer_rows(answers, cell, seed=SEED, sources=sources)
    for task, (table, numbers) in KINDS.items():
        path = kept.folder / f"{table.name}.parquet"
        if path.is_file():
            yield from numbers(row for row in read_rows(path, table) if row["task"] == task)


def _of(row: Row, cell: Row) -> bool:
    return row["metric"] in DECIDED and all(row[name] == cell[name] for name in PLACE)


def _groups(rows: Iterable[Row], *more: str) -> Iterator[tuple[dict[str, Any], list[Row]]]:
    """Yield the rows of each cell and of each value of further columns, and these columns."""
    names = (*PLACE, *more)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    for values, group in groups.items():
        yield dict(zip(names, values, strict=True)), group


def _regions(rows: Iterable[Row]) -> Iterator[Row]:
    for told, group in _groups(rows, "threshold_source", "label"):
        for numbers in overlap_rows(Overlaps.of(group), seed=SEED):
            yield told | numbers


def _grounds(rows: Iterable[Row]) -> Iterator[Row]:
    for told, group in _groups(rows, "threshold_source", "label"):
        for numbers in grounding_rows(Overlaps.of(group), seed=SEED):
            yield told | numbers


def _detections(rows: Iterable[Row]) -> Iterator[Row]:
    for told, group in _groups(rows):
        for numbers in detection_rows(group, seed=SEED):
            yield told | numbers


def _retrievals(rows: Iterable[Row]) -> Iterator[Row]:
    for told, group in _groups(rows):
        for numbers in retrieval_rows(group, seed=SEED):
            yield told | numbers


# of each task that scores no labels, its table of predictions and the numbers that follow from it
KINDS: dict[str, tuple[Table, Callable[[Iterable[Row]], Iterator[Row]]]] = {
    "segment": (REGIONS, _regions),
    "detect": (DETECTIONS, _detections),
    "ground": (REGIONS, _grounds),
    "retrieve": (RETRIEVALS, _retrievals),
}


def _identity(row: Row) -> tuple[Any, ...]:
    source = row["threshold_source"] if row["value"] is not None else None
    return (*(row[name] for name in (*PLACE, "metric", "label")), source)


def _compare(folder: Path, row: Row, anew: Row | None) -> list[str]:
    """Return a line for a number that differs; an empty number has nothing to follow from."""
    if anew is None:
        return [f"{_name(folder, row)}: nothing was predicted"] if row["value"] is not None else []
    wrong = [name for name in NUMBERS if not _same(row[name], anew[name])]
    told = ", ".join(f"{name} {row[name]} instead of {anew[name]}" for name in wrong)
    return [f"{_name(folder, row)}: {told}"] if wrong else []


def _name(folder: Path, row: Row) -> str:
    parts = (row["task"], row["encoder"], f"{100 * row['fraction']:.4g} %", row["metric"])
    return f"{folder.name}: {', '.join([*parts, row['label']])}"


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other


def _other(folder: Path, name: str, known: Sequence[Row], anew: Sequence[Row]) -> list[str]:
    """Return a line for each row of a table of statistics that differs."""
    if (folder / f"{name}.csv").read_text(encoding="utf-8") != csv_of(TABLES[name], known):
        return [f"{folder.name}: {name}.csv is not what {FILE} says"]
    if len(known) != len(anew):
        return [f"{folder.name}: {name} has {len(known)} rows instead of {len(anew)}"]
    lines = []
    for row, other in zip(known, anew, strict=True):
        wrong = [column for column in other if not _same(row.get(column), other[column])]
        told = ", ".join(f"{column} {row.get(column)}" for column in wrong)
        lines += [f"{_name(folder, other)} of {name}: {told}"] if wrong else []
    return lines
