"""The numbers of retrieval, from the rows that were kept: recall@K, precision@K, their ceilings.

    p@K              share of the first K that show the same finding (5x200)
    r@K              how often the exact pair is among the first K; its precision is this over K
    r@K-ceiling      the most that any encoder can reach, as equal texts cannot be told apart
    r@K-same         how often a candidate of the same text is among the first K
    p@K-same         share of the first K whose text is the same, and its -ceiling

Axes: N films, L directions, M metrics, R replicates, B replicates at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..intervals import Units, interval, resamples
from ..metrics import MACRO, MIN_CASES, Floats
from .ranking import DIRECTIONS, PLACES

RANKS = (1, 5, 10)  # the K of recall@K
SAME = PLACES[:2]  # the K of the precision of same texts
CEILING = "-ceiling"
Row = Mapping[str, Any]
Measure = Callable[[Row], float]


def _pair(row: Row, *, k: int) -> float:
    return float(min(max((k - row["above"]) / row["level"], 0.0), 1.0))


def _pair_ceiling(row: Row, *, k: int) -> float:
    return float(min(k / row["equal"], 1.0))


def _same(row: Row, *, k: int) -> float:
    return float(row["before"] < k)


def _share(row: Row, *, column: str, place: int) -> float:
    return float(row[column][place]) if row[column] else float("nan")


def _share_ceiling(row: Row, *, k: int) -> float:
    return float(min(row["same"] / k, 1.0))


MEASURES: dict[str, Measure] = {
    **{f"p@{k}": partial(_share, column="finding_share", place=i) for i, k in enumerate(PLACES)},
    **{f"r@{k}": partial(_pair, k=k) for k in RANKS},
    **{f"r@{k}{CEILING}": partial(_pair_ceiling, k=k) for k in RANKS},
    **{f"r@{k}-same": partial(_same, k=k) for k in RANKS},
    **{f"p@{k}-same": partial(_share, column="same_share", place=i) for i, k in enumerate(SAME)},
    **{f"p@{k}-same{CEILING}": partial(_share_ceiling, k=k) for k in SAME},
}


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Rows of RETRIEVALS of one cell, film by film in the order of their keys."""

    films: tuple[tuple[Row, ...], ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Ranks:
        """Gather the directions of each film."""
        by_film: dict[str, dict[str, Row]] = {}
        for row in rows:
            by_film.setdefault(str(row["key"]), {})[row["direction"]] = row
        films = (by_film[key] for key in sorted(by_film))
        return cls(films=tuple(tuple(film[name] for name in DIRECTIONS) for film in films))

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the films, ascending."""
        return tuple(str(film[0]["key"]) for film in self.films)

    @property
    def units(self) -> Units:
        """What the bootstrap draws: who asks; what is looked through stays whole."""
        return Units.of([film[0]["subject_id"] for film in self.films])

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether there are enough films to say anything.  # [L]"""
        return np.full(len(DIRECTIONS), len(self.films) >= MIN_CASES)

    @property
    def metrics(self) -> list[str]:
        """The metrics that mean something here: without findings, none of them."""
        known = any(film[0]["finding_share"] for film in self.films)
        by_finding = {f"p@{k}" for k in PLACES}
        return [name for name in MEASURES if known or name not in by_finding]

    def only(self, member_N: npt.NDArray[np.bool_]) -> Ranks:
        """Return what some of the films found, and their texts."""
        return replace(self, films=tuple(self.films[i] for i in np.flatnonzero(member_N)))

    def values(self, metrics: Sequence[str]) -> Floats:
        """Return each metric of each direction [L, M]; NaN with too few films."""
        if not self.counted.all():
            return np.full((len(DIRECTIONS), len(metrics)), np.nan)
        value_LM: Floats = self._each(metrics).mean(axis=0)
        return value_LM

    def spread(self, metrics: Sequence[str], *, seed: int) -> Floats:
        """Return each metric of each direction in every bootstrap replicate [R, L, M]."""
        value_NLM = self._each(metrics)
        parts = [
            np.tensordot(weight_BN, value_NLM, axes=1) / weight_BN.sum(axis=1)[:, None, None]
            for weight_BN in resamples(self.units, seed=seed)
        ]
        return np.concatenate(parts)

    def _each(self, metrics: Sequence[str]) -> Floats:
        measures = [MEASURES[name] for name in metrics]
        values = [[[m(row) for m in measures] for row in film] for film in self.films]
        return np.array(values, dtype=np.float64).reshape(-1, len(DIRECTIONS), len(metrics))


def retrieval_rows(rows: Iterable[Row], *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the columns label, metric, value, interval and counts of every number (see above).

    The label is the direction, and `macro` the mean of both. Intervals are bootstraps over the
    subjects that ask, or over films where they are unknown; a ceiling has none.
    """
    ranks = Ranks.of(rows)
    metrics, units = ranks.metrics, ranks.units
    value_LM = ranks.values(metrics)
    spread_RLM = ranks.spread(metrics, seed=seed)
    counts = {
        "n": len(ranks.films),
        "n_subjects": units.among(np.ones(len(ranks.films), dtype=bool)),
        "threshold_source": None,
    }
    for m, metric in enumerate(metrics):
        for label, places in (*((name, [i]) for i, name in enumerate(DIRECTIONS)), (MACRO, [0, 1])):
            value = float(value_LM[places, m].mean())
            bare = np.isnan(value) or metric.endswith(CEILING)
            bounds = None if bare else interval(spread_RLM[:, places, m].mean(axis=1))
            low, high = bounds or (None, None)
            yield {
                "metric": metric,
                "label": label,
                "value": None if np.isnan(value) else value,
                "ci_low": low,
                "ci_high": high,
                "ci_method": units.method() if bounds else "none",
                "n_pos": None if label == MACRO else len(ranks.films),  # each has its pair
                **counts,
            }
