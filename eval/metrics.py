"""Metrics of labels, weighted, for many weightings of the same samples at once.

Axes: N samples (P of them present, M absent), C channels, L labels, G distinct scores, B
weightings (one of ones gives the metric itself; those of the bootstrap its spread).
Every function returns one value a weighting, NaN where the weighting leaves it undefined.
Definitions as in scikit-learn: ties count half in AUROC; AUPRC is the average precision, the sum
over thresholds of precision times the gain in recall. All are of one binary label but `top1`, which
is of all labels together, where exactly one of them is present.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = (
    *("auroc", "auprc", "accuracy", "f1"),
    *("sensitivity@90", "specificity@90", "brier", "ece"),
)
TOP1 = "top1"  # metric of classes, of which each sample has exactly one
DECIDED = ("accuracy", "f1")  # metrics at a threshold that has the best F1
LIMITED = ("sensitivity@90", "specificity@90")  # metrics at the limit of false alarms
SPECIFICITY = 0.9  # share of the negatives of validation below that limit
BINS = 15  # of the calibration error, as Guo et al., On Calibration of Modern Neural Networks, 2017
MACRO = "macro"  # label of the mean over labels
MIN_CASES = 5  # fewer positives or negatives than this say nothing about a label
MAX_SLOPE = 1e4  # of a temperature: scores that tell validation apart without fault have no best


@dataclass(frozen=True, kw_only=True)
class Part:
    """Features [N, C] and targets [N, L] of one split; a NaN target is unlabelled."""

    features: Floats
    targets: Floats


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was settled for a label before its test samples are looked at; None where it was not.

    `threshold` has the best F1; at most a tenth of the negatives reach `limit`; a score s stands
    for the probability sigmoid(slope * logit(s)), so the slope of a probability is 1.
    """

    threshold: float | None = None
    limit: float | None = None
    slope: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores [N, L] of the test samples, what validation settled per label, the labels left out.

    A skipped label (index -> reason) has NaN scores. `strength` is the linear probe's.
    """

    scores: Floats
    settled: tuple[Settled, ...]
    skipped: dict[int, str]
    strength: float | None = None


def ones(n: int) -> Floats:
    """Return the one weighting [1, N] in which each sample counts once."""
    return np.ones((1, n))


def _tie_groups(score_N: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the order of descending scores and where each group of equal scores ends in it."""
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N = score_N[order_N]
    return order_N, np.append(np.flatnonzero(np.diff(sorted_N)), len(sorted_N) - 1)


def _counts(target_N: Floats, score_N: Floats, weight_BN: Floats) -> tuple[Floats, Floats]:
    """Return true and false positives [B, G] at each distinct score, the highest first."""
    order_N, ends_G = _tie_groups(score_N)
    hit_BN = weight_BN[:, order_N]
    true_BN = np.cumsum(hit_BN * target_N[order_N], axis=1)
    all_BN = np.cumsum(hit_BN, axis=1)
    return true_BN[:, ends_G], (all_BN - true_BN)[:, ends_G]


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def auroc(target_N: Floats, score_N: Floats, weight_BN: Floats) -> Floats:
    """Return the area under the ROC curve [B]; NaN without positives or without negatives."""
    present, absent = np.flatnonzero(target_N > 0), np.flatnonzero(target_N <= 0)
    absent = absent[np.argsort(score_N[absent], kind="stable")]
    below, upto = (
        np.searchsorted(score_N[absent], score_N[present], side=side) for side in ("left", "right")
    )
    # the weight of the negatives up to each of them, the lowest score first, none before the first
    sum_BM = np.zeros((len(weight_BN), len(absent) + 1))
    np.cumsum(weight_BN[:, absent], axis=1, out=sum_BM[:, 1:])
    weight_BP = weight_BN[:, present]
    won_B = (weight_BP * (sum_BM[:, below] + sum_BM[:, upto])).sum(axis=1) / 2
    return _ratio(won_B, weight_BP.sum(axis=1) * sum_BM[:, -1])


