"""The control without pixels: what is told beside a picture, as if an encoder had said it.

View, sex, age, origin and the first size of a film can give a label away: portable films show
sicker patients, and a collection may hold one class only. A logistic regression on them is what an
encoder has to beat before its numbers speak of anatomy.

Axes: N samples, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ...files import digest_of
from ..metrics import Floats
from ..statistics.samples import NAMES, Told, read_told
from ..table import NO_PIXELS
from .features import Features, Pictures

DIGEST = digest_of([NO_PIXELS, NAMES])
TEXTS = ("view", "sex", "origin")


class NoPixels(Pictures):
    """A set as its metadata describes it; only `features` means anything."""

    @cached_property
    def features(self) -> Features:
        """What is told of the samples of every split; no picture is opened."""
        ordinal_N = np.sort(np.concatenate([s.ordinals for s in self.tests.splits.values()]))
        column_NC = told_columns(read_told(self.tests.shards, ordinal_N))
        return Features(
            ordinals=ordinal_N, values=column_NC.astype(np.float32), damaged=frozenset()
        )


def told_columns(told: Sequence[Told]) -> Floats:
    """Return numbers [N, C] for what is told: a column for each value of a text, age and sides.

    What is not told is a value of its own; an age that is not told is 0 beside it.
    """
    columns = []
    for name in TEXTS:
        texts = [getattr(one, name) or "" for one in told]
        columns += [[float(text == value) for text in texts] for value in sorted(set(texts))]
    ages = [one.age for one in told]
    columns += [[age or 0.0 for age in ages], [float(age is None) for age in ages]]
    sides = np.array([[one.height or 1, one.width or 1] for one in told], dtype=np.float64)
    log_N2 = np.log(sides).reshape(-1, 2)
    column_NC: Floats = np.column_stack([*columns, log_N2, log_N2[:, :1] - log_N2[:, 1:]])
    return column_NC
