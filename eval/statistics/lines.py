"""The statistics of evaluations in lines that are read on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import read_json
from ..metrics import MACRO
from ..table import CONTROLS, aligned
from .written import FILE

PLACE = ("encoder", "task", "fraction", "metric")  # of a row of SUMMARY in one set's table
MAIN = ("auroc", "dice", "map", "pointing", "r@5")  # metrics that encoders are compared by


def statistics_text(document: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """Return all that is known beside the numbers of evaluations of one set; empty without any.

    `document` holds the numbers of all. They were compared with each other, so each of them has the
    same comparisons.
    """
    known = {f: read_json(f / FILE) for f in folders if (f / FILE).is_file()}
    named = _named({folder.parents[1].name: known[folder]["summary"] for folder in known})
    compared = [row for each in [*known.values()][:1] for row in each["comparisons"]]
    tasks = {row["task"] for row in document["rows"]}
    printed = [row for row in document["published"] if row["task"] in tasks]
    parts = (
        summary_lines(named),
        comparison_lines(compared),
        slice_lines([row for each in known.values() for row in each["slices"]]),
        published_lines(printed),
    )
    return "".join("\n".join(["", *lines, ""]) for lines in parts if lines)


def _named(summaries: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Return the rows of all runs, controls last.

    A control that says the same beside every encoder comes once; another is named after the run.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    beside = [row for summary in summaries.values() for row in summary]
    for name, summary in summaries.items():
        for row in summary:
            places = [row[column] for column in PLACE]
            level = all(r == row for r in beside if [r[column] for column in PLACE] == places)
            own = row["encoder"] not in CONTROLS or level
            told = row if own else dict(row) | {"encoder": f"{row['encoder']} of {name}"}
            rows[str(told)] = told
    return sorted(rows.values(), key=lambda row: row["encoder"].split(" of ")[0] in CONTROLS)


def summary_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the main metric of each encoder over its draws and seeds; nothing without repeats."""
    table = [["draws and seeds together", "task", "train labels", "metric", "mean", "sd", "of"]]
    for row in rows:
        if row["metric"] in MAIN and row["value"] is not None:
            numbers = [_with_interval(row, "value"), _number(row["sd"]), f"{row['repeats']}"]
            table.append([row["encoder"], row["task"], _share(row), row["metric"], *numbers])
    return aligned(table) if len(table) > 1 else []


def slice_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the macro of each slice; of several draws or seeds the first."""
    table = [["slice", "encoder", "task", "train labels", "macro auroc", "n"]]
    for row in rows:
        if row["label"] == MACRO and (row["draw"], row["head_seed"]) == (0, 0):
            numbers = [_with_interval(row, "value"), f"{row['n']}"]
            where = f"{row['property']} {row['slice']}"
            table.append([where, row["encoder"], row["task"], _share(row), *numbers])
    return aligned(table) if len(table) > 1 else []


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paired differences; nothing where none could be measured."""
    heads = ["paired difference", "task", "train labels", "metric", "difference", "p", "p (Holm)"]
    table = [[*heads, "smallest to be shown"]]
    for row in (row for row in rows if row["difference"] is not None):
        pair = f"{row['encoder']} - {row['other']}"
        numbers = [_number(row[name]) for name in ("p", "p_holm", "smallest")]
        difference = _with_interval(row, "difference", "+.3f")
        where = [row["task"], _share(row), row["metric"]]
        table.append([pair, *where, difference, *numbers])
    return aligned(table) if len(table) > 1 else []


def published_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what papers print for this archive and protocol, in percent; macro numbers only."""
    macro = [row for row in rows if row["label"] == MACRO]
    lines = []
    for source, task, metric in dict.fromkeys(_printed_in(row) for row in macro):
        found = [row for row in macro if _printed_in(row) == (source, task, metric)]
        shares = sorted({row["fraction"] for row in found})
        lines += [f"published, not measured here: {task}, {metric} in percent; {source}"]
        lines += [f"  {note}" for note in sorted({row["note"] for row in found} - {""})]
        heads = [f"{100 * share:.4g} %" if share else metric for share in shares]
        table = [["", "method", *heads]]
        for method in dict.fromkeys(row["method"] for row in found):
            values = {row["fraction"]: row["value"] for row in found if row["method"] == method}
            numbers = [f"{values[share]:.1f}" if share in values else "–" for share in shares]
            table.append(["", method, *numbers])
        lines += aligned(table)
    return lines


def _printed_in(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["source"], row["task"], row["metric"]


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['fraction']:.4g} %" if row["fraction"] else "none"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if 0 <= value < 0.0005 else f"{value:.3f}"


def _with_interval(row: Mapping[str, Any], name: str, form: str = ".3f") -> str:
    if row[name] is None:
        return "–"
    text = f"{row[name]:{form}}"
    low, high = row["ci_low"], row["ci_high"]
    return text if low is None else f"{text} [{low:{form}}, {high:{form}}]"
