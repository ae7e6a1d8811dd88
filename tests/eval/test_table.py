"""Rows of numbers from scores, and how they are shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitate.contract import Folders
from imitate.eval.intervals import Units, resamples
from imitate.eval.metrics import Scored, auroc, thresholds_of
from imitate.eval.table import Cell, render, result_rows, to_csv
from imitate.eval.testset import TestSet, open_testset
from imitate.schema import RESULTS
from imitate.shards.manifest import ShardSet

CELL = Cell(
    encoder="run",
    run_digest="d",
    pretrain_seed=3,
    task="linear",
    fraction=1.0,
    draw=0,
    head_seed=0,
)


@pytest.fixture
def tests(built: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))


@pytest.fixture
def scored(tests: TestSet) -> Scored:
    target_NL = tests.test.targets
    noise_NL = np.random.default_rng(0).standard_normal(target_NL.shape)
    score_NL = np.nan_to_num(target_NL) + noise_NL
    return Scored(scores=score_NL, thresholds=thresholds_of(target_NL, score_NL), skipped={})


def one(rows: list[dict[str, Any]], metric: str, label: str) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["metric"], row["label"]) == (metric, label))
    return row


def test_macro_interval_resamples_all_labels_together(tests: TestSet, scored: Scored) -> None:
    row = one(result_rows(tests, CELL, scored, seed=0), "auroc", "macro")
    means = []
    for weight_BN in resamples(Units.of(tests.of("subject_id", tests.test)), seed=0):
        areas = []
        for label in ("Edema", "Pneumonia"):
            at = tests.labels.index(label)
            known = ~np.isnan(tests.test.targets[:, at])
            target, score = (a[known, at] for a in (tests.test.targets, scored.scores))
            areas.append(auroc(target, score, weight_BN[:, known]))
        means += list(np.mean(areas, axis=0))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(np.quantile(means, (0.025, 0.975)))


def test_rows_hold_every_metric_of_every_label(tests: TestSet, scored: Scored) -> None:
    rows = result_rows(tests, CELL, scored, seed=0)
    assert len(rows) == 4 * (3 + 1) and all(tuple(row) == RESULTS.names for row in rows)
    hernia = one(rows, "f1", "Hernia")
    assert (hernia["value"], hernia["n_pos"], hernia["threshold_source"]) == (None, 0, None)
    assert one(rows, "auroc", "macro")["threshold_source"] is None
    assert one(rows, "f1", "macro")["threshold_source"] == "validate"


def test_a_label_without_threshold_has_no_accuracy_but_an_area(
    tests: TestSet, scored: Scored
) -> None:
    bare = replace(scored, thresholds=(None,) * 3)
    rows = result_rows(tests, CELL, bare, seed=0)
    assert one(rows, "accuracy", "Edema")["value"] is one(rows, "f1", "macro")["value"] is None
    assert one(rows, "auroc", "Edema")["value"] is not None


def test_a_missing_number_is_an_empty_field(tests: TestSet, scored: Scored) -> None:
    lines = to_csv(result_rows(tests, CELL, scored, seed=0)).splitlines()
    hernia = next(line for line in lines if ",auroc,,Hernia," in line)
    assert ",Hernia,,,,bootstrap-subjects-1000," in hernia
    assert "None" not in "".join(lines) and "nan" not in "".join(lines)


def document(rows: list[dict[str, Any]], skipped: dict[str, str]) -> dict[str, Any]:
    cell = {"cell": {"fraction": 0.1}, "skipped": skipped}
    head = {"dataset": "rsna", "phantom": False, "protocol": "clean", "damaged": []}
    return head | {"rows": rows, "cells": [cell, cell]}


def test_table_averages_draws_and_says_what_is_left_out(tests: TestSet, scored: Scored) -> None:
    draws = []
    for draw in (0, 1):
        cell = replace(CELL, fraction=0.1, draw=draw)
        shifted = replace(scored, scores=scored.scores * (1 - 2 * draw))
        draws += result_rows(tests, cell, shifted, seed=0)
    text = render(document(draws, {"Hernia": "no training label", "Edema": "no training label"}))
    assert "PHANTOM" not in text
    macro = next(line for line in text.splitlines() if line.startswith("1  run"))
    assert "10 %" in macro and "0.500 (sd" in macro and "of 2)" in macro and "2/3" in macro
    assert "left out of linear at 10 %, no training label: Edema, Hernia" in text
    assert next(line for line in text.splitlines() if line.startswith("Hernia")).endswith("–")
