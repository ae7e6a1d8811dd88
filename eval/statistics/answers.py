"""What an encoder said of a test split, and the numbers that follow from it.

Axes: N test samples, L labels, M metrics, R bootstrap replicates, K labels of a mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..intervals import Units, bootstrap, interval, resamples
from ..metrics import (
    DECIDED,
    LIMITED,
    MACRO,
    METRICS,
    MIN_CASES,
    TOP1,
    Floats,
    Settled,
    best_threshold,
    measure,
    ones,
    top1,
)

# the bootstrap adds the very noise that a calibration error measures: its intervals missed the
# truth in 27 to 100 of 100 simulated test sets of 120 to 500 films
WITHOUT_INTERVAL = ("ece",)
VALIDATE, TEST, FIXED = "validate", "test", "fixed"
HALF = 0.5  # the fixed threshold of a probability


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Targets and scores [N, L] of the samples that have one of each, in the order of their keys.

    NaN leaves a sample out of a label. `settled` is what validation settled for each label. With
    `exclusive` the labels are classes: exactly one of them is present in each sample.
    """

    labels: tuple[str, ...]
    keys: tuple[str, ...]
    subjects: tuple[str | None, ...]
    targets: Floats
    scores: Floats
    settled: tuple[Settled, ...]
    exclusive: bool = False

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        samples: Sequence[tuple[str, str | None]],
        targets: Floats,
        scores: Floats,
        settled: Sequence[Settled],
        *,
        exclusive: bool = False,
    ) -> Answers:
        """Order the samples, each its key and subject, and leave out those without an answer."""
        used_N = np.asarray((~(np.isnan(targets) | np.isnan(scores))).any(axis=1))
        order_N = [i for i in np.argsort([key for key, _ in samples], kind="stable") if used_N[i]]
        return cls(
            labels=tuple(labels),
            keys=tuple(samples[i][0] for i in order_N),
            subjects=tuple(samples[i][1] for i in order_N),
            targets=np.where(np.isnan(scores), np.nan, targets)[order_N],
            scores=np.where(np.isnan(targets), np.nan, scores)[order_N],
            settled=tuple(settled),
            exclusive=exclusive,
        )

    def only(self, member_N: npt.NDArray[np.bool_]) -> Answers:
        """Return the answers on some of the samples."""
        chosen = np.flatnonzero(member_N)
        return replace(
            self,
            keys=tuple(self.keys[i] for i in chosen),
            subjects=tuple(self.subjects[i] for i in chosen),
            targets=self.targets[chosen],
            scores=self.scores[chosen],
        )

    @property
    def units(self) -> Units:
        """What the bootstrap draws."""
        return Units.of(self.subjects)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured, the main metric first."""
        return (*METRICS, TOP1) if self.exclusive else METRICS

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Which labels have enough positives and negatives to say anything.  # [L]"""
        cases_L = np.minimum((self.targets == 1).sum(axis=0), (self.targets == 0).sum(axis=0))
        return np.asarray(cases_L >= MIN_CASES)

    def values(self, metrics: Sequence[str] = METRICS) -> Floats:
        """Return each metric of each label [L, M]; NaN where the label says nothing.

        Top-1 accuracy is no label's own, and stands at the first that says anything.
        """
        of_labels = [name for name in metrics if name != TOP1]
        value_LM = np.full((len(self.labels), len(of_labels)), np.nan)
        for label in np.flatnonzero(self.counted):
            target_N, score_N = self.targets[:, label], self.scores[:, label]
            used_N = ~np.isnan(target_N)
            known = target_N[used_N], score_N[used_N], ones(used_N.sum())
            found = measure(*known, self.settled[label], of_labels)
            value_LM[label] = [found[name][0] for name in of_labels]
        if TOP1 in metrics:
            (top1_L,) = self._top1(ones(len(self.keys)))
            value_LM = np.insert(value_LM, metrics.index(TOP1), top1_L, axis=1)
        return value_LM

    def spread(self, metrics: Sequence[str], *, seed: int) -> Floats:
        """Return each metric of each label in every bootstrap replicate [R, L, M]."""
        known, units = (self.targets, self.scores, self.settled), self.units
        of_labels = [name for name in metrics if name != TOP1]
        spread_RLM = bootstrap(*known, units, seed=seed, metrics=of_labels)
        if TOP1 in metrics:
            top1_RL = np.concatenate([self._top1(w_BN) for w_BN in resamples(units, seed=seed)])
            spread_RLM = np.insert(spread_RLM, metrics.index(TOP1), top1_RL, axis=2)
        return spread_RLM

    def _top1(self, weight_BN: Floats) -> Floats:
        """Return top-1 accuracy at the first label that says anything, NaN at others [B, L]."""
        value_BL = np.full((len(weight_BN), len(self.labels)), np.nan)
        first = np.flatnonzero(self.counted)[:1]
        value_BL[:, first] = top1(self.targets, self.scores, weight_BN)[:, None]
        return value_BL

    def decided_on(self, source: str) -> Answers:
        """Return the answers with other thresholds: of the best F1 on these samples, or one half.

        Published code of the MedKLIP family chooses thresholds on the test set itself
        (MediaBrain-SJTU/MedKLIP, Sample_zero-shot_Classification_CXR14/test.py).
        """
        if source == VALIDATE:
            return self
        settled = []
        for label, known in enumerate(self.settled):
            used_N = ~np.isnan(self.targets[:, label])
            own = best_threshold(self.targets[used_N, label], self.scores[used_N, label])
            settled.append(replace(known, threshold=own if source == TEST else HALF))
        return replace(self, settled=tuple(settled))