def auprc(target_N: Floats, score_N: Floats, weight_BN: Floats) -> Floats:
    """Return the average precision [B]; NaN without positives."""
    if not len(target_N):
        return np.full(len(weight_BN), np.nan)
    true_BG, false_BG = _counts(target_N, score_N, weight_BN)
    seen_BG = true_BG + false_BG
    precision_BG = np.divide(true_BG, seen_BG, out=np.zeros_like(seen_BG), where=seen_BG > 0)
    gain_BG = np.diff(true_BG, axis=1, prepend=0.0)
    # rounding can leave a perfect ranking a last bit above 1
    return np.minimum(_ratio((precision_BG * gain_BG).sum(axis=1), true_BG[:, -1]), 1.0)


def accuracy(target_N: Floats, score_N: Floats, weight_BN: Floats, *, threshold: float) -> Floats:
    """Return the share [B] of samples on the right side of `threshold`; at it counts as present."""
    right_N = ((score_N >= threshold) == (target_N > 0)).astype(np.float64)
    return _ratio(weight_BN @ right_N, weight_BN.sum(axis=1))


def f1(target_N: Floats, score_N: Floats, weight_BN: Floats, *, threshold: float) -> Floats:
    """Return 2 TP / (2 TP + FP + FN) [B]; NaN when nothing is present and nothing predicted."""
    predicted_N = (score_N >= threshold).astype(np.float64)
    true_B = weight_BN @ (predicted_N * target_N)
    return _ratio(2 * true_B, weight_BN @ (predicted_N + target_N))


def top1(target_NL: Floats, score_NL: Floats, weight_BN: Floats) -> Floats:
    """Return the share [B] of samples whose class, the label that is present, has the top score.

    Where k classes tie at the top and the sample's is among them it counts 1/k, as an order drawn
    at random would have it. A label with a NaN score is never at the top.
    """
    score_NL = np.where(np.isnan(score_NL), -np.inf, score_NL)
    top_NL = score_NL == score_NL.max(axis=1, keepdims=True)
    right_N = (top_NL & (target_NL == 1)).sum(axis=1) / top_NL.sum(axis=1)
    return _ratio(weight_BN @ right_N, weight_BN.sum(axis=1))


def sensitivity(target_N: Floats, score_N: Floats, weight_BN: Floats, *, limit: float) -> Floats:
    """Return the share [B] of the positives that reach `limit`; NaN without positives."""
    found_N = (score_N >= limit) * target_N
    return _ratio(weight_BN @ found_N, weight_BN @ target_N)


def specificity(target_N: Floats, score_N: Floats, weight_BN: Floats, *, limit: float) -> Floats:
    """Return the share [B] of the negatives below `limit`; NaN without negatives."""
    passed_N = (score_N < limit) * (1 - target_N)
    return _ratio(weight_BN @ passed_N, weight_BN @ (1 - target_N))


def probabilities(score_N: Floats, *, slope: float) -> Floats:
    """Return what the scores [N] of ]0, 1[ stand for: sigmoid(slope * logit(score))."""
    inside_N = np.clip(score_N, 1e-12, 1 - 1e-12)
    logit_N = np.log(inside_N) - np.log1p(-inside_N)
    value_N: Floats = 1 / (1 + np.exp(-np.clip(slope * logit_N, -500, 500)))
    return value_N


def brier(target_N: Floats, value_N: Floats, weight_BN: Floats) -> Floats:
    """Return the mean squared difference [B] of probability and truth."""
    return _ratio(weight_BN @ (value_N - target_N) ** 2, weight_BN.sum(axis=1))


def calibration_error(target_N: Floats, value_N: Floats, weight_BN: Floats) -> Floats:
    """Return the expected calibration error [B] of probabilities, in BINS bins of equal width.

    The mean over samples of how far, in a sample's bin, the mean probability of being present is
    from the share that is (Guo et al., 2017, for the positive class).
    """
    bin_N = np.minimum((value_N * BINS).astype(np.int64), BINS - 1)
    excess_NK = np.where(bin_N[:, None] == np.arange(BINS), (value_N - target_N)[:, None], 0.0)
    return _ratio(np.abs(weight_BN @ excess_NK).sum(axis=1), weight_BN.sum(axis=1))


