"""Predicted boxes: their overlap with targets, which of them hit, mean average precision.

Three numbers, means over IoU thresholds of the average precision at 101 recalls:

`map` is COCO's: thresholds 0.50, 0.55 … 0.95, and every film counts (cocodataset/cocoapi,
pycocotools/cocoeval.py). `map@50` is the same at 0.50 alone. `map-mgca` is what published tables
print (HKU-MedAI/MGCA, mgca/models/ssl_detector.py): thresholds 0.40 … 0.75, predictions of at
least 0.5 alone, and films without a target, or without such a prediction, are left out. Boxes
missed there do not count, so it is larger than the standard number.

Axes: N films, D predictions, G targets, T thresholds, P predictions that hit, R replicates, L
labels; 4 is left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .intervals import Units, interval, resamples
from .masks import SHOWN
from .metrics import MACRO, MIN_CASES, Floats
from .statistics.answers import FIXED, HALF

MOST = 100  # predictions of a label that count on a film, as in COCO
RECALLS = np.linspace(0.0, 1.0, 101)

Index = npt.NDArray[np.int64]
Film = Mapping[str, Any]  # a row of DETECTIONS, or its columns key to scores


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A kind of mean average precision.

    Predictions below `confidence` do not count; `lenient` leaves films out as MGCA's code does.
    """

    thresholds: tuple[float, ...]
    confidence: float = 0.0
    lenient: bool = False


def _steps(first: int, last: int) -> tuple[float, ...]:
    return tuple(percent / 100 for percent in range(first, last + 1, 5))


MEASURES = {
    "map": Measure(thresholds=_steps(50, 95)),
    "map@50": Measure(thresholds=(0.5,)),
    "map-mgca": Measure(thresholds=_steps(40, 75), confidence=HALF, lenient=True),
}


def overlaps(one_D4: Floats, other_G4: Floats, *, extra: float = 0.0) -> Floats:
    """Return the IoU [D, G] of boxes; `extra` lengthens every side, as some code does by 1."""
    low_DG2 = np.maximum(one_D4[:, None, :2], other_G4[None, :, :2])
    high_DG2 = np.minimum(one_D4[:, None, 2:], other_G4[None, :, 2:])
    common_DG = np.clip(high_DG2 - low_DG2 + extra, 0, None).prod(axis=2)
    one_D, other_G = (
        np.prod(box[:, 2:] - box[:, :2] + extra, axis=1) for box in (one_D4, other_G4)
    )
    union_DG = one_D[:, None] + other_G[None] - common_DG
    share_DG: Floats = np.divide(
        common_DG, union_DG, out=np.zeros_like(common_DG), where=union_DG > 0
    )
    return share_DG


def suppress(box_D4: Floats, score_D: Floats, *, limit: float, extra: float = 0.0) -> Index:
    """Return which boxes stay, the best first and at most MOST of them.

    A box falls to a better one that it overlaps by at least `limit`.
    """
    order_D = np.argsort(-score_D, kind="stable")
    kept: list[int] = []
    while len(order_D) and len(kept) < MOST:
        kept.append(int(order_D[0]))
        best_14, order_D = box_D4[order_D[:1]], order_D[1:]
        order_D = order_D[overlaps(best_14, box_D4[order_D], extra=extra)[0] < limit]
    return np.array(kept, dtype=np.int64)


