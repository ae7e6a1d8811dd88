"""From scores to numbers: the rows of results, the rows of predictions, and the printed table.

Axes: N test samples, L labels, M metrics, R bootstrap replicates.
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
from .intervals import Units, bootstrap, interval
from .metrics import METRICS, MIN_CASES, THRESHOLD_METRICS, Floats, Scored, measure, ones
from .testset import TestSet

Row = dict[str, Any]

MACRO = "macro"
PROTOCOL = "clean"
THRESHOLD_SOURCE = "validate"


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

    @property
    def name(self) -> str:
        """Name of the cell's files, unique in an evaluation."""
        whose = "random" if self.encoder == "random" else "own"
        return f"{whose}-{self.task}-{self.fraction}-{self.draw}-{self.head_seed}"


def result_rows(tests: TestSet, cell: Cell, scored: Scored, *, seed: int) -> list[Row]:
    """Return one row of RESULTS a number: each metric of each label, then the macro means."""
    target_NL = tests.test.targets
    units = Units.of(tests.of("subject_id", tests.test))
    value_LM = _values(target_NL, scored)
    counted_L = _counted(target_NL, scored.scores)
    value_LM[~counted_L] = np.nan
    spread_RLM = bootstrap(target_NL, scored.scores, scored.thresholds, units, seed=seed)
    common = {"dataset": tests.shards.name, "protocol": PROTOCOL, "ci_method": units.method()}
    rows = []
    for m, metric in enumerate(METRICS):
        means = ~np.isnan(value_LM[:, m])
        for label, name in [*enumerate(tests.labels), (-1, MACRO)]:
            chosen_L = means if name == MACRO else np.arange(len(means)) == label
            known_N = np.asarray((~np.isnan(target_NL[:, chosen_L])).any(axis=1))
            rows.append(
                common
                | asdict(cell)
                | _number(metric, value_LM[chosen_L & means, m], spread_RLM[:, chosen_L & means, m])
                | {
                    "metric": metric,
                    "label": name,
                    "n": int(known_N.sum()),
                    "n_pos": None if name == MACRO else int(np.nansum(target_NL[:, label])),
                    "n_subjects": units.among(known_N),
                }
            )
    return [{column: row[column] for column in RESULTS.names} for row in rows]


def _values(target_NL: Floats, scored: Scored) -> Floats:
    """Return each metric of each label [L, M] on the test samples themselves."""
    value_LM = np.full((target_NL.shape[1], len(METRICS)), np.nan)
    for label, threshold in enumerate(scored.thresholds):
        target_N, score_N = target_NL[:, label], scored.scores[:, label]
        used_N = ~(np.isnan(target_N) | np.isnan(score_N))
        values = measure(target_N[used_N], score_N[used_N], ones(used_N.sum()), threshold=threshold)
        value_LM[label] = [values[name][0] for name in METRICS]
    return value_LM


def _counted(target_NL: Floats, score_NL: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    used_NL = np.where(np.isnan(score_NL), np.nan, target_NL)
    cases = np.minimum((used_NL == 1).sum(axis=0), (used_NL == 0).sum(axis=0))
    return np.asarray(cases >= MIN_CASES)


def _number(metric: str, value_K: Floats, spread_RK: Floats) -> Row:
    """Return value, interval and threshold's source of a mean over K labels; empty without one."""
    names = ("value", "ci_low", "ci_high", "threshold_source")
    if not len(value_K):
        return dict.fromkeys(names)
    low, high = interval(spread_RK.mean(axis=1)) or (None, None)
    source = THRESHOLD_SOURCE if metric in THRESHOLD_METRICS else None
    return dict(zip(names, (float(value_K.mean()), low, high, source), strict=True))


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
    """Return the readable form of `results.json`: the macro table, then AUROC label by label."""
    kind = " — PHANTOM data, drawn and worded by a program" if document["phantom"] else ""
    title = f"{document['dataset']}{kind}: test split, protocol {document['protocol']}"
    groups = _groups(document["rows"])
    tables = [*_macro_lines(groups), "", "AUROC by label", *_label_lines(groups)]
    return "\n".join([title, "", *tables, "", *_notes(document)])


def _notes(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know: the intervals, the threshold, what is left out and why."""
    methods = ", ".join(sorted({row["ci_method"] for row in document["rows"]}))
    skipped: dict[str, set[str]] = {}
    for cell in document["cells"]:
        for label, reason in cell["skipped"].items():
            place = f"linear at {100 * cell['cell']['fraction']:.4g} %, {reason}"
            skipped.setdefault(place, set()).add(label)
    damaged = len(document["damaged"])
    return [
        f"95 % intervals: {methods}. Accuracy and F1 at the threshold of the best F1 on validate.",
        f"A label with fewer than {MIN_CASES} positives or negatives is empty and not in macro.",
        *(f"left out of {where}: {', '.join(sorted(skipped[where]))}" for where in skipped),
        *([f"{damaged} damaged samples were left out"] if damaged else []),
    ]


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str, float], list[Row]]:
    """Gather rows of one encoder, task and fraction: the draws and seeds that a line averages."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["encoder"], row["task"], row["fraction"]), []).append(row)
    return groups


def _macro_lines(groups: Mapping[tuple[str, str, float], list[Row]]) -> list[str]:
    table = [["#", "encoder", "task", "train labels", "macro AUROC", "AUPRC", "accuracy", "F1"]]
    table[0] += ["labels", "n"]
    for number, ((encoder, task, fraction), rows) in enumerate(groups.items(), start=1):
        macro = [row for row in rows if row["label"] == MACRO]
        by_metric = {m: [row for row in macro if row["metric"] == m] for m in METRICS}
        labels = {row["label"] for row in rows if row["metric"] == "auroc"} - {MACRO}
        used = {row["label"] for row in rows if row["value"] is not None} - {MACRO}
        table.append(
            [f"{number}", encoder, task, f"{100 * fraction:.4g} %" if task == "linear" else "none"]
            + [_shown(by_metric["auroc"], spread=True)]
            + [_shown(by_metric[m], spread=False) for m in METRICS[1:]]
            + [f"{len(used)}/{len(labels)}", f"{macro[0]['n']}"]
        )
    return _aligned(table)


def _label_lines(groups: Mapping[tuple[str, str, float], list[Row]]) -> list[str]:
    auroc = [[r for r in rows if r["metric"] == "auroc"] for rows in groups.values()]
    labels = [row["label"] for row in auroc[0] if row["label"] != MACRO]
    table = [["label", "positive", *(f"#{i}" for i in range(1, len(auroc) + 1))]]
    for label in dict.fromkeys(labels):
        cells = [[row for row in rows if row["label"] == label] for rows in auroc]
        positive = f"{cells[0][0]['n_pos']}/{cells[0][0]['n']}"
        table.append([label, positive, *(_shown(rows, spread=True) for rows in cells)])
    return _aligned(table)


def _shown(rows: Sequence[Row], *, spread: bool) -> str:
    """Return a number with its interval, or the mean of several with their deviation."""
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values:
        return "–"
    text = f"{np.mean(values):.3f}"
    if not spread:
        return text
    if len(rows) > 1:
        return f"{text} (sd {np.std(values):.3f} of {len(values)})"
    low, high = rows[0]["ci_low"], rows[0]["ci_high"]
    return text if low is None else f"{text} [{low:.3f}, {high:.3f}]"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
