"""Repeats joined, paired differences, and Holm's correction, against naive restatements."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.eval.intervals import Units, resamples
from imitate.eval.metrics import METRICS, Settled, auroc
from imitate.eval.statistics.answers import Answers
from imitate.eval.statistics.comparison import Group, compare, groups_of, holm, summary_rows

CELL = {"task": "linear", "protocol": "clean", "fraction": 1.0, "draw": 0, "head_seed": 0}


def answers(target: np.ndarray, score: np.ndarray, subjects: Any = None) -> Answers:
    """Answers of probabilities, one label a column, on films `a000`, `a001` and so on."""
    n, labels = target.shape
    who = subjects or [f"s{i:03d}" for i in range(n)]
    samples = [(f"a{i:03d}", who[i]) for i in range(n)]
    share = 1 / (1 + np.exp(-score))
    names = [f"label{i}" for i in range(labels)]
    return Answers.of(names, samples, target, share, [Settled(threshold=0.5, slope=1.0)] * labels)


def world(n: int, seed: int, *shifts: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Targets, and scores of encoders that share half of their noise, as encoders do."""
    rng = np.random.default_rng(seed)
    target = (rng.random((n, 1)) < 0.4).astype(float)
    shared = rng.standard_normal((n, 1))
    noises = [(shared + rng.standard_normal((n, 1))) / np.sqrt(2) for _ in shifts]
    return target, [target * s + noise for s, noise in zip(shifts, noises, strict=True)]


def groups(**encoders: list[Answers]) -> list[Group]:
    """Groups of encoders `name=[answers of each repeat]`; `no_pixels` is the control."""
    cells = [
        (CELL | {"encoder": name.replace("_", "-"), "run_digest": name, "head_seed": i}, each)
        for name, repeats in encoders.items()
        for i, each in enumerate(repeats)
    ]
    return groups_of("rsna", next(iter(encoders)), cells)


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5], [0.5]),
        ([0.6, 0.6], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_on_known_numbers(p: list[float], corrected: list[float]) -> None:
    assert holm(p) == pytest.approx(corrected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_rule_rejects(p: list[float], alpha: float) -> None:
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - rank) > alpha:
            break
        rejected.add(i)
    assert {i for i, value in enumerate(holm(p)) if value <= alpha} == rejected


def test_a_difference_equals_a_loop_over_the_same_resamples() -> None:
    target, (one, other) = world(60, 0, 1.0, 0.3)
    subjects = [f"s{i // 2}" for i in range(60)]
    sides = [answers(target, score, subjects) for score in (one, other)]
    (row,) = compare(groups(a=[sides[0]], b=[sides[1]]), seed=4)
    weights = np.concatenate(list(resamples(Units.of(subjects), seed=4)))
    here, there = (auroc(s.targets[:, 0], s.scores[:, 0], weights) for s in sides)
    low, high = np.quantile(here - there, (0.025, 0.975))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))
    assert row["sd"] == pytest.approx(np.std(here - there, ddof=1))
    value = [auroc(s.targets[:, 0], s.scores[:, 0], np.ones((1, 60)))[0] for s in sides]
    assert row["difference"] == pytest.approx(value[0] - value[1])
    assert (row["n"], row["n_subjects"], row["labels"]) == (60, 30, 1)


def test_an_encoder_does_not_differ_from_its_double() -> None:
    target, (score,) = world(60, 1, 1.0)
    (row,) = compare(groups(a=[answers(target, score)], b=[answers(target, score)]), seed=0)
    assert (row["difference"], row["ci_low"], row["ci_high"]) == (0, 0, 0)
    assert (row["p"], row["p_holm"], row["smallest"]) == (1, 1, 0)


def test_equal_encoders_differ_about_as_seldom_as_p_says() -> None:
    found = []
    for seed in range(100):
        target, scores = world(100, seed, 1.0, 1.0)
        a, b = (answers(target, score) for score in scores)
        found += [row["p"] < 0.05 for row in compare(groups(a=[a], b=[b]), seed=seed)]
    assert 0.01 <= np.mean(found) <= 0.12


