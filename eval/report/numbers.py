"""The numbers of an evaluation as tables: with intervals, encoders beside their controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...page import Cell, Fold, Heading, Prose, Table
from ..metrics import MACRO
from ..metrics import METRICS as LABELLED
from ..statistics.answers import VALIDATE
from ..statistics.comparison import METRICS
from ..table import Row, left_out
from .opened import Opened

Place = tuple[str, str | None, str]  # metric, source of its threshold, label
FIRST = (0, 0)  # draw and seed of which slices are shown
CAPTION = "95 % intervals in brackets"
REPEATED = "means over draws and seeds, with their deviation (sd)"


def task_blocks(opened: Opened, task: str) -> Iterator[Table | Prose | Fold]:
    """Yield the tables of a task: of the means, then folded those of the labels."""
    rows = [row for row in opened.rows if row["task"] == task]
    for fraction in sorted({row["fraction"] for row in rows}):
        own = [row for row in rows if row["fraction"] == fraction]
        places = _places(own)
        macro = {metric for metric, _, label in places if label == MACRO}
        means = [place for place in places if place[2] == MACRO or place[0] not in macro]
        repeated = len({(row["draw"], row["head_seed"]) for row in own}) > 1
        title = f"{task}, {share_text(fraction)}; {REPEATED if repeated else CAPTION}"
        if any(row["value"] is not None for row in own if _place(row) in means):
            yield _table(own, means, title)
        else:
            text = f"{task}, {share_text(fraction)}: no number, the test split has too few cases."
            yield Prose(text=text, tone="note")
        if rest := [place for place in places if place not in means]:
            table = _table(own, rest, "")
            summary = f"{task}, {share_text(fraction)}: label by label"
            yield Fold(summary=summary, blocks=(table,))
    for line in left_out(
        [told for told in opened.document["cells"] if told["cell"]["task"] == task]
    ):
        yield Prose(text=f"{line[0].upper()}{line[1:]}.", tone="quiet")


def prompt_blocks(opened: Opened, task: str) -> Iterator[Fold]:
    """Yield the prompts that a task compared films with, folded."""
    for told in opened.cells(task, controls=False):
        if prompts := told.get("prompts"):
            rows = tuple(
                (label, *("; ".join(pair[side]) for side in ("positive", "negative")))
                for label, pair in prompts.items()
            )
            columns = ("label", "prompts for presence", "prompts for absence")
            table = Table(columns=columns, rows=rows)
            yield Fold(summary=f"{task}: prompts", blocks=(table,), private=True)


def share_text(fraction: float) -> str:
    """Return how much of the training labels a number rests on."""
    return f"{100 * fraction:.4g} % of the training labels" if fraction else "no training labels"


def short(fraction: float) -> str | None:
    """Return the same as a cell of a table; None where nothing was trained on labels."""
    return f"{100 * fraction:.4g} %" if fraction else None


def _places(rows: Sequence[Row]) -> list[Place]:
    """Return the numbers that a table has; an empty one has no source, and needs no line then."""
    found = dict.fromkeys((row["metric"], row["threshold_source"], row["label"]) for row in rows)
    sourced = {(metric, label) for metric, source, label in found if source}
    order = list(dict.fromkeys(metric for metric, _, _ in found))
    kept = [place for place in found if place[1] or (place[0], place[2]) not in sourced]
    return sorted(kept, key=lambda place: order.index(place[0]))


def _place(row: Row) -> Place:
    return row["metric"], row["threshold_source"], row["label"]


def counted_row(rows: Sequence[Row]) -> Row:
    """Return a row that tells on how many films numbers rest: the first that has a value.

    A draw of few labels may leave nothing to measure.
    """
    return next((row for row in rows if row["value"] is not None), rows[0])


def _table(rows: Sequence[Row], places: Sequence[Place], title: str) -> Table:
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    lines: list[tuple[Cell, ...]] = []
    for place in places:
        at = [row for row in rows if _place(row) == place]
        by = {name: [r for r in at if r["encoder"] == name] for name in encoders}
        metric, source, label = place
        told = metric if source in (None, VALIDATE) else f"{metric} (threshold: {source})"
        numbers = [number_text(by[name]) for name in encoders]
        first = counted_row(at)
        lines.append((label, told, *numbers, first["n"], first["n_pos"], first["n_subjects"]))
    columns = ("label", "metric", *encoders, "films", "positive", "patients")
    return Table(columns=columns, rows=tuple(lines), caption=title)


def number_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a number with its interval, or the mean of several with their deviation."""
    found = [row for row in rows if row["value"] is not None]
    if not found:
        return "–"
    values = [row["value"] for row in found]
    text = f"{np.mean(values):.3f}"
    if len(values) > 1:
        told = f"{text} (sd {np.std(values, ddof=1):.3f} of {len(values)})"
        return told.replace(" ", "\N{NO-BREAK SPACE}")
    return text + _interval(found[0])


