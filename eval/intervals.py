"""Bootstrap 95 % intervals over subjects, all labels of a test set resampled together.

Axes: N test samples, L labels, M metrics in order, R replicates, B replicates at a time,
S units (subjects, or images where the archive tells no subject).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..shards.order import philox
from .metrics import METRICS, Floats, Settled, measure

REPLICATES = 1000
LEVELS = (0.025, 0.975)
CHUNK = 2_000_000  # weights held at once, 16 MB


@dataclass(frozen=True, kw_only=True)
class Units:
    """What is drawn with replacement: the unit of each sample, and whether it is a subject."""

    index: npt.NDArray[np.int64]
    count: int
    kind: str

    @classmethod
    def of(cls, subjects: Sequence[str | None]) -> Units:
        """Group samples by subject; each image stands alone when any subject is unknown."""
        if any(subject is None for subject in subjects):
            return cls(index=np.arange(len(subjects)), count=len(subjects), kind="images")
        names, index_N = np.unique(np.array(subjects, dtype=str), return_inverse=True)
        return cls(index=index_N.astype(np.int64), count=len(names), kind="subjects")

    def method(self, replicates: int = REPLICATES) -> str:
        """Name of the interval's method, as the results table carries it."""
        return f"bootstrap-{self.kind}-{replicates}"

    def among(self, member_N: npt.NDArray[np.bool_]) -> int | None:
        """Count the subjects of the chosen samples; None when subjects are unknown."""
        if self.kind == "images":
            return None
        return len(np.unique(self.index[member_N]))


def resamples(units: Units, *, seed: int, replicates: int = REPLICATES) -> Iterator[Floats]:
    """Yield weightings [B, N] of the samples; they depend on the seed and the units alone."""
    draws = philox("eval/bootstrap", seed).bit_generator
    size = np.uint64(units.count)
    step = max(1, CHUNK // max(len(units.index), units.count, 1))
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        # NumPy promises the raw stream for ever, not what its distributions make of it
        raw_BS = draws.random_raw(rows * units.count).reshape(rows, units.count)
        drawn_BS = ((raw_BS >> np.uint64(32)) * size >> np.uint64(32)).astype(np.int64)
        drawn_BS += np.arange(rows)[:, None] * units.count
        count_BS = np.bincount(drawn_BS.ravel(), minlength=rows * units.count)
        yield count_BS.reshape(rows, units.count)[:, units.index].astype(np.float64)


def bootstrap(
    target_NL: Floats,
    score_NL: Floats,
    settled_L: Sequence[Settled],
    units: Units,
    *,
    seed: int,
    replicates: int = REPLICATES,
    metrics: Sequence[str] = METRICS,
) -> Floats:
    """Return the metrics of every label in every replicate [R, L, M].

    NaN in `target_NL` or `score_NL` leaves that sample out of that label. A replicate in which a
    metric is undefined, such as AUROC without positives, holds NaN.
    """
    chunks = []
    used_NL = ~(np.isnan(target_NL) | np.isnan(score_NL))
    for weight_BN in resamples(units, seed=seed, replicates=replicates):
        value_BLM = np.full((len(weight_BN), target_NL.shape[1], len(metrics)), np.nan)
        for label, settled in enumerate(settled_L):
            used_N = used_NL[:, label]
            values = measure(
                target_NL[used_N, label],
                score_NL[used_N, label],
                weight_BN[:, used_N],
                settled,
                metrics,
            )
            for m, name in enumerate(metrics):
                value_BLM[:, label, m] = values[name]
        chunks.append(value_BLM)
    return np.concatenate(chunks)


def interval(value_R: Floats) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of the replicates in which the metric is defined."""
    defined_R = value_R[~np.isnan(value_R)]
    if not len(defined_R):
        return None
    low, high = np.quantile(defined_R, LEVELS)
    return float(low), float(high)
