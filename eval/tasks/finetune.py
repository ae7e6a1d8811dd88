"""Classification by training: the whole network, or a linear layer on augmented passes.

Both train as the protocol says (`eval/protocols`): pictures, augmentation, optimizer, epochs, early
stopping on validation. Where a protocol lists several learning rates, the one that validation
judges best is taken, the same list for every encoder.

Axes: N samples, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...train.network.model import ImageConfig
from ..encoders.encoder import Source
from ..heads.augment import AUGMENTS
from ..heads.classifier import Classifier, Labelling
from ..heads.probe import untaught
from ..heads.stock import Stock
from ..heads.training import Schedule
from ..metrics import Floats, Scored, settle
from ..testset import Samples, TestSet
from .labels import exclusive, found_labels, untrainable
from .task import EvalOptions, Found, Place, Task, Work, by_share


class Finetune(Task):
    """The whole encoder and a linear layer, trained together."""

    name = "finetune"
    frozen: ClassVar[bool] = False

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need labels to train on."""
        return untrainable(tests)

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan every fraction, draw and seed of the layer."""
        return by_share(options, head_seeds)

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the protocol's values."""
        return dict(setting)

    def do(self, work: Work) -> Found:
        """Train with each learning rate, keep the best on validation, score the test split."""
        train = work.train()
        workers = work.options.workers
        stock = Stock(work.tests, train.ordinals, seed=work.cell.head_seed, workers=workers)
        validate, test = (_sound(stock, work.tests.splits[s]) for s in ("validate", "test"))
        parts = Parts(train=train, validate=validate)
        lessons = _lessons(work, stock, parts, frozen=self.frozen)
        trained = work.teacher.best(work.setting, train.ordinals, lessons)
        validate_NL, test_NL = (_scores(trained.lesson, part) for part in (validate, test))
        skipped = _skipped(train)
        for label in skipped:
            validate_NL[:, label] = test_NL[:, label] = np.nan
        scored = Scored(
            scores=test_NL, settled=settle(validate.targets, validate_NL), skipped=skipped
        )
        return found_labels(work, test, scored, facts=trained.facts, damaged=stock.damaged)


class LinearAugmented(Finetune):
    """A linear layer trained on augmented passes of the frozen encoder."""

    name = "linear-augmented"
    frozen = True


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is trained on and what judges it."""

    train: Samples
    validate: Samples


def _lessons(
    work: Work, stock: Stock, parts: Parts, *, frozen: bool
) -> Callable[[Schedule], Labelling]:
    """Return what makes a classifier to train."""
    encoder = work.pictures.encoder
    return lambda schedule: Labelling(
        module=Classifier(
            encoder, labels=len(work.tests.labels), seed=work.cell.head_seed, frozen=frozen
        ),
        stock=stock,
        image=input_of(encoder.image, work.setting),
        augment=AUGMENTS[work.setting["augment"]],
        train=parts.train,
        validate=parts.validate,
        monitor=work.setting["monitor"],
        device=work.device,
        exclusive=exclusive(work.tests, work.setting),
    )


def input_of(image: ImageConfig, setting: Mapping[str, Any]) -> ImageConfig:
    """Return the encoder's input at the protocol's size, where it names one.

    Channels, mean and deviation stay the encoder's own.
    """
    sides = {name: setting[name] for name in ("size", "resize") if name in setting}
    return replace(image, **sides)


def _sound(stock: Stock, samples: Samples) -> Samples:
    return samples.only(np.isin(samples.ordinals, stock.sound(samples.ordinals)))


def _scores(lesson: Labelling, part: Samples) -> Floats:
    """Return probabilities [N, L]."""
    if not len(part.ordinals):
        return np.empty(part.targets.shape)
    return lesson.scores(part.ordinals)


def _skipped(train: Samples) -> dict[int, str]:
    """Return the labels that training cannot teach, and why."""
    return {
        label: reason
        for label in range(train.targets.shape[1])
        if (reason := untaught(train.targets[:, label])) is not None
    }