def _interval(row: Mapping[str, Any], form: str = ".3f") -> str:
    low, high = row["ci_low"], row["ci_high"]
    return (
        "" if low is None else f"\N{NO-BREAK SPACE}[{low:{form}},\N{NO-BREAK SPACE}{high:{form}}]"
    )


def summary_blocks(opened: Opened, task: str) -> Iterator[Table | Fold]:
    """Yield repeats joined, where there are any: the main metric, then folded all of them."""
    rows = [row for row in opened.statistics.get("summary", []) if row["value"] is not None]
    rows = [row for row in rows if row["task"] == task]
    main = [row for row in rows if row["metric"] == METRICS.get(task, LABELLED)[0]]
    if rows:
        title = f"{task}, draws and seeds together; {CAPTION}, over patients and repeats"
        yield _joined(main, title)
        summary = f"{task}, draws and seeds together: all metrics"
        yield Fold(summary=summary, blocks=(_joined(rows, ""),))


def _joined(rows: Sequence[Row], title: str) -> Table:
    lines: tuple[tuple[Cell, ...], ...] = tuple(
        (
            *(row["encoder"], short(row["fraction"]), row["metric"]),
            f"{row['value']:.3f}{_interval(row)}",
            *(_told(row["sd"]), f"{row['repeats']}"),
        )
        for row in rows
    )
    columns = ("encoder", "training labels", "metric", "mean", "sd", "repeats")
    return Table(columns=columns, rows=lines, caption=title)


def comparison_blocks(opened: Opened) -> Iterator[Heading | Table | Prose | Fold]:
    """Yield the paired differences, corrected by Holm; folded those between other encoders."""
    rows = opened.statistics.get("comparisons", [])
    if not rows:
        return
    own = opened.document["encoder"]["name"]
    first = [row for row in rows if own in (row["encoder"], row["other"])]
    rest = [row for row in rows if own not in (row["encoder"], row["other"])]
    yield Heading(title="Comparisons")
    yield _compared(first, f"Comparisons; {CAPTION}")
    text = (
        f"p is corrected (Holm) over all comparisons of the call: {len(rows)}. Smallest to be "
        "shown: the difference that this test set shows with a power of 80 % at the corrected 5 %. "
        "A smaller one is no evidence of equality."
    )
    yield Prose(text=text, tone="quiet")
    if rest:
        summary = "Comparisons between the other encoders of the call"
        yield Fold(summary=summary, blocks=(_compared(rest, ""),))


def _compared(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    lines: tuple[tuple[Cell, ...], ...] = tuple(
        (
            f"{row['encoder']} − {row['other']}",
            *(row["task"], short(row["fraction"]), row["metric"]),
            "–"
            if row["difference"] is None
            else f"{row['difference']:+.3f}{_interval(row, '+.3f')}",
            *(_told(row[name]) for name in ("p", "p_holm", "smallest")),
            row["n"],
        )
        for row in rows
    )
    heads = ("task", "training labels", "metric", "difference", "p", "p (Holm)")
    columns = ("paired difference", *heads, "smallest to be shown", "films")
    return Table(columns=columns, rows=lines, caption=title)


def _told(value: float | None) -> str:
    if value is None:
        return "–"
    return "<\N{NO-BREAK SPACE}0.001" if 0 <= value < 0.0005 else f"{value:.3f}"


def slice_blocks(opened: Opened) -> Iterator[Fold]:
    """Yield the parts of the test split, folded; of several draws or seeds the first."""
    lines: list[tuple[Cell, ...]] = [
        (
            f"{row['property']} {row['slice']}",
            *(row["task"], short(row["fraction"]), row["label"]),
            number_text([row]),
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
                short(row["fraction"]),
                f"{row['value']:.1f}",
            )
            for row in found
        )
        yield Table(
            columns=("method", "task", "metric", "training labels", "percent"),
            rows=lines,
            caption="; ".join(filter(None, ["Published, not measured here", source, notes])),
        )
