"""Slices of a test split: AUROC by view, sex, age and origin, where the archive tells them.

Axes: N test samples, L labels, R replicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..intervals import interval
from ..metrics import MACRO
from .answers import Answers
from .samples import Told

METRIC = "auroc"
PROPERTIES = {"view": "view", "sex": "sex", "age": "age_group", "origin": "origin"}
Mask = npt.NDArray[np.bool_]


def slice_rows(
    answers: Answers, told: Mapping[str, Told], common: Mapping[str, Any], *, seed: int
) -> list[dict[str, Any]]:
    """Return rows of SLICES: AUROC of each label, and the macro, in each slice of each property.

    A property that all samples share, or that is not known, gives none. The macro is over the
    labels that every slice of the property can measure (but those that can measure none), so that
    the slices of a property can be compared; it is empty when there is no such label.
    """
    rows = []
    for name, attribute in PROPERTIES.items():
        found = [getattr(told[key], attribute) if key in told else None for key in answers.keys]
        values = sorted({value for value in found if value is not None})
        if len(values) < 2:
            continue
        parts = {v: answers.only(np.array([f == v for f in found], dtype=bool)) for v in values}
        counted = [part.counted for part in parts.values() if part.counted.any()]
        shared_L = np.logical_and.reduce(counted) if counted else np.zeros(0, dtype=bool)
        for value, part in parts.items():
            head = dict(common) | {"property": name, "slice": value, "metric": METRIC}
            rows += [head | row for row in _numbers(part, shared_L, seed=seed)]
    return rows


def _numbers(part: Answers, shared_L: Mask, *, seed: int) -> list[dict[str, Any]]:
    """Return the number of each label that this slice can measure, then their mean."""
    if not part.counted.any():
        return []
    value_L = part.values((METRIC,))[:, 0]
    spread_RL = part.spread((METRIC,), seed=seed)[:, :, 0]
    units = part.units
    rows = []
    places = [(int(i), part.labels[i]) for i in np.flatnonzero(part.counted)]
    for label, name in [*places, (-1, MACRO)]:
        chosen_L: Mask = shared_L if name == MACRO else np.arange(len(value_L)) == label
        member_N = np.asarray((~np.isnan(part.targets[:, chosen_L])).any(axis=1))
        bounds = interval(spread_RL[:, chosen_L].mean(axis=1)) if chosen_L.any() else None
        low, high = bounds or (None, None)
        rows.append(
            {
                "label": name,
                "value": float(value_L[chosen_L].mean()) if chosen_L.any() else None,
                "ci_low": low,
                "ci_high": high,
                "ci_method": units.method(),
                "n": int(member_N.sum()),
                "n_pos": None if name == MACRO else int(np.nansum(part.targets[:, label])),
                "n_subjects": units.among(member_N),
            }
        )
    return rows
