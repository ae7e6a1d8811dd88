"""Rows of numbers from scores, and how they are shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitate.contract import Folders
from imitate.eval.intervals import Units, resamples
from imitate.eval.metrics import METRICS, Scored, Settled, auroc, f1, ones, settle
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
    share_NL = 1 / (1 + np.exp(-score_NL))
    return Scored(scores=share_NL, settled=settle(target_NL, share_NL), skipped={})


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
    assert len(rows) == len(METRICS) * (3 + 1) and all(tuple(row) == RESULTS.names for row in rows)
    hernia = one(rows, "f1", "Hernia")
    assert (hernia["value"], hernia["n_pos"], hernia["threshold_source"]) == (None, 0, None)
    assert one(rows, "auroc", "macro")["threshold_source"] is None
    assert one(rows, "f1", "macro")["threshold_source"] == "validate"
    assert one(rows, "sensitivity@90", "Edema")["threshold_source"] == "validate"
    assert one(rows, "brier", "Edema")["ci_low"] < one(rows, "brier", "Edema")["value"]


def test_a_calibration_error_has_no_interval(tests: TestSet, scored: Scored) -> None:
    row = one(result_rows(tests, CELL, scored, seed=0), "ece", "macro")
    assert row["value"] > 0
    assert (row["ci_low"], row["ci_high"], row["ci_method"]) == (None, None, "none")


def test_thresholds_chosen_on_the_test_set_are_said_to_be(tests: TestSet, scored: Scored) -> None:
    low = tuple(replace(settled, threshold=0.1) for settled in scored.settled)
    asked = replace(scored, settled=low)
    rows = result_rows(tests, CELL, asked, seed=0, sources=("validate", "test", "fixed"))
    found = {r["threshold_source"]: r for r in rows if (r["metric"], r["label"]) == ("f1", "Edema")}
    at = tests.labels.index("Edema")
    known = ~np.isnan(tests.test.targets[:, at])
    target, score = (a[known, at] for a in (tests.test.targets, scored.scores))
    values = {t: f1(target, score, ones(len(target)), threshold=t)[0] for t in set(score)}
    assert found["test"]["value"] == pytest.approx(max(values.values()))
    for source, threshold in (("validate", 0.1), ("fixed", 0.5)):
        naive = f1(target, score, ones(len(target)), threshold=threshold)[0]
        assert found[source]["value"] == pytest.approx(naive)
    assert found["validate"]["value"] < found["test"]["value"]
    assert len([r for r in rows if r["metric"] == "auroc"]) == 3 + 1
    text = render(document(rows, {}))
    heads = next(line for line in text.splitlines() if line.startswith("#"))
    assert "f1 " in heads and "f1 (test)" in heads and "accuracy (fixed)" in heads


def test_an_encoder_that_labels_have_supervised_is_marked(tests: TestSet, scored: Scored) -> None:
    note = "* pre-trained with labels"
    plain, marked = (
        render(document(result_rows(tests, cell, scored, seed=0), {}))
        for cell in (CELL, replace(CELL, encoder=f"{CELL.encoder}*"))
    )
    assert note not in plain
    assert note in marked and f"{CELL.encoder}*" in marked


def test_a_label_without_threshold_has_no_accuracy_but_an_area(
    tests: TestSet, scored: Scored
) -> None:
    bare = replace(scored, settled=(Settled(slope=1.0),) * 3)
    rows = result_rows(tests, CELL, bare, seed=0)
    assert one(rows, "accuracy", "Edema")["value"] is one(rows, "f1", "macro")["value"] is None
    assert one(rows, "auroc", "Edema")["value"] is not None


def test_a_missing_number_is_an_empty_field(tests: TestSet, scored: Scored) -> None:
    lines = to_csv(result_rows(tests, CELL, scored, seed=0)).splitlines()
    hernia = next(line for line in lines if ",auroc,,Hernia," in line)
    assert ",Hernia,,,,bootstrap-subjects-1000," in hernia
    assert "None" not in "".join(lines) and "nan" not in "".join(lines)


def document(rows: list[dict[str, Any]], skipped: dict[str, str]) -> dict[str, Any]:
    cell = {"cell": {"task": "linear", "fraction": 0.1}, "skipped": skipped}
    head = {"dataset": "rsna", "phantom": False, "protocol": "clean", "damaged": []}
    return head | {"rows": rows, "cells": [cell, cell]}


def test_table_averages_draws_and_says_what_is_left_out(tests: TestSet, scored: Scored) -> None:
    draws = []
    for draw in (0, 1):
        cell = replace(CELL, fraction=0.1, draw=draw)
        shifted = replace(scored, scores=abs(scored.scores - draw))
        draws += result_rows(tests, cell, shifted, seed=0)
    text = render(document(draws, {"Hernia": "no training label", "Edema": "no training label"}))
    assert "PHANTOM" not in text
    macro = next(line for line in text.splitlines() if line.startswith("1  run"))
    assert "10 %" in macro and "0.500 (sd" in macro and "of 2)" in macro and "2/3" in macro
    assert "left out of linear at 10 %, no training label: Edema, Hernia" in text
    assert next(line for line in text.splitlines() if line.startswith("Hernia")).endswith("–")


def test_a_draw_that_taught_nothing_changes_neither_films_nor_the_order_of_metrics(
    tests: TestSet, scored: Scored
) -> None:
    nothing = replace(scored, scores=np.full_like(scored.scores, np.nan))
    draws = []
    for draw, each in enumerate((nothing, scored)):
        draws += result_rows(tests, replace(CELL, fraction=0.1, draw=draw), each, seed=0)
    head, line, *_ = render(document(draws, {})).splitlines()[2:]
    assert head.split()[4:-2] == list(METRICS)
    assert (
        int(line.split()[-1])
        == one(result_rows(tests, CELL, scored, seed=0), "auroc", "macro")["n"]
    )


def test_notes_say_what_was_measured_only(tests: TestSet, scored: Scored) -> None:
    blind = [Settled()] * len(tests.labels)
    rows = result_rows(tests, CELL, replace(scored, settled=blind), seed=0)
    text = render(document(rows, {}))
    assert "Without labelled validation films no threshold was chosen." in text
    assert "Thresholds are those" not in text and "bootstrap-subjects-1000." in text
    nothing = replace(scored, scores=np.full_like(scored.scores, np.nan))
    text = render(document(result_rows(tests, CELL, nothing, seed=0), {}))
    assert "95 % intervals" not in text and "Without" not in text