def answer_rows(
    answers: Answers, common: Mapping[str, Any], *, seed: int, sources: Sequence[str] = (VALIDATE,)
) -> list[dict[str, Any]]:
    """Return one row of RESULTS a number: each metric of each label, then the macro means.

    Top-1 accuracy is of all labels together, and has the row of the macro mean alone. `common` are
    the columns that all rows share. Accuracy and F1 come once for each of `sources` of thresholds:
    validate, test (published code does so) or fixed (one half).
    """
    common = dict(common) | {"ci_method": answers.units.method()}
    rows = []
    for metrics, source, known in _passes(answers, sources):
        value_LM = known.values(metrics)
        spread_RLM = known.spread(metrics, seed=seed)
        for m, metric in enumerate(metrics):
            told = {"metric": metric, "threshold_source": source if _cut(metric) else None}
            numbers = _numbers(answers, value_LM[:, m], spread_RLM[:, :, m])
            rows += [
                _shown(common | told | row)
                for row in numbers
                if metric != TOP1 or row["label"] == MACRO
            ]
    order = {name: place for place, name in enumerate(answers.metrics)}
    return sorted(rows, key=lambda row: order[row["metric"]])


def _passes(
    answers: Answers, sources: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], str, Answers]]:
    """Yield metrics, the source of their thresholds, and the answers with these thresholds."""
    others = tuple(name for name in answers.metrics if name not in DECIDED)
    for source in sources:
        yield DECIDED, source, answers.decided_on(source)
    yield others, VALIDATE, answers


def _cut(metric: str) -> bool:
    return metric in (*DECIDED, *LIMITED)


def _numbers(answers: Answers, value_L: Floats, spread_RL: Floats) -> Iterator[dict[str, Any]]:
    """Yield label, value, interval and counts of each label and of their mean."""
    known_L = ~np.isnan(value_L)
    for label, name in [*enumerate(answers.labels), (-1, MACRO)]:
        chosen_L = known_L if name == MACRO else np.arange(len(value_L)) == label
        used_L = chosen_L & known_L
        member_N = np.asarray((~np.isnan(answers.targets[:, chosen_L])).any(axis=1))
        bounds = interval(spread_RL[:, used_L].mean(axis=1)) if used_L.any() else None
        low, high = bounds or (None, None)
        positives = np.nansum(answers.targets[:, label]) if name != MACRO else 0
        yield {
            "label": name,
            "value": float(value_L[used_L].mean()) if used_L.any() else None,
            "ci_low": low,
            "ci_high": high,
            "n": int(member_N.sum()),
            "n_pos": None if name == MACRO else int(positives),
            "n_subjects": answers.units.among(member_N),
        }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without an interval or a threshold's source where it can have none."""
    if row["value"] is None:
        return row | {"threshold_source": None}
    if row["metric"] in WITHOUT_INTERVAL:
        return row | {"ci_low": None, "ci_high": None, "ci_method": "none"}
    return row
