"""The numbers of an evaluation as tables: with intervals, encoders beside their controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...page import SMALL, Cell, Fold, Prose, Table
from ..metrics import MACRO
from ..metrics import METRICS as LABELLED
from ..statistics.answers import VALIDATE
from ..statistics.comparison import METRICS
from ..table import Row
from .opened import Opened

Place = tuple[str, str | None, str]  # metric, source of its threshold, label
FIRST = (0, 0)  # draw and seed of which slices are shown
CAPTION = "95 % intervals in brackets"


def task_blocks(opened: Opened, task: str, *, shareable: bool) -> Iterator[Table | Fold]:
    """Yield the tables of a task: of the means, then folded those of the labels."""
    rows = [row for row in opened.rows if row["task"] == task]
    for fraction in sorted({row["fraction"] for row in rows}):
        own = [row for row in rows if row["fraction"] == fraction]
        places = _places(own)
        macro = {metric for metric, _, label in places if label == MACRO}
        means = [place for place in places if place[2] == MACRO or place[0] not in macro]
        title = f"{task}, {share_text(fraction)}; {CAPTION}"
        yield _table(own, means, title, shareable=shareable)
        if rest := [place for place in places if place not in means]:
            table = _table(own, rest, "", shareable=shareable)
            summary = f"{task}, {share_text(fraction)}: label by label"
            yield Fold(summary=summary, blocks=(table,))


def share_text(fraction: float) -> str:
    """Return how much of the training labels a number rests on."""
    return f"{100 * fraction:.4g} % of the training labels" if fraction else "no training labels"


def _short(fraction: float) -> str | None:
    return f"{100 * fraction:.4g} %" if fraction else None


def _places(rows: Sequence[Row]) -> list[Place]:
    """Return the numbers that a table has; an empty one has no source, and needs no line then."""
    found = dict.fromkeys((row["metric"], row["threshold_source"], row["label"]) for row in rows)
    sourced = {(metric, label) for metric, source, label in found if source}
    return [p for p in found if p[1] or (p[0], p[2]) not in sourced]


def _table(rows: Sequence[Row], places: Sequence[Place], title: str, *, shareable: bool) -> Table:
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    lines: list[tuple[Cell, ...]] = []
    for place in places:
        at = [r for r in rows if (r["metric"], r["threshold_source"], r["label"]) == place]
        by = {name: [r for r in at if r["encoder"] == name] for name in encoders}
        metric, source, label = place
        told = metric if source in (None, VALIDATE) else f"{metric} (threshold: {source})"
        numbers = [number_text(by[name], shareable=shareable) for name in encoders]
        first = at[0]
        lines.append((label, told, *numbers, first["n"], first["n_pos"], first["n_subjects"]))
    columns = ("label", "metric", *encoders, "films", "positive", "patients")
    return Table(columns=columns, rows=tuple(lines), caption=title)


def number_text(rows: Sequence[Mapping[str, Any]], *, shareable: bool) -> str:
    """Return a number with its interval, or the mean of several with their deviation.

    What rests on fewer than 10 cases of one kind is not told in a page that is to be shared: the
    number would tell the count.
    """
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values or (shareable and any(_few(row) for row in rows)):
        return "–"
    text = f"{np.mean(values):.3f}"
    if len(values) > 1:
        return f"{text} (sd {np.std(values, ddof=1):.3f} of {len(values)})"
    return text + _interval(rows[0])


def _few(row: Mapping[str, Any]) -> bool:
    positive = row.get("n_pos")
    kinds = [row["n"]] if positive is None else [positive, row["n"] - positive]
    return any(count < SMALL for count in kinds)


def _interval(row: Mapping[str, Any], form: str = ".3f") -> str:
    low, high = row["ci_low"], row["ci_high"]
    return (
        "" if low is None else f"\N{NO-BREAK SPACE}[{low:{form}},\N{NO-BREAK SPACE}{high:{form}}]"
    )


def summary_blocks(opened: Opened) -> Iterator[Table | Fold]:
    """Yield repeats joined, where there are any: the main metric, then folded all of them."""
    rows = [row for row in opened.statistics.get("summary", []) if row["value"] is not None]
    main = [row for row in rows if row["metric"] == METRICS.get(row["task"], LABELLED)[0]]
    if rows:
        title = f"Draws and seeds together; {CAPTION}, over patients and repeats"
        yield _joined(main, title)
        yield Fold(summary="Draws and seeds together: all metrics", blocks=(_joined(rows, ""),))


def _joined(rows: Sequence[Row], title: str) -> Table:
    lines: tuple[tuple[Cell, ...], ...] = tuple(
        (
            *(row["encoder"], row["task"], _short(row["fraction"]), row["metric"]),
            f"{row['value']:.3f}{_interval(row)}",
            *(_told(row["sd"]), f"{row['repeats']}"),
        )
        for row in rows
    )
    columns = ("encoder", "task", "training labels", "metric", "mean", "sd", "repeats")
    return Table(columns=columns, rows=lines, caption=title)


def comparison_blocks(opened: Opened) -> Iterator[Table | Prose]:
    """Yield the paired differences, corrected by Holm."""
    lines: list[tuple[Cell, ...]] = [
        (
            f"{row['encoder']} − {row['other']}",
            *(row["task"], _short(row["fraction"]), row["metric"]),
            "–"
            if row["difference"] is None
            else f"{row['difference']:+.3f}{_interval(row, '+.3f')}",
            *(_told(row[name]) for name in ("p", "p_holm", "smallest")),
            row["n"],
        )
        for row in opened.statistics.get("comparisons", [])
    ]
    if lines:
        heads = ("task", "training labels", "metric", "difference", "p", "p (Holm)")
        columns = ("paired difference", *heads, "smallest to be shown", "films")
        yield Table(columns=columns, rows=tuple(lines), caption=f"Comparisons; {CAPTION}")
        text = (
            "The last but one column: the difference that this test set shows with a power of "
            "80 % at the corrected 5 %. A smaller one is no evidence of equality."
        )
        yield Prose(text=text, tone="quiet")


def _told(value: float | None) -> str:
    if value is None:
        return "–"
    return "<\N{NO-BREAK SPACE}0.001" if 0 <= value < 0.0005 else f"{value:.3f}"


def slice_blocks(opened: Opened, *, shareable: bool) -> Iterator[Fold]:
    """Yield the parts of the test split, folded; of several draws or seeds the first."""
    lines: list[tuple[Cell, ...]] = [
        (
            f"{row['property']} {row['slice']}",
            *(row["task"], _short(row["fraction"]), row["label"]),
            number_text([row], shareable=shareable),
            *(row["n"], row["n_pos"], row["n_subjects"]),
        )
        for row in opened.statistics.get("slices", [])
        if (row["draw"], row["head_seed"]) == FIRST
    ]
    if lines:
        heads = ("task", "training labels", "label", "auroc", "films", "positive", "patients")
        table = Table(columns=("slice", *heads), rows=tuple(lines), caption=CAPTION)
        yield Fold(
            summary="Slices of the test split: AUROC by view, sex, age, origin", blocks=(table,)
        )


def published_blocks(opened: Opened) -> Iterator[Table]:
    """Yield what papers print for the same archive and protocol; means only."""
    tasks = set(opened.tasks)
    rows = [
        row
        for row in opened.document["published"]
        if row["task"] in tasks and row["label"] == MACRO
    ]
    for source in dict.fromkeys(row["source"] for row in rows):
        found = [row for row in rows if row["source"] == source]
        notes = "; ".join(sorted({row["note"] for row in found} - {""}))
        lines = tuple(
            (
                *(row["method"], row["task"], row["metric"]),
                _short(row["fraction"]),
                f"{row['value']:.1f}",
            )
            for row in found
        )
        yield Table(
            columns=("method", "task", "metric", "training labels", "percent"),
            rows=lines,
            caption="; ".join(filter(None, ["Published, not measured here", source, notes])),
        )
