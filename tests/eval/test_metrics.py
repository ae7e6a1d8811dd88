"""Metrics against scikit-learn and against naive restatements, ties and empty classes included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    roc_auc_score,
)

from imitate.eval.metrics import (
    accuracy,
    auprc,
    auroc,
    best_threshold,
    f1,
    measure,
    ones,
    thresholds_of,
)

Pairs = list[tuple[int, float]]

# a few distinct scores make many ties
pairs = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9])),
    min_size=2,
    max_size=30,
)
both_classes = pairs.filter(lambda rows: len({target for target, _ in rows}) == 2)
weighted = st.tuples(both_classes, st.integers(0, 2**32 - 1))


def arrays(rows: Pairs) -> tuple[np.ndarray, np.ndarray]:
    target, score = np.array(rows, dtype=np.float64).T
    return target, score


def counts(n: int, seed: int) -> np.ndarray:
    """One bootstrap weighting [1, N]."""
    drawn = np.random.default_rng(seed).integers(0, n, n)
    return np.bincount(drawn, minlength=n)[None].astype(np.float64)


def naive_auroc(target: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    won = total = 0.0
    for i in range(len(target)):
        for j in range(len(target)):
            if target[i] == 1 and target[j] == 0:
                pair = weight[i] * weight[j]
                total += pair
                won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0)
    return won / total if total else float("nan")


def naive_auprc(target: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    positives, value, before = (weight * target).sum(), 0.0, 0.0
    if not positives:
        return float("nan")
    for threshold in sorted(set(score), reverse=True):
        picked = score >= threshold
        recall = (weight * target)[picked].sum() / positives
        if weight[picked].sum():
            precision = (weight * target)[picked].sum() / weight[picked].sum()
            value += precision * (recall - before)
        before = recall
    return value


@given(both_classes)
def test_equal_to_sklearn(rows: Pairs) -> None:
    target, score = arrays(rows)
    weight = ones(len(target))
    assert auroc(target, score, weight)[0] == pytest.approx(roc_auc_score(target, score))
    assert auprc(target, score, weight)[0] == pytest.approx(average_precision_score(target, score))
    for threshold in (0.1, 0.5, 0.95):
        said = (score >= threshold).astype(float)
        values = measure(target, score, weight, threshold=threshold)
        assert values["accuracy"][0] == pytest.approx(accuracy_score(target, said))
        assert values["f1"][0] == pytest.approx(f1_score(target, said))


@given(weighted)
def test_weights_equal_naive_loops(case: tuple[Pairs, int]) -> None:
    target, score = arrays(case[0])
    weight = counts(len(target), case[1])
    naive = naive_auroc(target, score, weight[0])
    assert auroc(target, score, weight)[0] == pytest.approx(naive, nan_ok=True)
    naive = naive_auprc(target, score, weight[0])
    assert auprc(target, score, weight)[0] == pytest.approx(naive, nan_ok=True)


@given(weighted)
def test_a_weight_is_a_repetition(case: tuple[Pairs, int]) -> None:
    target, score = arrays(case[0])
    weight = counts(len(target), case[1])
    times = weight[0].astype(int)
    repeated = np.repeat(target, times), np.repeat(score, times)
    here = measure(target, score, weight, threshold=0.5)
    there = measure(*repeated, ones(len(target)), threshold=0.5)
    for name, value in here.items():
        assert value[0] == pytest.approx(there[name][0], nan_ok=True), name


@given(both_classes)
def test_best_threshold_has_the_best_f1(rows: Pairs) -> None:
    target, score = arrays(rows)
    chosen = best_threshold(target, score)
    assert chosen is not None
    weight = ones(len(target))
    tried = [f1(target, score, weight, threshold=t)[0] for t in sorted(set(score))]
    assert f1(target, score, weight, threshold=chosen)[0] == pytest.approx(max(tried))


def test_undefined_is_nan() -> None:
    score, weight = np.array([0.1, 0.4, 0.4]), ones(3)
    nothing, everything = np.zeros(3), np.ones(3)
    assert np.isnan(auroc(nothing, score, weight)[0])
    assert np.isnan(auroc(everything, score, weight)[0])
    assert np.isnan(auprc(nothing, score, weight)[0])
    assert auprc(everything, score, weight)[0] == 1
    assert np.isnan(f1(nothing, score, weight, threshold=0.9)[0])
    assert f1(nothing, score, weight, threshold=0.0)[0] == 0
    assert np.isnan(measure(nothing, score, weight, threshold=None)["accuracy"][0])
    empty = np.empty(0)
    assert np.isnan([v[0] for v in measure(empty, empty, ones(0), threshold=0.5).values()]).all()
    assert best_threshold(nothing, score) is None
    assert best_threshold(empty, empty) is None


def test_a_score_at_the_threshold_counts_as_present() -> None:
    target, score = np.array([1.0, 0.0]), np.array([0.5, 0.4])
    assert accuracy(target, score, ones(2), threshold=0.5)[0] == 1


def test_thresholds_leave_unlabelled_samples_out() -> None:
    target = np.array([[1, np.nan], [0, 1], [np.nan, 1]])
    score = np.array([[0.7, 0.9], [0.2, 0.8], [0.1, 0.3]])
    assert thresholds_of(target, score) == (0.7, None)
