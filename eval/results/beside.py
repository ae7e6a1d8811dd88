"""Evaluations of several encoders on one set, joined to be read as one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..table import CONTROLS, Row

Document = Mapping[str, Any]
WHOSE = ("run_digest", "pretrain_seed")  # of a control's weights: no number


def by_set(documents: Sequence[Document]) -> list[list[Document]]:
    """Return the contents of results.json that are of one set and protocol, together, in order."""
    found: dict[tuple[str, str], list[Document]] = {}
    for document in documents:
        found.setdefault((document["dataset"], document["protocol"]), []).append(document)
    return list(found.values())


def side_by_side(documents: Sequence[Document]) -> Document:
    """Return one document with the numbers of all encoders, the controls last.

    A control that says the same beside every encoder comes once; another is named after the
    encoder that it stands beside.
    """
    if len(documents) == 1:
        return documents[0]
    rows = [row for each in documents for row in each["rows"] if row["encoder"] not in CONTROLS]
    for control in CONTROLS:
        for task in dict.fromkeys(row["task"] for row in rows):
            rows += _controls(documents, control, task)
    return dict(documents[0]) | {
        "rows": rows,
        "cells": [cell for each in documents for cell in each["cells"]],
        "damaged": sorted({key for each in documents for key in each["damaged"]}),
        "published": list({str(n): n for each in documents for n in each["published"]}.values()),
    }


def _controls(documents: Sequence[Document], control: str, task: str) -> Iterator[Row]:
    """Yield the rows of a control on a task: once for all encoders beside which they are equal."""
    equal: dict[str, tuple[list[str], list[Row]]] = {}
    for each in documents:
        rows = [row for row in each["rows"] if (row["encoder"], row["task"]) == (control, task)]
        if rows:
            names, _ = equal.setdefault(str([_numbers(row) for row in rows]), ([], rows))
            names.append(each["encoder"]["name"])
    for names, rows in equal.values():
        name = control if len(equal) == 1 else f"{control} of {', '.join(names)}"
        yield from ({**row, "encoder": name} for row in rows)


def _numbers(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in WHOSE}