def best_threshold(target_N: Floats, score_N: Floats) -> float | None:
    """Return the score at which F1 is largest, the highest such; None without both classes."""
    if not 0 < target_N.sum() < len(target_N):
        return None
    order_N, ends_G = _tie_groups(score_N)
    true_BG, false_BG = _counts(target_N, score_N, ones(len(target_N)))
    f1_G = 2 * true_BG[0] / (true_BG[0] + false_BG[0] + target_N.sum())
    return float(score_N[order_N][ends_G[int(np.argmax(f1_G))]])


def limit_of(target_N: Floats, score_N: Floats) -> float | None:
    """Return the least limit that SPECIFICITY of the negatives stay below; None without one."""
    negative_K = np.sort(score_N[target_N == 0])
    if not len(negative_K):
        return None
    below = int(np.ceil(round(SPECIFICITY * len(negative_K), 9)))
    return float(np.nextafter(negative_K[below - 1], np.inf))


def slope_of(target_N: Floats, score_N: Floats) -> float | None:
    """Return the inverse temperature with the least log-loss, 0 to MAX_SLOPE; None without data.

    The loss is convex in the slope, so its derivative is bisected; scores that point the wrong way
    get 0, the probability one half.
    """
    if not 0 < target_N.sum() < len(target_N):
        return None
    inside_N = np.clip(score_N, 1e-12, 1 - 1e-12)
    logit_N = np.log(inside_N) - np.log1p(-inside_N)

    def rises(slope: float) -> bool:
        return bool(np.sum((probabilities(score_N, slope=slope) - target_N) * logit_N) >= 0)

    low, high = 0.0, MAX_SLOPE
    if rises(low) or not rises(high):
        return low if rises(low) else high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return (low + high) / 2


def settle(target_NL: Floats, score_NL: Floats) -> tuple[Settled, ...]:
    """Return what the validation samples settle for each label, whose scores are probabilities.

    NaN leaves a sample out of a label.
    """
    return tuple(
        Settled(threshold=best_threshold(*known), limit=limit_of(*known), slope=1.0)
        for known in _known(target_NL, score_NL)
    )


def settle_tempered(target_NL: Floats, score_NL: Floats) -> tuple[Settled, ...]:
    """Return the same for scores that are no probabilities: each label gets a temperature."""
    return tuple(
        replace(settled, slope=slope_of(*known))
        for settled, known in zip(
            settle(target_NL, score_NL), _known(target_NL, score_NL), strict=True
        )
    )


def _known(target_NL: Floats, score_NL: Floats) -> Iterator[tuple[Floats, Floats]]:
    used_NL = ~(np.isnan(target_NL) | np.isnan(score_NL))
    for label, used_N in enumerate(used_NL.T):
        yield target_NL[used_N, label], score_NL[used_N, label]


def measure(
    target_N: Floats,
    score_N: Floats,
    weight_BN: Floats,
    settled: Settled,
    metrics: Sequence[str] = METRICS,
) -> dict[str, Floats]:
    """Return the metrics [B]; NaN those for which nothing was settled."""
    known = (target_N, score_N, weight_BN)
    threshold, limit, slope = (
        np.nan if value is None else value
        for value in (settled.threshold, settled.limit, settled.slope)
    )
    value_N = probabilities(score_N, slope=slope)
    found: dict[str, tuple[float, Callable[[], Floats]]] = {
        "auroc": (1.0, lambda: auroc(*known)),
        "auprc": (1.0, lambda: auprc(*known)),
        "accuracy": (threshold, lambda: accuracy(*known, threshold=threshold)),
        "f1": (threshold, lambda: f1(*known, threshold=threshold)),
        "sensitivity@90": (limit, lambda: sensitivity(*known, limit=limit)),
        "specificity@90": (limit, lambda: specificity(*known, limit=limit)),
        "brier": (slope, lambda: brier(target_N, value_N, weight_BN)),
        "ece": (slope, lambda: calibration_error(target_N, value_N, weight_BN)),
    }
    undefined_B = np.full(len(weight_BN), np.nan)
    return {
        name: undefined_B if np.isnan(needs) else compute()
        for name, (needs, compute) in found.items()
        if name in metrics
    }
