"""From scores to numbers: the rows of results, the rows of predictions, and the printed table.

Axes: N test samples, L labels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..files import arrow_schema
from ..schema import PREDICTIONS, RESULTS
from .encoders.encoder import SUPERVISED
from .metrics import MACRO, MIN_CASES, Scored
from .statistics.answers import VALIDATE, Answers, answer_rows
from .testset import TestSet

Row = dict[str, Any]
Metric = tuple[str, str | None]  # its name, and the source of its thresholds

PROTOCOL = "clean"
RANDOM, NO_PIXELS = CONTROLS = ("random", "no-pixels")  # encoders that no training has made


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one set of scores belongs to; the fields are those of the contract's tables."""

    encoder: str
    run_digest: str
    pretrain_seed: int | None
    task: str
    fraction: float
    draw: int
    head_seed: int
    protocol: str = PROTOCOL

    @property
    def name(self) -> str:
        """Name of the cell's files, unique in an evaluation."""
        whose = self.encoder if self.encoder in CONTROLS else "own"
        return f"{whose}-{self.task}-{self.fraction}-{self.draw}-{self.head_seed}"


def result_rows(
    tests: TestSet,
    cell: Cell,
    scored: Scored,
    *,
    seed: int,
    sources: Sequence[str] = (VALIDATE,),
    exclusive: bool = False,
) -> list[Row]:
    """Return one row of RESULTS a number: each metric of each label, then the macro means.

    `sources` are those of the thresholds of accuracy and F1, see `answer_rows`; with `exclusive`
    the labels are classes, and top-1 accuracy is among the numbers.
    """
    keys, subjects = (tests.of(column, tests.test) for column in ("key", "subject_id"))
    samples = [(str(key), subject) for key, subject in zip(keys, subjects, strict=True)]
    found = tests.test.targets, scored.scores
    answers = Answers.of(tests.labels, samples, *found, scored.settled, exclusive=exclusive)
    common = {"dataset": tests.name} | asdict(cell)
    rows = answer_rows(answers, common, seed=seed, sources=sources)
    return [{column: row[column] for column in RESULTS.names} for row in rows]


def prediction_table(tests: TestSet, cell: Cell, scored: Scored) -> pa.Table:
    """Return the rows of PREDICTIONS of a cell: every label of every labelled test sample, once."""
    keys, subjects = (
        np.array(tests.of(column, tests.test), dtype=object) for column in ("key", "subject_id")
    )
    parts = []
    for label, name in enumerate(tests.labels):
        target_N, score_N = tests.test.targets[:, label], scored.scores[:, label]
        used_N = ~(np.isnan(target_N) | np.isnan(score_N))
        fixed = {"label": name, "protocol": PROTOCOL} | asdict(cell)
        columns: dict[str, Any] = {
            "key": keys[used_N],
            "subject_id": subjects[used_N],
            "target": target_N[used_N],
            "score": score_N[used_N],
        }
        columns |= {k: [fixed[k]] * int(used_N.sum()) for k in PREDICTIONS.names if k in fixed}
        schema = arrow_schema(PREDICTIONS)
        parts.append(pa.table({k: columns[k] for k in PREDICTIONS.names}, schema=schema))
    return pa.concat_tables(parts)


def to_csv(rows: Sequence[Row]) -> str:
    """Return rows of RESULTS as csv; an empty field is a missing number."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, RESULTS.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def render(document: Mapping[str, Any]) -> str:
    """Return the readable form of results.json: a table a task, then its first metric by label."""
    kind = " — PHANTOM data, drawn and worded by a program" if document["phantom"] else ""
    lines = [f"{document['dataset']}{kind}: test split, protocol {document['protocol']}", ""]
    for task in dict.fromkeys(row["task"] for row in document["rows"]):
        groups = _groups([row for row in document["rows"] if row["task"] == task])
        metrics = _metrics(groups)
        lines += [*_macro_lines(task, groups, metrics), "", *_label_lines(groups, metrics[0])]
    return "\n".join([*lines, *_notes(document)])


def _notes(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know: the intervals, the threshold, what is left out and why."""
    measured = [row for row in document["rows"] if row["ci_low"] is not None]
    methods = ", ".join(sorted({row["ci_method"] for row in measured}))
    damaged = len(document["damaged"])
    supervised = any(row["encoder"].endswith(SUPERVISED) for row in document["rows"])
    decided = {row["threshold_source"] for row in document["rows"]} - {None}
    blind = any(row["metric"] == "auroc" for row in measured) and not decided
    return [
        *([f"95 % intervals: {methods}."] if methods else []),
        *(["Without labelled validation films no threshold was chosen."] if blind else []),
        *(["Thresholds are those of validate unless a column says otherwise."] if decided else []),
        f"A label with fewer than {MIN_CASES} positives or negatives is empty and not in macro.",
        *left_out(document["cells"]),
        *([f"{damaged} damaged samples were left out"] if damaged else []),
        *(["* pre-trained with labels, of an archive or of reports"] if supervised else []),
    ]


