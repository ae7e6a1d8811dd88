"""Tables as papers print them: one a task, all encoders down, sets and label fractions across.

Numbers are the headline metrics that a protocol names, times 100 (of `one or other` the first that
a set has); over several draws or seeds the mean, with the deviation where there are more than one.
The csv has the same numbers unrounded, with the interval of each that stands alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...files import read_json, write_text
from ..metrics import MACRO
from ..protocols.setting import read_setting
from ..table import Row
from ..tasks.registry import TASKS
from .beside import by_set, side_by_side

COLUMNS = ("encoder", "dataset", "protocol", "task", "fraction", "metric", "value")
MORE = ("sd", "count", "ci_low", "ci_high", "phantom")


@dataclass(frozen=True, kw_only=True, order=True)
class Column:
    """A column of a table: a set, a fraction of its labels, and a metric."""

    dataset: str
    protocol: str
    fraction: float
    metric: str
    phantom: bool

    @property
    def title(self) -> str:
        """What stands above the column."""
        share = f" {100 * self.fraction:.4g} %" if self.fraction else ""
        kind = " (phantom)" if self.phantom else ""
        return f"{self.dataset}{kind}, {self.protocol}{share}, {self.metric}"


Table = Mapping[str, Mapping[Column, Sequence[Row]]]  # rows of each encoder and column


def write_tables(folders: Sequence[Path], *, write: bool) -> list[Path]:
    """Write `<task>.md`, `.csv` and `.tex` for every task, from the results below all `folders`.

    Each folder gets the same tables. Returns the Markdown files of the first; without `write`
    nothing is written.
    """
    paths = [path for folder in folders for path in sorted(folder.glob("*/results.json"))]
    documents = [side_by_side(each) for each in by_set([read_json(path) for path in paths])]
    tables = []
    for task in TASKS:
        table, columns = gather(documents, task)
        if not columns:
            continue
        tables.append(folders[0] / f"{task}.md")
        for folder in folders if write else ():
            write_text(folder / f"{task}.md", to_markdown(table, columns))
            write_text(folder / f"{task}.csv", to_csv(table, columns))
            write_text(folder / f"{task}.tex", to_latex(table, columns))
    return tables


def gather(documents: Sequence[Mapping[str, Any]], task: str) -> tuple[Table, list[Column]]:
    """Return the headline rows of a task by encoder and column, and the columns in order."""
    table: dict[str, dict[Column, list[Row]]] = {}
    for document in documents:
        setting = read_setting(document["protocol"], task, document["archive"]) or {}
        rows = [row for row in document["rows"] if row["task"] == task]
        for headline in setting.get("headline", []):
            metric = next((m for m in headline.split(" or ") if _whole(rows, m)), headline)
            for row in _whole(rows, metric):
                column = Column(
                    dataset=row["dataset"],
                    protocol=row["protocol"],
                    fraction=row["fraction"],
                    metric=metric,
                    phantom=document["phantom"],
                )
                table.setdefault(row["encoder"], {}).setdefault(column, []).append(row)
    columns = dict.fromkeys(column for cells in table.values() for column in cells)
    order = {metric: i for i, metric in enumerate(column.metric for column in columns)}
    place = lambda c: (c.dataset, c.fraction, order[c.metric])  # noqa: E731
    return table, sorted(columns, key=place)


def _whole(rows: Sequence[Row], headline: str) -> list[Row]:
    """Return the rows of a metric over all labels: the macro mean, or the only label.

    A headline may name the label behind the metric, as `r@1 image-to-text`.
    """
    metric, _, label = headline.partition(" ")
    found = [row for row in rows if row["metric"] == metric and row["value"] is not None]
    if label:
        return [row for row in found if row["label"] == label]
    sources = dict.fromkeys(row["threshold_source"] for row in found)
    found = [row for row in found if row["threshold_source"] == next(iter(sources))]
    macro = [row for row in found if row["label"] == MACRO]
    return macro or [row for row in found if row["label"] == found[0]["label"]]


def _number(rows: Sequence[Row] | None) -> str:
    """Return a cell: the value or mean, times 100, and its deviation."""
    if not rows:
        return "–"
    values = [100 * row["value"] for row in rows]
    text = f"{np.mean(values):.1f}"
    return f"{text} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else text


def _cells(table: Table, columns: Sequence[Column]) -> list[list[str]]:
    head = ["encoder", *(column.title for column in columns)]
    body = [
        [encoder, *(_number(cells.get(column)) for column in columns)]
        for encoder, cells in table.items()
    ]
    return [head, *body]


def to_markdown(table: Table, columns: Sequence[Column]) -> str:
    """Return the table in Markdown."""
    head, *body = _cells(table, columns)
    lines = [head, ["---", *("---:" for _ in columns)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_latex(table: Table, columns: Sequence[Column]) -> str:
    """Return the table as a LaTeX tabular."""
    head, *body = ([_escaped(cell) for cell in line] for line in _cells(table, columns))
    lines = [" & ".join(line) + r" \\" for line in (head, *body)]
    begin = rf"\begin{{tabular}}{{l{'r' * len(columns)}}}"
    rule = r"\hline"
    return "\n".join([begin, rule, lines[0], rule, *lines[1:], rule, r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    for sign in "_%&#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$").replace("–", "--")


def to_csv(table: Table, columns: Sequence[Column]) -> str:
    """Return one line a number, unrounded."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*COLUMNS, *MORE), lineterminator="\n")
    writer.writeheader()
    for cells in table.values():
        for column in columns:
            if rows := cells.get(column):
                writer.writerow(_line(rows, column))
    return text.getvalue()


def _line(rows: Sequence[Row], column: Column) -> dict[str, Any]:
    values = [row["value"] for row in rows]
    alone = rows[0] if len(rows) == 1 else {"ci_low": None, "ci_high": None}
    return {name: rows[0][name] for name in COLUMNS} | {
        "metric": column.metric,
        "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "count": len(values),
        "ci_low": alone["ci_low"],
        "ci_high": alone["ci_high"],
        "phantom": column.phantom,
    }