def test_the_smallest_difference_is_found_about_four_times_in_five() -> None:
    found, smallest, true = [], [], []
    for seed in range(60):
        target, scores = world(160, seed, 1.5, 0.9)
        a, b = (answers(target, score) for score in scores)
        (row,) = compare(groups(a=[a], b=[b]), seed=seed)
        found.append(row["p"] < 0.05)
        smallest.append(row["smallest"])
        true.append(row["difference"])
    assert np.mean(smallest) == pytest.approx(np.mean(true), rel=0.15)  # so this is the case
    assert 0.65 <= np.mean(found) <= 0.95


def test_films_that_one_side_lacks_count_for_none() -> None:
    target, (one, other) = world(60, 2, 1.0, 0.5)
    whole, part = answers(target, one), answers(target, other).only(np.arange(60) >= 10)
    (row,) = compare(groups(a=[whole], b=[part]), seed=0)
    fair = groups(a=[whole.only(np.arange(60) >= 10)], b=[part])
    assert row == compare(fair, seed=0)[0]
    assert row["n"] == 50


def test_a_label_that_one_side_skips_counts_for_none() -> None:
    target = np.concatenate([world(80, seed, 1.0)[0] for seed in (3, 4)], axis=1)
    score = target + np.random.default_rng(0).standard_normal(target.shape)
    skipped = score.copy()
    skipped[:, 1] = np.nan
    (row,) = compare(groups(a=[answers(target, score)], b=[answers(target, skipped)]), seed=0)
    assert (row["labels"], row["difference"]) == (1, 0)
    skipped[:, 0] = np.nan
    skipped[:3, 0] = 0.5
    (row,) = compare(groups(a=[answers(target, score)], b=[answers(target, skipped)]), seed=0)
    assert (row["labels"], row["difference"], row["p"], row["p_holm"]) == (0, None, None, None)


def test_controls_are_not_compared_with_each_other() -> None:
    target, scores = world(60, 5, 1.0, 0.2, 0.1, 0.9)
    a, random, bare, b = ([answers(target, score)] for score in scores)
    first = groups(a=a, random=random, no_pixels=bare)
    second = [replace(group, beside="b") for group in groups(b=b, random=random, no_pixels=bare)]
    second[1] = replace(second[1], run_digest="another")
    rows = compare([*first, *second], seed=0)
    assert {(row["encoder"], row["other"]) for row in rows} == {
        *(("a", "random"), ("a", "no-pixels"), ("a", "b")),
        *(("b", "no-pixels"), ("b", "random")),
    }
    assert all(row["p_holm"] >= row["p"] for row in rows)


def test_encoders_are_compared_at_one_place_of_the_table_only() -> None:
    target, scores = world(60, 5, 1.0, 0.2)
    a, b = (answers(target, score) for score in scores)
    tenth = CELL | {"fraction": 0.1, "encoder": "b", "run_digest": "b"}
    cells = [(CELL | {"encoder": "a", "run_digest": "a"}, a), (tenth, b)]
    assert compare(groups_of("rsna", "a", cells), seed=0) == []


def repeated(n: int, repeats: int) -> list[Answers]:
    target, scores = world(n, 7, *(0.2 + 0.5 * i for i in range(repeats)))
    return [answers(target, score) for score in scores]


def test_repeats_are_joined_as_a_loop_that_draws_them() -> None:
    parts = repeated(60, 3)
    (group,) = groups(a=parts)
    row = next(r for r in summary_rows(group, seed=2) if r["metric"] == "auroc")
    values = [p.values(("auroc",))[0, 0] for p in parts]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (row["repeats"], row["ci_method"]) == (3, "bootstrap-subjects-1000-repeats")
    spread = np.stack([p.spread(("auroc",), seed=2)[:, 0, 0] for p in parts])
    rng = np.random.default_rng(0)
    naive = [spread[rng.integers(0, 3, 3), r].mean() for r in range(1000)]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        np.quantile(naive, (0.025, 0.975)), abs=0.02
    )


