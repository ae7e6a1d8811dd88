"""Metrics of a binary label, weighted, for many weightings of the same samples at once.

Axes: N samples, C channels, L labels, G distinct scores, B weightings (one of ones gives the metric
itself; bootstrap counts its spread).
Every function returns one value a weighting, NaN where the weighting leaves it undefined.
Definitions as in scikit-learn: ties count half in AUROC; AUPRC is the average precision, the sum
over thresholds of precision times the gain in recall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = ("auroc", "auprc", "accuracy", "f1")
THRESHOLD_METRICS = ("accuracy", "f1")
MIN_CASES = 5  # fewer positives or negatives than this say nothing about a label


@dataclass(frozen=True, kw_only=True)
class Part:
    """Features [N, C] and targets [N, L] of one split; a NaN target is unlabelled."""

    features: Floats
    targets: Floats


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores [N, L] of the test samples with a threshold per label, and the labels left out.

    A skipped label (index -> reason) has NaN scores; a threshold is None where the validation
    samples cannot give one. `strength` is the linear probe's.
    """

    scores: Floats
    thresholds: tuple[float | None, ...]
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
    if not len(target_N):
        return np.full(len(weight_BN), np.nan)
    true_BG, false_BG = _counts(target_N, score_N, weight_BN)
    gain_BG = np.diff(false_BG, axis=1, prepend=0.0)
    mean_BG = true_BG - 0.5 * np.diff(true_BG, axis=1, prepend=0.0)
    return _ratio((gain_BG * mean_BG).sum(axis=1), true_BG[:, -1] * false_BG[:, -1])


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


def best_threshold(target_N: Floats, score_N: Floats) -> float | None:
    """Return the score at which F1 is largest, the highest such; None without both classes."""
    if not 0 < target_N.sum() < len(target_N):
        return None
    order_N, ends_G = _tie_groups(score_N)
    true_BG, false_BG = _counts(target_N, score_N, ones(len(target_N)))
    f1_G = 2 * true_BG[0] / (true_BG[0] + false_BG[0] + target_N.sum())
    return float(score_N[order_N][ends_G[int(np.argmax(f1_G))]])


def thresholds_of(target_NL: Floats, score_NL: Floats) -> tuple[float | None, ...]:
    """Return each label's best threshold; NaN leaves a sample out of a label."""
    used_NL = ~(np.isnan(target_NL) | np.isnan(score_NL))
    return tuple(
        best_threshold(target_NL[used_N, label], score_NL[used_N, label])
        for label, used_N in enumerate(used_NL.T)
    )


def measure(
    target_N: Floats, score_N: Floats, weight_BN: Floats, *, threshold: float | None
) -> dict[str, Floats]:
    """Return every metric of METRICS [B]; NaN those that need a threshold when there is none."""
    values = {
        "auroc": auroc(target_N, score_N, weight_BN),
        "auprc": auprc(target_N, score_N, weight_BN),
    }
    if threshold is None:
        return values | {name: np.full(len(weight_BN), np.nan) for name in THRESHOLD_METRICS}
    return values | {
        "accuracy": accuracy(target_N, score_N, weight_BN, threshold=threshold),
        "f1": f1(target_N, score_N, weight_BN, threshold=threshold),
    }