def left_out(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which labels cells could not be measured on, a line for each task, share and reason.

    Labels that only some draws of a share lack are among them.
    """
    skipped: dict[str, set[str]] = {}
    for told in cells:
        cell = told["cell"]
        for label, reason in told.get("skipped", {}).items():
            share = f"{100 * cell['fraction']:.4g} %"
            skipped.setdefault(f"{cell['task']} at {share}, {reason}", set()).add(label)
    return [f"left out of {where}: {', '.join(sorted(skipped[where]))}" for where in skipped]


def _groups(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Gather rows of one encoder and fraction: the draws and seeds that a line averages."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["encoder"], row["fraction"]), []).append(row)
    return groups


def _metrics(groups: Mapping[Any, Sequence[Row]]) -> list[Metric]:
    """Return the metrics of a task, each with the source of its thresholds, in order."""
    found = [(row["metric"], row["threshold_source"]) for rows in groups.values() for row in rows]
    named = {metric for metric, source in found if source is not None}
    order = list(dict.fromkeys(metric for metric, _ in found))
    kept = dict.fromkeys((m, s) for m, s in found if s is not None or m not in named)
    return sorted(kept, key=lambda metric: order.index(metric[0]))


def _of(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """Return the rows of a metric; an empty number has no source, and may stand for any."""
    name, source = metric
    return [r for r in rows if r["metric"] == name and r["threshold_source"] in (source, None)]


def _macro_lines(
    task: str, groups: Mapping[tuple[str, float], list[Row]], metrics: Sequence[Metric]
) -> list[str]:
    heads = [
        name if source in (None, VALIDATE) else f"{name} ({source})" for name, source in metrics
    ]
    table = [["#", task, "train labels", *heads, "labels", "n"]]
    for number, ((encoder, fraction), rows) in enumerate(groups.items(), start=1):
        macro = [row for row in rows if row["label"] == MACRO] or rows
        first = _of(rows, metrics[0])
        films = max(row["n"] for row in macro if row["metric"] == macro[0]["metric"])
        used = {row["label"] for row in first if row["value"] is not None} - {MACRO}
        labels = {row["label"] for row in first} - {MACRO}
        table.append(
            [f"{number}", encoder, f"{100 * fraction:.4g} %" if fraction else "none"]
            + [_shown(_of(macro, metrics[0]), spread=True)]
            + [_shown(_of(macro, metric), spread=False) for metric in metrics[1:]]
            + [f"{len(used)}/{len(labels)}", f"{films}"]
        )
    return aligned(table)


def _label_lines(groups: Mapping[tuple[str, float], list[Row]], metric: Metric) -> list[str]:
    chosen = [_of(rows, metric) for rows in groups.values()]
    labels = dict.fromkeys(row["label"] for row in chosen[0] if row["label"] != MACRO)
    if len(labels) < 2:
        return []
    table = [[f"{metric[0]} by label", "positive", *(f"#{i + 1}" for i in range(len(chosen)))]]
    for label in labels:
        cells = [[row for row in rows if row["label"] == label] for rows in chosen]
        # a label that could not be learned from a small share of the labels has no answers there
        most = max((row for rows in cells for row in rows), key=lambda row: row["n"])
        positive = f"{most['n_pos']}/{most['n']}"
        table.append([label, positive, *(_shown(rows, spread=True) for rows in cells)])
    return [*aligned(table), ""]


def _shown(rows: Sequence[Row], *, spread: bool) -> str:
    """Return a number with its interval, or the mean of several with their deviation."""
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values:
        return "–"
    text = f"{np.mean(values):.3f}"
    if not spread:
        return text
    if len(values) > 1:
        return f"{text} (sd {np.std(values, ddof=1):.3f} of {len(values)})"
    low, high = rows[0]["ci_low"], rows[0]["ci_high"]
    return text if low is None else f"{text} [{low:.3f}, {high:.3f}]"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines, its columns side by side."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
