"""Results that papers print (`eval/published.yaml`), and which of them may stand beside a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ...contract import SPLITS, ImitateError
from ..metrics import MACRO
from ..testset import TestSet

LISTS = {"fractions": "fraction", "metrics": "metric", "labels": "label"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed number, in percent as printed; `fraction` is None where it is not stated."""

    source: str
    note: str
    task: str
    protocol: str
    dataset: str
    metric: str
    label: str
    fraction: float | None
    method: str
    value: float


@cache
def read_published() -> tuple[Published, ...]:
    """Read every number of the data file, in its order."""
    package = str(__package__).rpartition(".")[0]
    file = resources.files(package).joinpath("published.yaml")
    tables = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tuple(number for table in tables for number in _numbers(table))


def _numbers(table: Mapping[str, Any]) -> Iterator[Published]:
    (name,) = [name for name in LISTS if name in table]
    known = {"note": "", "label": MACRO} | {
        key: value for key, value in table.items() if key not in (name, "methods")
    }
    for method, values in table["methods"].items():
        if len(values) != len(table[name]):
            raise ImitateError(f"{method} has not one number for each of {name}")
        for place, value in zip(table[name], values, strict=True):
            if value is not None:
                told = known | {LISTS[name]: place, "method": method, "value": float(value)}
                yield Published(**told)


def comparable(tests: TestSet) -> tuple[Published, ...]:
    """Return what was published for the archive and protocol of a set, if it is the whole of it.

    Nothing for a phantom, a set of which pictures are missing or were left out, or one whose
    splits are not of the published sizes.
    """
    facts = tests.shards.card.get("prep", {}).get("archive", {}).get("protocol") or {}
    sizes = facts.get("published", {})
    whole = (
        not tests.phantom
        and facts.get("complete") is True
        and set(sizes) == set(SPLITS)
        and all(len(tests.films[split]) == size for split, size in sizes.items())
    )
    if not whole:
        return ()
    place = tests.archive, tests.protocol
    return tuple(
        number for number in read_published() if (number.dataset, number.protocol) == place
    )
