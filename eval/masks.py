"""Predicted regions: Dice and IoU, their intervals, the threshold, the picture.

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

from ..prep.pixels.mask import draw_runs, runs_of
from ..prep.record import Runs
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
# of a film's highest place, the parts that must lie in its region, see REGIONS
POINTING = {"pointing": ("centre",), "recall": ("centre", "part")}


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """The pixels of each test film that are target, predicted, and both; its batch and subject.

    `values` gives a measure of each film: one of MEASURES, or POINTING.
    """

    subjects: tuple[str | None, ...]
    batch: Counts
    target: Counts
    predicted: Counts
    common: Counts
    peak: tuple[str | None, ...]

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
            peak=tuple(row["peak"] for row in ordered),
        )

    def values(self, measure: str) -> Floats:
        """Return a measure of every film [N]."""
        if measure in POINTING:
            return np.array([peak in POINTING[measure] for peak in self.peak], dtype=np.float64)
        return MEASURES[measure](self.target, self.predicted, self.common)


def overlap_rows(overlaps: Overlaps, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the columns metric, value, interval and counts of every number (see above).

    A mean over fewer than MIN_CASES films is empty. Intervals are bootstraps over subjects, or
    over films where subjects are unknown; the mean over batches has none.
    """
    units, everyone_N = Units.of(overlaps.subjects), np.ones(len(overlaps.target), dtype=bool)
    for measure in MEASURES:
        yield from mean_rows(overlaps, measure, seed=seed)
        value_N = overlaps.values(measure)
        means = [value_N[overlaps.batch == batch].mean() for batch in np.unique(overlaps.batch)]
        batches = float(np.mean(means)) if len(value_N) >= MIN_CASES else None
        marked_N = overlaps.target > 0
        yield _row(f"{measure}-batches", batches, None, everyone_N, marked_N, units)


def mean_rows(overlaps: Overlaps, measure: str, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the mean of a measure over the films that have a region, and over all."""
    units, marked_N = Units.of(overlaps.subjects), overlaps.target > 0
    value_N = overlaps.values(measure)
    for name, member_N in ((measure, marked_N), (f"{measure}-all", np.ones_like(marked_N))):
        known = _interval(value_N, member_N, units, seed=seed)
        value = float(value_N[member_N].mean()) if known else None
        yield _row(name, value, known, member_N, marked_N, units)


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


def region_row(target_HW: Pixels, predicted_HW: Pixels) -> dict[str, Any]:
    """Return the columns of REGIONS that tell of a film's region and the predicted one."""
    return {
        "height": target_HW.shape[0],
        "width": target_HW.shape[1],
        "target_pixels": int(target_HW.sum()),
        "predicted_pixels": int(predicted_HW.sum()),
        "common_pixels": int((predicted_HW & target_HW).sum()),
        "runs": runs_of(predicted_HW),
    }


def predicted_region(row: Mapping[str, Any]) -> Pixels:
    """Return the predicted region [H, W] of a row of REGIONS."""
    runs = (row["runs"],) if row["runs"] else ()
    drawn = draw_runs(Runs(rows=runs, height=row["height"], width=row["width"]))
    return np.asarray(drawn, dtype=bool)


def examples(rows: Sequence[Mapping[str, Any]], *, most: int) -> Iterator[tuple[str, str, Pixels]]:
    """Yield key, words and predicted region of films with a region, the worst to the best.

    They are spread evenly over the Dice at the first threshold of the rows.
    """
    source = rows[0]["threshold_source"]
    marked = [row for row in rows if row["target_pixels"] and row["threshold_source"] == source]
    marked.sort(key=lambda row: str(row["key"]))
    dice_N = Overlaps.of(marked).values("dice")
    order = np.argsort(dice_N, kind="stable")
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(np.int64)
    for place in order[places].tolist():
        row = marked[place]
        yield str(row["key"]), f"Dice {dice_N[place]:.2f}", predicted_region(row)


def outlined(picture: npt.NDArray[np.uint8], target_HW: Pixels, predicted_HW: Pixels) -> bytes:
    """Return a PNG of a film with its region outlined in green and the predicted one in orange.

    The film is grey [H, W], or has colours already [H, W, 3].
    """
    grey = picture.ndim == 2
    image_HWC = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if grey else picture.copy()
    for name, region_HW in (("target", target_HW), ("predicted", predicted_HW)):
        outlines, _ = cv2.findContours(
            region_HW.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(image_HWC, outlines, -1, SHOWN[name], 1)
    return cv2.imencode(".png", image_HWC)[1].tobytes()
