"""The shard set that is evaluated: its labels, its splits, its label fractions.

Axes: N samples, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..contract import SPLITS, InputError
from ..prep.policy import FRONTAL
from ..shards.manifest import ShardSet
from ..shards.order import Ordinals, permutation
from .metrics import Floats


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of one split by ascending ordinal; a NaN target is unlabelled or uncertain."""

    ordinals: Ordinals
    targets: Floats

    def only(self, index: Sequence[int] | np.ndarray) -> Samples:
        """Return the samples at the given positions."""
        return Samples(ordinals=self.ordinals[index], targets=self.targets[index])


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """A labelled shard set: label names, and the labelled frontal samples of each split."""

    __test__ = False  # not a test, whatever pytest makes of the name

    shards: ShardSet
    labels: tuple[str, ...]
    splits: Mapping[str, Samples]

    @property
    def names(self) -> tuple[str, ...]:
        """What the set may be called: its own name, then that of its archive."""
        return self.shards.name, str(self.of("dataset", self.test)[0])

    @property
    def test(self) -> Samples:
        """The test split."""
        return self.splits["test"]

    def of(self, column: str, samples: Samples) -> list[str | None]:
        """Return a text column of the shard manifest for these samples."""
        values = self.shards.column(column)
        return [values[i] for i in samples.ordinals]


def open_testset(shards: ShardSet) -> TestSet:
    """Gather targets from the manifest's labels: 1 present, 0 absent, all else left out.

    Raises InputError when the set has no label, or its test split none.
    """
    marks = [_certain(row) for row in shards.column("labels")]
    views = shards.column("view")
    labels = tuple(sorted({name for row in marks for name in row}))
    if not labels:
        raise InputError(
            "the set has no label to evaluate against",
            where=shards.name,
            todo="evaluate a set with labels, such as rsna, openi or mimic",
        )
    seen = {None, *FRONTAL}  # evaluation stays frontal, also in a set prepared with all views
    splits = {}
    for split in SPLITS:
        rows = [int(i) for i in shards.rows(split) if marks[i] and views[i] in seen]
        target_NL = np.array(
            [[marks[i].get(name, np.nan) for name in labels] for i in sorted(rows)]
        )
        splits[split] = Samples(
            ordinals=np.array(sorted(rows), dtype=np.int64),
            targets=target_NL.reshape(len(rows), len(labels)),
        )
    target_NL = splits["test"].targets
    if not ((target_NL == 1).any(axis=0) & (target_NL == 0).any(axis=0)).any():
        raise InputError(
            "no label of the set's test split is both present and absent", where=shards.name
        )
    return TestSet(shards=shards, labels=labels, splits=splits)


def _certain(labels: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in dict(labels).items() if value in (0.0, 1.0)}


def subset(samples: Samples, fraction: float, *, seed: int, draw: int) -> Samples:
    """Return a label fraction of the training samples, drawn image by image, not stratified.

    The smaller fractions of one draw lie within its larger ones. Counts round down, with at least
    one sample: RSNA's 16,010 give 160 at 1 % and 1,601 at 10 %, as published.
    """
    n = len(samples.ordinals)
    size = max(1, math.floor(round(fraction * n, 6)))
    order_N = permutation(n, purpose="eval/labels", seed=seed, epoch=draw)
    return samples.only(np.sort(order_N[:size]))
