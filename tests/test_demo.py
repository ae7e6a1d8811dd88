"""The demo's encoder, trained on phantoms from scratch, against its controls."""

import csv
from pathlib import Path
from typing import Any

import pytest

from imitate.cli import app

Rows = list[dict[str, str]]


def imitate(*arguments: object) -> None:
    app([str(word) for word in arguments], standalone_mode=False)


def table(root: Path, dataset: str, name: str, **wanted: str) -> Rows:
    (run,) = (root / "runs").iterdir()
    with (run / "eval" / dataset / f"{name}.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def of_encoders(rows: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of the run and of its random control."""
    (own,) = (row for row in rows if row["encoder"] not in ("random", "no-pixels"))
    (random,) = (row for row in rows if row["encoder"] == "random")
    return own, random


@pytest.mark.slow
def test_the_demo_learns_what_its_controls_do_not(tmp_path: Path) -> None:
    imitate("demo", "--root", tmp_path, "--quiet")
    few = ["--fraction", 0.01, "--draws", 5]
    imitate("eval", "phantom-mimic", "--task", "linear", *few, "--root", tmp_path, "--quiet")
    imitate("eval", "phantom-mimic", "--task", "retrieve", "--root", tmp_path, "--quiet")
    imitate("eval", "phantom-rsna", "--task", "ground", "--root", tmp_path, "--quiet")

    zeroshot = {"task": "zeroshot", "metric": "auroc"}
    for dataset, label in (("phantom-rsna", "Pneumonia"), ("phantom-mimic", "macro")):
        own, random = of_encoders(table(tmp_path, dataset, "results", label=label, **zeroshot))
        assert float(own["value"]) >= 0.9, dataset
        assert float(random["ci_high"]) < float(own["ci_low"]), dataset

    (linear,) = table(tmp_path, "phantom-mimic", "comparisons", fraction="0.01", other="random")
    assert linear["task"] == "linear" and float(linear["ci_low"]) > 0
    (found,) = table(tmp_path, "phantom-mimic", "comparisons", task="retrieve", other="random")
    assert float(found["ci_low"]) > 0
    for metric in ("pointing", "recall", "dice"):
        rows = table(tmp_path, "phantom-rsna", "results", task="ground", metric=metric)
        own, random = of_encoders(rows)
        assert float(own["value"]) > float(random["value"]), metric
