"""Linear classification: logistic regression on frozen features (`heads/probe.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..encoders.encoder import Source
from ..heads.probe import GRID, probe
from ..testset import TestSet
from .labels import exclusive, found_labels, part, sound_test, untrainable
from .task import EvalOptions, Found, Place, Task, Work, by_share


class Linear(Task):
    """A linear probe on centre-crop features that are computed once."""

    name = "linear"
    needs = ("features",)

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need labels to train on."""
        return untrainable(tests)

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan every fraction and draw; the head is convex and has no seed."""
        return by_share(options, head_seeds[:1])

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the grid of strengths."""
        return [dict(setting), GRID]

    def do(self, work: Work) -> Found:
        """Fit the probe on this cell's share of the training labels."""
        found = work.pictures.features
        validate, test = sound_test(work.tests, found)
        train = found.sound(work.train())
        parts = (part(found, samples) for samples in (train, validate, test))
        scored = probe(*parts, exclusive=exclusive(work.tests, work.setting))
        facts = {"strength": scored.strength}
        return found_labels(work, test, scored, facts=facts, damaged=found.damaged)
