"""The statistics of evaluations in lines that are read on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import read_json
from ..metrics import MACRO
from ..table import aligned
from .written import FILE

MAIN = ("auroc", "dice", "map", "r@5")  # metrics that encoders are compared by


def statistics_text(document: Mapping[str, Any], folder: Path) -> str:
    """Return all that is known beside the numbers of an evaluation; empty when nothing is."""
    path = folder / FILE
    known = read_json(path) if path.is_file() else {}
    tasks = {row["task"] for row in document["rows"]}
    printed = [row for row in document["published"] if row["task"] in tasks]
    parts = (
        summary_lines(known.get("summary", [])),
        comparison_lines(known.get("comparisons", [])),
        slice_lines(known.get("slices", [])),
        published_lines(printed),
    )
    return "".join("\n".join(["", *lines, ""]) for lines in parts if lines)


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
    """Return the paired differences; nothing when there is nothing to compare."""
    if not rows:
        return []
    heads = ["paired difference", "task", "train labels", "metric", "difference", "p", "p (Holm)"]
    table = [[*heads, "smallest to be shown"]]
    for row in rows:
        pair = f"{row['encoder']} - {row['other']}"
        numbers = [_number(row[name]) for name in ("p", "p_holm", "smallest")]
        difference = _with_interval(row, "difference", "+.3f")
        where = [row["task"], _share(row), row["metric"]]
        table.append([pair, *where, difference, *numbers])
    return aligned(table)


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