def match(share_DG: Floats, thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Tell which predictions hit at each threshold [T, D]; they come with the best first.

    Each takes the free target that it overlaps most, the last at a tie, if by the threshold.
    """
    least_T1 = np.minimum(thresholds, 1 - 1e-10)[:, None]  # COCO's guard against rounding
    hit_TD = np.zeros((len(least_T1), len(share_DG)), dtype=bool)
    free_TG = np.ones((len(least_T1), share_DG.shape[1]), dtype=bool)
    for place in np.flatnonzero(share_DG.max(axis=1, initial=0.0) >= least_T1.min()):
        open_TG = free_TG & (share_DG[place] >= least_T1)
        hit_TD[:, place] = open_TG.any(axis=1)
        share_TG = np.where(open_TG, share_DG[place], -1.0)
        best_T = open_TG.shape[1] - 1 - np.argmax(share_TG[:, ::-1], axis=1)
        free_TG[hit_TD[:, place], best_T[hit_TD[:, place]]] = False
    return hit_TD


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The predictions of a label on all films, the best first, and which hit at each threshold.

    `member` tells which films count, `targets` how many boxes each of them has.
    """

    member: npt.NDArray[np.bool_]  # [N]
    targets: Index  # [N]
    film: Index  # [D]
    hits: tuple[Index, ...]  # T times [P], places among the predictions

    @classmethod
    def of(cls, films: Sequence[Film], label: str, measure: Measure) -> Hits:
        """Match what was predicted on each film; equal scores stay in the order of the films."""
        scores, hits, member, targets = [], [], [], []
        for film in films:
            target_G4, _ = _boxes(film, "targets", label)
            box_D4, score_D = _boxes(film, "predicted", label)
            best = np.argsort(-score_D, kind="stable")[:MOST]
            best = best[score_D[best] >= measure.confidence]
            member.append(not measure.lenient or bool(len(target_G4) and len(best)))
            best = best[: len(best) if member[-1] else 0]
            targets.append(len(target_G4) if member[-1] else 0)
            scores.append(score_D[best])
            hits.append(match(overlaps(box_D4[best], target_G4), measure.thresholds))
        order_D = np.argsort(-np.concatenate(scores), kind="stable")
        film_D = np.repeat(np.arange(len(films)), [len(score_D) for score_D in scores])[order_D]
        hit_TD = np.concatenate(hits, axis=1)[:, order_D]
        return cls(
            member=np.array(member, dtype=bool),
            targets=np.array(targets, dtype=np.int64),
            film=film_D,
            hits=tuple(np.flatnonzero(hit_D) for hit_D in hit_TD),
        )

    @property
    def counted(self) -> bool:
        """Whether enough films have a target to say anything."""
        return int((self.targets > 0).sum()) >= MIN_CASES

    def precision(self, weight_N: Floats) -> float:
        """Return the mean average precision with so many of each film; NaN without a target."""
        targets = float(weight_N @ self.targets)
        if not targets:
            return float("nan")
        weight_D = weight_N[self.film]
        seen_D = np.cumsum(weight_D)
        areas = [_area(np.cumsum(weight_D[at]), seen_D[at], targets) for at in self.hits]
        return float(np.mean(areas))


def _boxes(film: Film, column: str, label: str) -> tuple[Floats, Floats]:
    """Return the corners [D, 4] and scores [D] of the boxes of a label; targets have score 1."""
    boxes = film[column]
    scores = film["scores"] if column == "predicted" else [1.0] * len(boxes)
    own = [(b, score) for b, score in zip(boxes, scores, strict=True) if b["label"] == label]
    corners = [(b["x"], b["y"], b["x"] + b["w"], b["y"] + b["h"]) for b, _ in own]
    score_D = np.array([score for _, score in own], dtype=np.float64)
    return np.array(corners, dtype=np.float64).reshape(-1, 4), score_D


def _area(found_P: Floats, seen_P: Floats, targets: float) -> float:
    """Return the mean over RECALLS of the best precision at that recall or a higher one."""
    zero_P = np.zeros(len(found_P))
    precision_P = np.divide(found_P, seen_P, out=zero_P, where=seen_P > 0)
    best_P = np.maximum.accumulate(precision_P[::-1])[::-1]
    place = np.searchsorted(found_P / targets, RECALLS, side="left")
    return float(best_P[place[place < len(best_P)]].sum() / len(RECALLS))


def labels_of(films: Sequence[Film]) -> list[str]:
    """Return the names of all boxes."""
    return sorted({b["label"] for film in films for c in ("targets", "predicted") for b in film[c]})


def mean_precision(films: Sequence[Film], measure: str) -> float:
    """Return a measure, the mean over the labels that have a target on a film that counts.

    -1 where none has, as torchmetrics says: no prediction at all is worse than one that misses.
    """
    weight_N = np.ones(len(films))
    hits = (Hits.of(films, label, MEASURES[measure]) for label in labels_of(films))
    value_L = [value for each in hits if not np.isnan(value := each.precision(weight_N))]
    return float(np.mean(value_L)) if value_L else -1.0


def detection_rows(films: Sequence[Film], *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the columns label, metric, value, interval and counts of every number (see above).

    A label with targets on fewer than MIN_CASES films that count is empty, and not in the mean
    over labels. Intervals are bootstraps over subjects, or over films where they are unknown.
    """
    films = sorted(films, key=lambda film: str(film["key"]))
    units = Units.of([film["subject_id"] for film in films])
    labels = labels_of(films)
    for name, measure in MEASURES.items():
        hits_L = [Hits.of(films, label, measure) for label in labels]
        value_L = np.array([h.precision(np.ones(len(films))) for h in hits_L])
        value_L[[not h.counted for h in hits_L]] = np.nan
        spread_RL = _spread(hits_L, units, seed=seed)
        source = FIXED if measure.confidence else None
        told = {"metric": name, "threshold_source": source}
        groups = [(label, [place]) for place, label in enumerate(labels)]
        if len(labels) > 1:
            groups.append((MACRO, np.flatnonzero(~np.isnan(value_L)).tolist()))
        for label, places in groups:
            known = bool(places) and not np.isnan(value_L[places]).any()
            bounds = interval(spread_RL[:, places].mean(axis=1)) if known else None
            low, high = bounds or (None, None)
            yield told | {
                "label": label,
                "value": float(value_L[places].mean()) if known else None,
                "ci_low": low,
                "ci_high": high,
                "ci_method": units.method() if known else "none",
                **_counts([hits_L[place] for place in places], units, label=label),
            }


def _spread(hits_L: Sequence[Hits], units: Units, *, seed: int) -> Floats:
    """Return the measure of every label in every bootstrap replicate [R, L]."""
    value_RL = [
        [hits.precision(weight_N) for hits in hits_L]
        for weight_BN in resamples(units, seed=seed)
        for weight_N in weight_BN
    ]
    return np.array(value_RL).reshape(len(value_RL), len(hits_L))


def _counts(hits: Sequence[Hits], units: Units, *, label: str) -> dict[str, Any]:
    """Return how many films and subjects count, and how many films have a box of the label."""
    member_N = np.zeros(len(units.index), dtype=bool)
    for each in hits:
        member_N |= each.member
    return {
        "n": int(member_N.sum()),
        "n_pos": None if label == MACRO else int((hits[0].targets > 0).sum()),
        "n_subjects": units.among(member_N),
    }


def framed(picture_HW: npt.NDArray[np.uint8], film: Film, *, least: float = HALF) -> bytes:
    """Return a PNG of a film with its targets in green and what was predicted in orange.

    Of the predictions those of at least `least` are shown, and the best one in any case.
    """
    image_HWC = cv2.cvtColor(picture_HW, cv2.COLOR_GRAY2BGR)
    best = max(film["scores"], default=1.0)
    shown = [
        box
        for box, score in zip(film["predicted"], film["scores"], strict=True)
        if score >= min(least, best)
    ]
    for name, boxes in (("target", film["targets"]), ("predicted", shown)):
        for box in boxes:
            corners = (box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"])
            left, top, right, bottom = (round(side) for side in corners)
            cv2.rectangle(image_HWC, (left, top), (right, bottom), SHOWN[name], 1)
    return cv2.imencode(".png", image_HWC)[1].tobytes()
