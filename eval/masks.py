"""Dice and IoU of predicted regions: the numbers, their intervals, the threshold, the picture.

A film without a region has no overlap to measure, so each number comes in three forms:
`dice` over the films that have a region; `dice-all` over all films, where one without a region
counts 1 if nothing is predicted and 0 otherwise; and `dice-batches`, which published code prints
(MGCA, mgca/models/mgca/mgca_segmenter.py): the mean over batches of the means of `dice-all`.

Axes: N films, R bootstrap replicates, H and W rows and columns, K bins of probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .intervals import Units, interval, resamples
from .metrics import MIN_CASES, Floats

BINS = 100  # thresholds that validation chooses among
SHOWN = {"target": (115, 158, 0), "predicted": (0, 159, 230)}  # blue, green, red of an outline

Pixels = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


def dice_of(target_N: Counts, predicted_N: Counts, common_N: Counts) -> Floats:
    """Return 2 |A ∩ B| / (|A| + |B|) [N]; 1 where both are empty."""
    return _share(2 * common_N, target_N + predicted_N)


def iou_of(target_N: Counts, predicted_N: Counts, common_N: Counts) -> Floats:
    """Return |A ∩ B| / |A ∪ B| [N]; 1 where both are empty."""
    return _share(common_N, target_N + predicted_N - common_N)


def _share(above_N: Counts, below_N: Counts) -> Floats:
    one_N = np.ones(len(below_N))
    return np.divide(above_N.astype(np.float64), below_N, out=one_N, where=below_N > 0)


MEASURES = {"dice": dice_of, "iou": iou_of}


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """The pixels of each test film that are target, predicted, and both; its batch and subject."""

    subjects: tuple[str | None, ...]
    batch: Counts
    target: Counts
    predicted: Counts
    common: Counts

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Overlaps:
        """Gather rows of REGIONS of one cell and one threshold, in the order of their keys."""
        ordered = sorted(rows, key=lambda row: str(row["key"]))

        def count(column: str) -> Counts:
            return np.array([row[column] for row in ordered], dtype=np.int64)

        return cls(
            subjects=tuple(row["subject_id"] for row in ordered),
            batch=count("batch"),
            target=count("target_pixels"),
            predicted=count("predicted_pixels"),
            common=count("common_pixels"),
        )

    def values(self, measure: str) -> Floats:
        """Return a measure of every film [N]."""
        return MEASURES[measure](self.target, self.predicted, self.common)


def overlap_rows(overlaps: Overlaps, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the columns metric, value, interval and counts of every number (see above).

    A mean over fewer than MIN_CASES films is empty. Intervals are bootstraps over subjects, or
    over films where subjects are unknown; the mean over batches has none.
    """
    units = Units.of(overlaps.subjects)
    marked_N = overlaps.target > 0
    for measure in MEASURES:
        value_N = overlaps.values(measure)
        for name, member_N in ((measure, marked_N), (f"{measure}-all", np.ones_like(marked_N))):
            known = _interval(value_N, member_N, units, seed=seed)
            value = float(value_N[member_N].mean()) if known else None
            yield _row(name, value, known, member_N, marked_N, units)
        means = [value_N[overlaps.batch == batch].mean() for batch in np.unique(overlaps.batch)]
        everyone_N = np.ones_like(marked_N)
        batches = float(np.mean(means)) if len(value_N) >= MIN_CASES else None
        yield _row(f"{measure}-batches", batches, None, everyone_N, marked_N, units)


def _interval(
    value_N: Floats, member_N: Pixels, units: Units, *, seed: int
) -> tuple[float, float] | None:
    """Return the interval of the mean over some films; None when they are too few."""
    if member_N.sum() < MIN_CASES:
        return None
    parts = []
    for weight_RN in resamples(units, seed=seed):
        weight_RK = weight_RN[:, member_N]
        above_R, below_R = weight_RK @ value_N[member_N], weight_RK.sum(axis=1)
        undefined_R = np.full(len(below_R), np.nan)
        parts.append(np.divide(above_R, below_R, out=undefined_R, where=below_R > 0))
    return interval(np.concatenate(parts))


def _row(
    metric: str,
    value: float | None,
    known: tuple[float, float] | None,
    member_N: Pixels,
    marked_N: Pixels,
    units: Units,
) -> dict[str, Any]:
    low, high = known or (None, None)
    return {
        "metric": metric,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "ci_method": units.method() if known else "none",
        "n": int(member_N.sum()),
        "n_pos": int((member_N & marked_N).sum()),
        "n_subjects": units.among(member_N),
    }


class Histogram:
    """How often each probability was given to pixels inside and outside of the target."""

    def __init__(self) -> None:
        self.inside_K, self.outside_K = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)

    def add(self, share: npt.NDArray[np.float32], target: Pixels) -> None:
        """Count the pixels of pictures of any shape."""
        bin_ = np.minimum((share * BINS).astype(np.int64), BINS - 1)
        self.inside_K += np.bincount(bin_[target], minlength=BINS)
        self.outside_K += np.bincount(bin_[~target], minlength=BINS)

    def threshold(self) -> float | None:
        """Return the multiple of 1 / BINS with the best Dice over all pixels together.

        All films count in it, those without a region too, so neither predicting nothing nor
        predicting everywhere can be best. The highest at a tie; None without a target.
        """
        if not self.inside_K.sum():
            return None
        hit_K, false_K = (np.cumsum(k[::-1])[::-1] for k in (self.inside_K, self.outside_K))
        dice_K = 2 * hit_K / (hit_K + false_K + self.inside_K.sum())
        best = BINS - 1 - int(np.argmax(dice_K[::-1]))
        return max(best, 1) / BINS


def outlined(picture_HW: npt.NDArray[np.uint8], target_HW: Pixels, predicted_HW: Pixels) -> bytes:
    """Return a PNG of a film with its region outlined in green and the predicted one in orange."""
    image_HWC = cv2.cvtColor(picture_HW, cv2.COLOR_GRAY2BGR)
    for name, region_HW in (("target", target_HW), ("predicted", predicted_HW)):
        outlines, _ = cv2.findContours(
            region_HW.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(image_HWC, outlines, -1, SHOWN[name], 1)
    return cv2.imencode(".png", image_HWC)[1].tobytes()
