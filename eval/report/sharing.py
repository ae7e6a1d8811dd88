"""What may be told of an evaluation in a page that is to be shared.

A number that rests on fewer than 10 cases of one kind would tell their count. So would a mean over
labels of which one alone is not told for that reason: it would follow from the mean and the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...page import SMALL
from ..metrics import MACRO
from .opened import Opened

MEAN = ("task", "fraction", "metric")  # columns that the labels of a mean share
SLICE = (*MEAN, "property", "slice")
NUMBERS = ("value", "ci_low", "ci_high", "difference", "sd", "p", "p_holm", "smallest")
Row = Mapping[str, Any]
Place = tuple[Any, ...]


def shared(opened: Opened) -> Opened:
    """Return an evaluation without the numbers that a shared page may not tell."""
    rows, known = opened.rows, dict(opened.statistics)
    lone = _lone(rows, MEAN)
    for name in ("summary", "comparisons"):  # means over labels, all of them
        known[name] = [_told(row, lone, MEAN) for row in known.get(name, ())]
    slices = known.get("slices", ())
    apart = _lone(slices, SLICE)
    known["slices"] = [_told(row, apart, SLICE) for row in slices]
    document = {**opened.document, "rows": [_told(row, lone, MEAN) for row in rows]}
    return replace(opened, kept=replace(opened.kept, document=document), statistics=known)


def _lone(rows: Sequence[Row], columns: Sequence[str]) -> set[Place]:
    """Return where a mean would tell the one label of it that is not told."""
    few: dict[Place, set[str]] = {}
    for row in rows:
        if row["label"] != MACRO and row["value"] is not None and _few(row):
            few.setdefault(_place(row, columns), set()).add(row["label"])
    return {place for place, labels in few.items() if len(labels) == 1}


def _told(row: Row, lone: set[Place], columns: Sequence[str]) -> dict[str, Any]:
    mean = row["label"] == MACRO and _place(row, columns) in lone
    empty = {name: None for name in NUMBERS if name in row} if mean or _few(row) else {}
    return {**row, **empty}


def _few(row: Row) -> bool:
    total, positive = row.get("n"), row.get("n_pos")
    counts = [total, positive, None if positive is None else row["n"] - positive]
    return any(count is not None and 0 < count < SMALL for count in counts)


def _place(row: Row, columns: Sequence[str]) -> Place:
    return tuple(row[name] for name in columns)
