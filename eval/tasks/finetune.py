"""Classification by training: the whole network, or a linear layer on augmented passes.

Both train as the protocol says (`eval/protocols`): pictures, augmentation, optimizer, epochs, early
stopping on validation. Where a protocol lists several learning rates, the one that validation
judges best is taken, the same list for every encoder.

Axes: N samples, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...train.network.model import ImageConfig
from ..encoders.encoder import Source
from ..heads.augment import AUGMENTS
from ..heads.classifier import Classifier, Labelling
from ..heads.probe import untaught
from ..heads.stock import Stock
from ..heads.training import Curve, Schedule, fit
from ..metrics import Floats, Scored, settle
from ..testset import Samples, TestSet
from .labels import found_labels, untrainable
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
        rates = work.setting["lr"] if isinstance(work.setting["lr"], list) else [work.setting["lr"]]
        tried = [
            _train(work, stock, Parts(train=train, validate=validate), rate, frozen=self.frozen)
            for rate in rates
        ]
        best = int(np.argmin([min(curve.judged) for _, curve in tried]))
        lesson, curve = tried[best]
        validate_NL, test_NL = (_scores(lesson, part) for part in (validate, test))
        skipped = _skipped(train)
        for label in skipped:
            validate_NL[:, label] = test_NL[:, label] = np.nan
        scored = Scored(
            scores=test_NL, settled=settle(validate.targets, validate_NL), skipped=skipped
        )
        facts = {
            "lr": rates[best],
            "epochs": len(curve.judged),
            "best_epoch": curve.best + 1,
            "losses": list(curve.losses),
            "judged": list(curve.judged),
        }
        return found_labels(work, test, scored, facts=facts, damaged=stock.damaged)


class LinearAugmented(Finetune):
    """A linear layer trained on augmented passes of the frozen encoder."""

    name = "linear-augmented"
    frozen = True


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is trained on and what judges it."""

    train: Samples
    validate: Samples


def _train(
    work: Work, stock: Stock, parts: Parts, rate: float, *, frozen: bool
) -> tuple[Labelling, Curve]:
    """Train one classifier with one learning rate."""
    encoder = work.pictures.encoder
    lesson = Labelling(
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
    )
    curve = fit(
        lesson,
        parts.train.ordinals,
        Schedule.of(work.setting, lr=rate),
        seed=work.cell.head_seed,
        folder=work.folder / f"lr-{rate:g}",
        interrupts=work.interrupts,
        progress=work.options.progress,
    )
    return lesson, curve


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
    scores_NL: Floats = 1 / (1 + np.exp(-lesson.logits(part.ordinals)))
    return scores_NL


def _skipped(train: Samples) -> dict[int, str]:
    """Return the labels that training cannot teach, and why."""
    return {
        label: reason
        for label in range(train.targets.shape[1])
        if (reason := untaught(train.targets[:, label])) is not None
    }
