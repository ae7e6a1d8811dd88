"""Metrics against scikit-learn and against naive restatements, ties and empty classes included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
    top_k_accuracy_score,
)

from imitate.eval.metrics import (
    BINS,
    METRICS,
    Settled,
    accuracy,
    auprc,
    auroc,
    best_threshold,
    calibration_error,
    f1,
    limit_of,
    measure,
    ones,
    probabilities,
    settle,
    settle_tempered,
    slope_of,
    top1,
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
        values = measure(target, score, weight, Settled(threshold=threshold, slope=1.0))
        assert values["accuracy"][0] == pytest.approx(accuracy_score(target, said))
        assert values["f1"][0] == pytest.approx(f1_score(target, said))
        assert values["brier"][0] == pytest.approx(brier_score_loss(target, score))


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
    settled = Settled(threshold=0.5, limit=0.3, slope=2.0)
    here = measure(target, score, weight, settled)
    there = measure(*repeated, ones(len(target)), settled)
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
    unsettled = measure(np.array([0.0, 1, 1]), score, weight, Settled())
    assert [name for name in METRICS if not np.isnan(unsettled[name][0])] == ["auroc", "auprc"]
    empty, whole = np.empty(0), Settled(threshold=0.5, limit=0.5, slope=1.0)
    assert np.isnan([v[0] for v in measure(empty, empty, ones(0), whole).values()]).all()
    assert np.isnan(measure(nothing, score, weight, whole)["sensitivity@90"][0])
    assert np.isnan(measure(everything, score, weight, whole)["specificity@90"][0])
    assert best_threshold(nothing, score) is None
    assert best_threshold(empty, empty) is None


def test_a_score_at_the_threshold_counts_as_present() -> None:
    target, score = np.array([1.0, 0.0]), np.array([0.5, 0.4])
    assert accuracy(target, score, ones(2), threshold=0.5)[0] == 1


def test_what_is_settled_leaves_unlabelled_samples_out() -> None:
    target = np.array([[1, np.nan], [0, 1], [np.nan, 1]])
    score = np.array([[0.7, 0.9], [0.2, 0.8], [0.1, 0.3]])
    first, second = settle(target, score)
    assert (first.threshold, first.limit, first.slope) == (0.7, np.nextafter(0.2, 1), 1.0)
    assert (second.threshold, second.limit, second.slope) == (None, None, 1.0)
    assert settle_tempered(target, score)[1].slope is None


@given(weighted)
def test_shares_at_the_limit_equal_naive_counts(case: tuple[Pairs, int]) -> None:
    target, score = arrays(case[0])
    weight = counts(len(target), case[1])
    for limit in (0.0, 0.25, 0.5000001, 2.0):
        found = measure(target, score, weight, Settled(limit=limit))
        for metric, present in (("sensitivity@90", 1), ("specificity@90", 0)):
            here = [
                ((s >= limit) == bool(present), w)
                for t, s, w in zip(target, score, weight[0], strict=True)
                if t == present
            ]
            total = sum(w for _, w in here)
            share = sum(w for right, w in here if right) / total if total else float("nan")
            assert found[metric][0] == pytest.approx(share, nan_ok=True)


@given(both_classes)
def test_a_tenth_of_the_negatives_at_most_reach_the_limit(rows: Pairs) -> None:
    target, score = arrays(rows)
    limit = limit_of(target, score)
    assert limit is not None
    negative = score[target == 0]
    assert (negative >= limit).mean() <= 0.1
    # no lower limit does: the next score below it would let more than a tenth in
    below = negative[negative < limit].max()
    assert (negative >= below).mean() > 0.1


@given(weighted, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_calibration_error_equals_naive_bins(case: tuple[Pairs, int], slope: float) -> None:
    target, score = arrays(case[0])
    value, weight = probabilities(score, slope=slope), counts(len(target), case[1])[0]
    total = error = 0.0
    for k in range(BINS):
        last = k == BINS - 1
        inside = [
            i for i, v in enumerate(value) if k / BINS <= v < (k + 1) / BINS or (last and v == 1)
        ]
        excess = sum(weight[i] * (value[i] - target[i]) for i in inside)
        error += abs(excess)
        total += sum(weight[i] for i in inside)
    found = calibration_error(target, value, weight[None])
    assert found[0] == pytest.approx(error / total)


def test_probabilities_of_slope_one_are_the_scores() -> None:
    score = np.array([0.0, 0.2, 0.5, 0.999, 1.0])
    assert probabilities(score, slope=1.0) == pytest.approx(score, abs=1e-9)
    assert probabilities(score, slope=0.0) == pytest.approx(np.full(5, 0.5))


def test_temperature_has_the_least_loss() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random(400) < 0.5).astype(float)
    # pair scores lie near one half, as cosines without a temperature give them
    score = 1 / (1 + np.exp(-0.05 * (target - 0.5 + rng.standard_normal(400))))
    slope = slope_of(target, score)
    assert slope is not None and 10 < slope < 40
    tried = {s: log_loss(target, probabilities(score, slope=s)) for s in (slope / 1.1, slope * 1.1)}
    assert log_loss(target, probabilities(score, slope=slope)) < min(tried.values())
    bare = measure(target, score, ones(400), Settled(slope=1.0))
    scaled = measure(target, score, ones(400), Settled(slope=slope))
    assert scaled["brier"][0] < bare["brier"][0]


def test_temperature_of_scores_without_a_best_one() -> None:
    target = np.array([0.0, 0, 1, 1])
    assert slope_of(target, np.array([0.6, 0.7, 0.3, 0.4])) == 0  # they point the wrong way
    assert slope_of(target, np.array([0.3, 0.4, 0.6, 0.7])) == 1e4  # they are never wrong
    assert slope_of(np.ones(4), np.full(4, 0.5)) is None


# one sample: its class, and a score of each of three classes; few distinct scores make many ties
chosen = st.lists(
    st.tuples(st.integers(0, 2), st.tuples(*[st.sampled_from([0.1, 0.3, 0.3000001, 0.9])] * 3)),
    min_size=1,
    max_size=20,
)


def naive_top1(true: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    won = total = 0.0
    for own, row, times in zip(true, score, weight, strict=True):
        winners = [k for k in range(len(row)) if row[k] == max(row)]
        won += times * (1 / len(winners) if own in winners else 0)
        total += times
    return won / total


@given(chosen, st.integers(0, 2**32 - 1))
def test_top1_equals_a_naive_loop_with_ties(
    rows: list[tuple[int, tuple[float, ...]]], seed: int
) -> None:
    true, score = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    weight = counts(len(rows), seed)
    found = top1(np.eye(3)[true], score, np.concatenate([ones(len(rows)), weight]))
    naive = [naive_top1(true, score, each) for each in (ones(len(rows))[0], weight[0])]
    assert found == pytest.approx(naive)


@given(st.integers(0, 2**32 - 1), st.integers(3, 5), st.integers(5, 40))
def test_top1_without_ties_equals_sklearn(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    true, score = rng.integers(0, classes, n), rng.random((n, classes))
    found = top1(np.eye(classes)[true], score, ones(n))[0]
    assert found == pytest.approx(accuracy_score(true, score.argmax(axis=1)))
    known = {"labels": np.arange(classes)}
    assert found == pytest.approx(top_k_accuracy_score(true, score, k=1, **known))


def test_top1_of_known_ties_and_of_a_class_without_scores() -> None:
    target = np.eye(3)[[0, 1, 2, 2]]
    score = np.array([[0.5, 0.5, 0.1], [0.2, 0.2, 0.2], [0.4, 0.4, 0.1], [0.1, 0.2, 0.3]])
    assert top1(target, score, ones(4))[0] == pytest.approx((1 / 2 + 1 / 3 + 0 + 1) / 4)
    score[:, 2] = np.nan
    assert top1(target, score, ones(4))[0] == pytest.approx((1 / 2 + 1 / 2 + 0 + 0) / 4)
    assert np.isnan(top1(target, score, np.zeros((1, 4)))[0])
