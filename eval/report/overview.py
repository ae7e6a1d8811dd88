"""The results at a glance: the main number of every set and task, and what all numbers mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ...page import Cell, Fold, Section, Table
from ..metrics import MACRO
from ..metrics import METRICS as LABELLED
from ..statistics.comparison import METRICS
from ..table import CONTROLS, Row
from .numbers import CAPTION, REPEATED, counted_row, number_text, short
from .opened import Opened, RunFolder

MEANINGS = {
    "auroc": "area below the ROC curve; 0.5 is chance",
    "auprc": "average precision; chance is the share of positives",
    "accuracy": "share of right answers at the threshold",
    "f1": "harmonic mean of precision and recall at the threshold",
    "top1": "share of films whose own class scored highest of all",
    "sensitivity@K": "sensitivity at the score that K % of the negatives of validation stay below",
    "specificity@K": "the specificity that comes of that score on the test split",
    "brier": "mean squared error of the probability; 0 is best",
    "ece": "calibration error of the probability in 15 bins; 0 is best, and it has no interval",
    "dice": "twice the common area of both regions over the sum of their areas, "
    "over films that have a region",
    "iou": "the common area of both regions over that of their union, "
    "over films that have a region",
    "dice-all": "the same over all films; one without a region counts 1 if none is predicted, "
    "and 0 otherwise",
    "dice-batches": "the mean over batches of dice-all, as published code prints it",
    "pointing": "share of films with a region in which the centre of the nearest place lies",
    "recall": "the same, where any part of that place counts",
    "map": "mean average precision over IoU 0.50, 0.55 … 0.95 (COCO)",
    "map@K": "average precision at an IoU of K %",
    "map-mgca": "as published code has it: IoU 0.40 … 0.75, predictions of at least 0.5 alone, and "
    "films without a box or a prediction left out; larger than map",
    "r@K": "how often the exact pair is among the first K",
    "r@K-same": "how often a candidate of the same text is among the first K",
    "r@K-ceiling": "the most that r@K can be, as equal texts cannot be told apart",
    "p@K": "share of the first K that show the same finding",
    "p@K-same": "share of the first K whose text is the same",
    "p@K-same-ceiling": "the most that p@K-same can be",
}
MEANINGS |= {f"iou-{kind}": MEANINGS[f"dice-{kind}"] for kind in ("all", "batches")}
MEANINGS["iou-batches"] = MEANINGS["iou-batches"].replace("dice-all", "iou-all")


def overview_section(run: RunFolder) -> Section | None:
    """Return one table of all sets, tasks and shares of labels; None before any evaluation."""
    lines = [line for each in run.evaluations for line in _lines(each)]
    if not lines:
        return None
    heads = ("test set", "task", "training labels", "metric")
    columns = (*heads, "encoder", *CONTROLS, "films")
    table = Table(
        columns=columns, rows=tuple(lines), caption=f"Main metrics; {CAPTION}, or {REPEATED}"
    )
    metrics = (row["metric"] for each in run.evaluations for row in each.rows)
    return Section(title="Results", blocks=(table, glossary(metrics)))


def _lines(opened: Opened) -> Iterator[tuple[Cell, ...]]:
    """Yield the main metric of each task and share: the mean of the labels where there is one."""
    for task in opened.tasks:
        metric = METRICS.get(task, LABELLED)[0]
        rows = [row for row in opened.rows if (row["task"], row["metric"]) == (task, metric)]
        rows = [row for row in rows if row["label"] == MACRO] or rows
        for fraction in sorted({row["fraction"] for row in rows}):
            at = [row for row in rows if row["fraction"] == fraction]
            source = next((r["threshold_source"] for r in at if r["threshold_source"]), None)
            at = [row for row in at if row["threshold_source"] in (source, None)]
            numbers = (number_text(of) if of else None for of in _beside(at))
            films = counted_row(at)["n"] or None
            yield (opened.name, task, short(fraction), metric, *numbers, films)


def _beside(rows: list[Row]) -> Iterator[list[Row]]:
    """Yield the rows of the encoder, then of each control."""
    yield [row for row in rows if row["encoder"] not in CONTROLS]
    for name in CONTROLS:
        yield [row for row in rows if row["encoder"] == name]


def glossary(metrics: Iterable[str]) -> Fold:
    """Return a folded table of these metrics and what they mean."""
    names = list(dict.fromkeys(metrics))
    rows = tuple((name, meaning) for name in names if (meaning := MEANINGS.get(general(name))))
    table = Table(columns=("metric", "meaning"), rows=rows)
    return Fold(summary="What the metrics mean", blocks=(table,))


def general(metric: str) -> str:
    """Return the name of a metric with K for the number behind its @."""
    return re.sub(r"@\d+", "@K", metric)
