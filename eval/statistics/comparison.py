"""Encoders beside each other: repeats joined, paired differences, Holm's correction.

Repeats are the cells of one encoder, task and fraction: draws of the labels, seeds of heads and of
controls. The bootstrap resamples subjects and repeats together; a difference is taken within each
replicate, so both sides see the same subjects, and the same draws where both have them.

Axes: S repeats, L labels, M metrics, R replicates, C comparisons.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ...shards.order import Ordinals, philox
from ..intervals import REPLICATES, interval
from ..metrics import MACRO, Floats
from ..table import CONTROLS, RANDOM
from .answers import WITHOUT_INTERVAL, Answers
from .evidence import Evidence, Mask

SIGNIFICANCE, POWER = 0.05, 0.8
# the metrics that are joined over repeats; encoders are compared by the first of a task's
METRICS = {
    "segment": ("dice", "iou"),
    "detect": ("map",),
    "ground": ("pointing", "recall", "dice", "iou"),
    "retrieve": ("r@5", "r@5-same"),
}
TABLE = ("dataset", "task", "protocol", "fraction")  # columns that compared encoders share


@dataclass(frozen=True, kw_only=True)
class Group:
    """The repeats of one encoder at one place of the table; `repeats` tells them apart.

    `beside` is the encoder that was evaluated, also where this is one of its controls.
    """

    encoder: str
    run_digest: str
    beside: str
    place: Mapping[str, Any]
    repeats: tuple[tuple[int, int], ...]
    answers: tuple[Evidence, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured, the main metric first."""
        first = self.answers[0]
        return first.metrics if isinstance(first, Answers) else METRICS[self.place["task"]]

    def only(self, keys: frozenset[str]) -> Group:
        """Return the group on some of the samples."""
        members = [np.array([key in keys for key in a.keys], dtype=bool) for a in self.answers]
        parts = (a.only(member) for a, member in zip(self.answers, members, strict=True))
        return Group(**(self.__dict__ | {"answers": tuple(parts)}))


def groups_of(
    dataset: str, beside: str, answered: Sequence[tuple[Mapping[str, Any], Evidence]]
) -> list[Group]:
    """Gather the cells of an evaluation, in their order."""
    found: dict[tuple[Any, ...], list[tuple[Mapping[str, Any], Evidence]]] = {}
    for cell, answers in answered:
        place = tuple(cell[name] for name in ("encoder", *TABLE[1:]))
        found.setdefault(place, []).append((cell, answers))
    return [
        Group(
            encoder=cells[0][0]["encoder"],
            run_digest=cells[0][0]["run_digest"],
            beside=beside,
            place={"dataset": dataset} | {name: cells[0][0][name] for name in TABLE[1:]},
            repeats=tuple((cell["draw"], cell["head_seed"]) for cell, _ in cells),
            answers=tuple(answers for _, answers in cells),
        )
        for cells in found.values()
    ]


def summary_rows(group: Group, *, seed: int) -> list[dict[str, Any]]:
    """Return one row of SUMMARY a metric: mean, deviation and interval of the macro over repeats.

    Nothing for a single repeat, of which the results say it all.
    """
    count = len(group.repeats)
    if count < 2:
        return []
    pick_RS = _picks(count, seed)
    metrics = group.metrics
    value_SM = np.stack([_macro(a.values(metrics)[None])[0] for a in group.answers])
    spread_SRM = np.stack([_spread(a, metrics, a.counted, seed) for a in group.answers])
    mean_RM = spread_SRM[pick_RS, np.arange(len(pick_RS))[:, None]].mean(axis=1)
    units = _fullest(group).units
    rows = []
    for m, metric in enumerate(metrics):
        value_S = value_SM[~np.isnan(value_SM[:, m]), m]
        bare = metric in WITHOUT_INTERVAL or not len(value_S)
        low, high = (None, None) if bare else interval(mean_RM[:, m]) or (None, None)
        rows.append(
            dict(group.place)
            | {
                "encoder": group.encoder,
                "metric": metric,
                "label": MACRO,
                "value": float(value_S.mean()) if len(value_S) else None,
                "sd": float(value_S.std(ddof=1)) if len(value_S) > 1 else None,
                "ci_low": low,
                "ci_high": high,
                "ci_method": "none" if bare else f"{units.method()}-repeats",
                "repeats": len(value_S),
            }
        )
    return rows


