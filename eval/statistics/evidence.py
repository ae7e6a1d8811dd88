"""What encoders are compared on where no label has a score: the films of masks and boxes.

Both look as `Answers` do to who compares them: samples, labels, values and their bootstrap.

Axes: N test films, L labels, M metrics, R replicates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from ..boxes import MEASURES as PRECISIONS
from ..boxes import Hits, labels_of
from ..intervals import Units, resamples
from ..masks import Overlaps
from ..metrics import MIN_CASES, Floats

Mask = npt.NDArray[np.bool_]


class Evidence(Protocol):
    """What an encoder said of a test split, film by film."""

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Keys of the films, ascending."""

    @property
    @abstractmethod
    def units(self) -> Units:
        """What the bootstrap draws."""

    @property
    @abstractmethod
    def counted(self) -> Mask:
        """Which labels have enough cases to say anything.  # [L]"""

    @abstractmethod
    def only(self, member_N: Mask) -> Self:
        """Return the evidence of some of the films."""

    @abstractmethod
    def values(self, metrics: Sequence[str]) -> Floats:
        """Return each metric of each label [L, M]; NaN where the label says nothing."""

    @abstractmethod
    def spread(self, metrics: Sequence[str], *, seed: int) -> Floats:
        """Return each metric of each label in every bootstrap replicate [R, L, M]."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Rows of REGIONS of one cell and threshold; the mean is over the films that have a region."""

    rows: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Masks:
        """Order the rows; of several thresholds the first counts."""
        ordered = sorted(rows, key=lambda row: str(row["key"]))
        source = ordered[0]["threshold_source"]
        return cls(rows=tuple(row for row in ordered if row["threshold_source"] == source))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the films, ascending."""
        return tuple(str(row["key"]) for row in self.rows)

    @property
    def units(self) -> Units:
        """What the bootstrap draws."""
        return Units.of([row["subject_id"] for row in self.rows])

    @property
    def counted(self) -> Mask:
        """Whether enough films have a region.  # [1]"""
        return np.array([sum(row["target_pixels"] > 0 for row in self.rows) >= MIN_CASES])

    def only(self, member_N: Mask) -> Masks:
        """Return the evidence of some of the films."""
        return replace(self, rows=tuple(self.rows[i] for i in np.flatnonzero(member_N)))

    def values(self, metrics: Sequence[str]) -> Floats:
        """Return dice or iou [1, M]; NaN with too few regions."""
        if not self.counted.any():
            return np.full((1, len(metrics)), np.nan)
        (value_LM,) = self._means(np.ones((1, len(self.rows))), metrics)
        return np.asarray(value_LM)

    def spread(self, metrics: Sequence[str], *, seed: int) -> Floats:
        """Return dice or iou in every bootstrap replicate [R, 1, M]."""
        weights = resamples(self.units, seed=seed)
        return np.concatenate([self._means(weight_BN, metrics) for weight_BN in weights])

    def _means(self, weight_BN: Floats, metrics: Sequence[str]) -> Floats:
        """Return the weighted means over the films that have a region [B, 1, M]."""
        overlaps = Overlaps.of(self.rows)
        weight_BN = weight_BN * (overlaps.target > 0)
        total_B = weight_BN.sum(axis=1)
        mean_BM = np.full((len(weight_BN), len(metrics)), np.nan)
        for m, metric in enumerate(metrics):
            above_B = weight_BN @ overlaps.values(metric)
            np.divide(above_B, total_B, out=mean_BM[:, m], where=total_B > 0)
        return mean_BM[:, None]


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Rows of DETECTIONS of one cell; labels are those that a box of these films has."""

    rows: tuple[Mapping[str, Any], ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Boxes:
        """Order the rows."""
        ordered = tuple(sorted(rows, key=lambda row: str(row["key"])))
        targets = [{**row, "predicted": []} for row in ordered]
        return cls(rows=ordered, labels=tuple(labels_of(targets)))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the films, ascending."""
        return tuple(str(row["key"]) for row in self.rows)

    @property
    def units(self) -> Units:
        """What the bootstrap draws."""
        return Units.of([row["subject_id"] for row in self.rows])

    @property
    def counted(self) -> Mask:
        """Which labels have targets on enough films.  # [L]"""
        return np.array([hits.counted for hits in self._hits("map")], dtype=bool)

    def only(self, member_N: Mask) -> Boxes:
        """Return the evidence of some of the films."""
        return replace(self, rows=tuple(self.rows[i] for i in np.flatnonzero(member_N)))

    def values(self, metrics: Sequence[str]) -> Floats:
        """Return mean average precisions [L, M]; NaN for a label with too few targets."""
        value_LM = self._precisions(np.ones(len(self.rows)), [self._hits(m) for m in metrics])
        return np.where(self.counted[:, None], value_LM, np.nan)

    def spread(self, metrics: Sequence[str], *, seed: int) -> Floats:
        """Return mean average precisions in every bootstrap replicate [R, L, M]."""
        hits = [self._hits(metric) for metric in metrics]
        weights = resamples(self.units, seed=seed)
        return np.stack(
            [self._precisions(weight_N, hits) for weight_BN in weights for weight_N in weight_BN]
        )

    def _hits(self, metric: str) -> list[Hits]:
        return [Hits.of(self.rows, label, PRECISIONS[metric]) for label in self.labels]

    def _precisions(self, weight_N: Floats, hits: Sequence[Sequence[Hits]]) -> Floats:
        value_ML = [[each.precision(weight_N) for each in of_metric] for of_metric in hits]
        return np.array(value_ML).reshape(len(hits), len(self.labels)).T