def test_the_interval_over_repeats_is_wider_than_over_subjects_alone() -> None:
    parts = repeated(60, 3)
    (group,) = groups(a=parts)
    row = next(r for r in summary_rows(group, seed=0) if r["metric"] == "auroc")
    alone = np.mean([p.spread(("auroc",), seed=0)[:, 0, 0] for p in parts], axis=0)
    low, high = np.quantile(alone, (0.025, 0.975))
    assert row["ci_high"] - row["ci_low"] > 1.3 * (high - low)


def test_every_metric_is_joined_and_a_single_cell_is_not() -> None:
    (group,) = groups(a=repeated(60, 2))
    rows = {row["metric"]: row for row in summary_rows(group, seed=0)}
    assert tuple(rows) == METRICS
    assert (rows["ece"]["ci_low"], rows["ece"]["ci_method"]) == (None, "none")
    assert rows["sensitivity@90"]["value"] is None  # nothing was settled for it
    assert summary_rows(groups(a=repeated(60, 1))[0], seed=0) == []


def test_shared_draws_are_paired() -> None:
    """Two encoders on the same draws, both better on the second, differ by the same on each."""
    target, (low, high) = world(80, 8, 0.4, 2.0)
    one = [answers(target, low), answers(target, high)]
    (paired,) = compare(groups(a=one, b=one), seed=0)
    (apart,) = compare(groups(a=one, b=[*one, *one]), seed=0)
    assert (paired["ci_low"], paired["ci_high"]) == (0, 0)
    assert apart["difference"] == pytest.approx(0) and apart["ci_high"] > 0.05


def test_correction_counts_all_comparisons_of_the_table() -> None:
    target, scores = world(100, 9, 1.0, 0.9, 0.2)
    sides = {n: [answers(target, s)] for n, s in zip("abc", scores, strict=True)}
    rows = compare(groups(**sides), seed=0)
    assert [(r["encoder"], r["other"]) for r in rows] == list(itertools.combinations("abc", 2))
    assert [r["p_holm"] for r in rows] == pytest.approx(holm([r["p"] for r in rows]))
    (alone,) = compare(groups(a=sides["a"], c=sides["c"]), seed=0)
    assert rows[1]["smallest"] > alone["smallest"] and rows[1]["p"] == alone["p"]


def test_each_draw_counts_the_labels_that_all_answered_in_it() -> None:
    rng = np.random.default_rng(4)
    target = (rng.random((50, 3)) < 0.4).astype(float)
    taught = {0: (), 1: (0, 1), 2: (2,)}  # what each small draw of the training labels could teach

    def drawn(skill: float) -> dict[int, Answers]:
        found = {}
        for draw, labels in taught.items():
            score = skill * target + rng.standard_normal(target.shape)
            score[:, [label for label in range(3) if label not in labels]] = np.nan
            found[draw] = answers(target, score)
        return found

    sides = {"good": drawn(2.0), "bad": drawn(0.0)}
    cells = [
        (CELL | {"encoder": name, "run_digest": name, "draw": draw}, each)
        for name, found in sides.items()
        for draw, each in found.items()
    ]
    (row,) = compare(groups_of("rsna", "good", cells), seed=0)
    means = {
        name: np.mean(
            [
                np.mean([found[draw].values(["auroc"])[label, 0] for label in labels])
                for draw, labels in taught.items()
                if labels
            ]
        )
        for name, found in sides.items()
    }
    assert row["difference"] == pytest.approx(means["good"] - means["bad"])
    assert row["labels"] == 3 and row["ci_low"] > 0 and row["p"] < 0.01
    assert row["n"] == 50
    (good, _) = groups_of("rsna", "good", cells)
    joined = next(r for r in summary_rows(good, seed=0) if r["metric"] == "auroc")
    assert joined["repeats"] == 2 and joined["value"] == pytest.approx(means["good"])