def _fullest(group: Group) -> Evidence:
    """Return the first repeat with most samples: a draw of few labels may have answered none."""
    return max(group.answers, key=lambda answers: len(answers.keys))


def compare(groups: Sequence[Group], *, seed: int) -> list[dict[str, Any]]:
    """Return rows of COMPARISONS: each pair of encoders of each place, corrected over all of them.

    Controls are not compared with each other, nor a random one with another's encoder. Encoders at
    one place are compared on the samples that all of them answered, and for each draw on the labels
    that all of them answered there; a draw without such a label is left out. p is of
    a normal distribution whose deviation is the bootstrap's; `smallest` is the difference that
    this test set would show with a power of 80 % at the corrected 5 %.
    """
    rows = [row for place in _by_place(groups) for row in _pairs(place, seed=seed)]
    tested = [row for row in rows if row["p"] is not None]
    corrected = holm([row["p"] for row in tested])
    normal = NormalDist()
    alone = SIGNIFICANCE / max(len(tested), 1)
    reach = normal.inv_cdf(1 - alone / 2) + normal.inv_cdf(POWER)
    for row, p in zip(tested, corrected, strict=True):
        row |= {"p_holm": p, "smallest": reach * row["sd"]}
    return rows


def _by_place(groups: Sequence[Group]) -> list[list[Group]]:
    """Gather the groups that stand at one place; one that comes twice counts once."""
    found: dict[tuple[Any, ...], dict[tuple[str, str], Group]] = {}
    for group in groups:
        place = tuple(group.place.values())
        found.setdefault(place, {})[(group.encoder, group.run_digest)] = group
    return [list(place.values()) for place in found.values()]


def holm(p_C: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scand. J. Statistics 6, 1979)."""
    order = sorted(range(len(p_C)), key=lambda i: p_C[i])
    corrected, largest = [0.0] * len(p_C), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_C) - rank) * p_C[i]))
        corrected[i] = largest
    return corrected


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A group's macro of the main metric: of each repeat [S], and in each replicate [S, R]."""

    group: Group
    values: Floats
    spread: Floats


def _pairs(groups: Sequence[Group], *, seed: int) -> list[dict[str, Any]]:
    """Return rows of COMPARISONS that are not corrected yet, for all pairs at one place.

    A control is always the other side.
    """
    if len(groups) < 2:
        return []
    shared = _shared(groups)
    groups = [group.only(shared) for group in groups]
    counted = _counted(groups)
    last = sorted(groups, key=lambda group: group.encoder in CONTROLS)
    measured = [_measured(group, counted, seed) for group in last]
    first = _fullest(groups[0])
    common = dict(groups[0].place) | {
        "metric": groups[0].metrics[0],
        "label": MACRO,
        "labels": int(np.logical_or.reduce(list(counted.values())).sum()),
        "n": len(first.keys),
        "n_subjects": first.units.among(np.ones(len(first.keys), dtype=bool)),
        "ci_method": f"paired-{first.units.method()}",
    }
    return [
        common | _difference(one, other, seed)
        for one, other in itertools.combinations(measured, 2)
        if _comparable(one.group, other.group)
    ]


def _shared(groups: Sequence[Group]) -> frozenset[str]:
    """Return the samples that all answered.

    A draw in which no label counts may have no answers, and is looked at only where all are such.
    """
    counted = _counted(groups)
    answered = [
        (counted[draw].any(), frozenset(answers.keys))
        for group in groups
        for (draw, _), answers in zip(group.repeats, group.answers, strict=True)
    ]
    keys = [keys for counts, keys in answered if counts] or [keys for _, keys in answered]
    return frozenset.intersection(*keys)


def _counted(groups: Sequence[Group]) -> dict[int, Mask]:
    """Return which labels all groups answered in each draw of the training labels.  # [L]"""
    found: dict[int, Mask] = {}
    for group in groups:
        for (draw, _), answers in zip(group.repeats, group.answers, strict=True):
            found[draw] = found.get(draw, answers.counted) & answers.counted
    return found


def _comparable(one: Group, other: Group) -> bool:
    names = {one.encoder, other.encoder}
    return not names <= set(CONTROLS) and (RANDOM not in names or one.beside == other.beside)


def _measured(group: Group, counted: Mapping[int, Mask], seed: int) -> _Measured:
    """Measure a group, its repeats sorted, on the labels that are counted in their draws.

    All is NaN when no draw has one.
    """
    order = sorted(range(len(group.repeats)), key=lambda i: group.repeats[i])
    masks = [counted[group.repeats[i][0]] for i in order]
    pairs = [(group.answers[i], mask_L) for i, mask_L in zip(order, masks, strict=True)]
    main = group.metrics[:1]
    values, spread = [], []
    for answers, mask_L in [pair for pair in pairs if pair[1].any()] or pairs:
        value_L = np.where(mask_L, answers.values(main)[:, 0], np.nan)
        values.append(_macro(value_L[None, :, None])[0])
        spread.append(_spread(answers, main, mask_L, seed)[:, 0])
    return _Measured(group=group, values=np.concatenate(values), spread=np.stack(spread))


def _difference(one: _Measured, other: _Measured, seed: int) -> dict[str, Any]:
    """Return the difference of two groups; empty where it is undefined."""
    names = {"encoder": one.group.encoder, "other": other.group.encoder}
    same = sorted(one.group.repeats) == sorted(other.group.repeats)
    mean_R, otherwise_R = (
        _joined(m.spread, seed, "" if same else m.group.encoder) for m in (one, other)
    )
    difference = float(one.values.mean() - other.values.mean())
    bounds = interval(mean_R - otherwise_R)
    columns = ("difference", "ci_low", "ci_high", "sd", "p", "p_holm", "smallest")
    if math.isnan(difference) or bounds is None:
        return names | dict.fromkeys(columns)
    sd = float(np.nanstd(mean_R - otherwise_R, ddof=1))
    p = math.erfc(abs(difference) / sd / math.sqrt(2)) if sd else float(difference == 0)
    return names | dict(zip(columns, (difference, *bounds, sd, p, None, None), strict=True))


def _joined(spread_SR: Floats, seed: int, whose: str) -> Floats:
    """Return the mean over repeats, drawn with replacement in each replicate.  # [R]"""
    pick_RS = _picks(len(spread_SR), seed, whose)
    joined_R: Floats = spread_SR[pick_RS, np.arange(len(pick_RS))[:, None]].mean(axis=1)
    return joined_R


def _picks(count: int, seed: int, whose: str = "") -> Ordinals:
    """Return which repeats each replicate takes, drawn with replacement.  # [R, S]"""
    raw = philox("eval/repeats", seed, whose).bit_generator.random_raw(REPLICATES * count)
    drawn = (raw >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
    return drawn.astype(np.int64).reshape(REPLICATES, count)


def _spread(answers: Evidence, metrics: Sequence[str], counted_L: Any, seed: int) -> Floats:
    """Return the macro over some labels of each metric in every replicate.  # [R, M]"""
    spread_RLM = answers.spread(metrics, seed=seed)
    known_LM = ~np.isnan(answers.values(metrics)) & counted_L[:, None]
    spread_RM: Floats = _macro(np.where(known_LM, spread_RLM, np.nan), known_LM)
    return spread_RM


def _macro(value_RLM: Floats, known_LM: Any = None) -> Floats:
    """Return the mean over labels; NaN where a known label is undefined, or none is known."""
    known_LM = ~np.isnan(value_RLM[0]) if known_LM is None else known_LM
    total_RM = np.where(known_LM, value_RLM, 0.0).sum(axis=1)
    count_M = known_LM.sum(axis=0).astype(np.float64)
    mean_RM: Floats = np.divide(
        total_RM, count_M, out=np.full_like(total_RM, np.nan), where=count_M > 0
    )
    return mean_RM
