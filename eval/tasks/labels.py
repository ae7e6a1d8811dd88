"""What the tasks that score labels share: their parts of the set, and what came of a cell.

Axes: N samples, C feature channels, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ...contract import InputError
from ...schema import PREDICTIONS
from ..encoders.features import Features
from ..metrics import Part, Scored
from ..table import prediction_table, result_rows
from ..testset import Samples, TestSet
from .task import SEED, Found, Work

CLASSES = 3  # so many labels or more can exclude each other; two classes are one label


def without_labels(tests: TestSet) -> str | None:
    """Return why no label of the set can be scored; None if one can."""
    target_NL = tests.test.targets
    if not tests.labels:
        return f"{tests.name} has no label to evaluate against"
    if not ((target_NL == 1).any(axis=0) & (target_NL == 0).any(axis=0)).any():
        return f"no label of the test split of {tests.name} is both present and absent"
    return None


def untrainable(tests: TestSet) -> str | None:
    """Return why no head can be trained on the labels of the set; None if one can."""
    if not len(tests.splits["train"].ordinals):
        return f"{tests.name} has no labelled training split"
    return without_labels(tests)


def exclusive(tests: TestSet, setting: Mapping[str, Any]) -> bool:
    """Tell whether the labels are classes: exactly one of them is present on each film.

    The protocol says so of an archive (`exclusive: true`), for in a small set any labels may happen
    to fall so; of its lists of two classes one label is made, and nothing is to be excluded. Raises
    InputError when a labelled film has not exactly one class.
    """
    if not setting.get("exclusive") or len(tests.labels) < CLASSES:
        return False
    for split, samples in tests.splits.items():
        classes_N = (samples.targets == 1).sum(axis=1)
        wrong_N = (classes_N != 1) | np.isnan(samples.targets).any(axis=1)
        if wrong_N.any():
            raise InputError(
                f"{wrong_N.sum()} labelled films of {split} have not exactly one class",
                where=tests.name,
                todo="prepare the set again: each film needs one label of 1, and 0 for the others",
            )
    return True


def sound_test(tests: TestSet, found: Features) -> tuple[Samples, Samples]:
    """Return the validation and test samples that are whole; InputError when none is to test."""
    validate, test = (found.sound(tests.splits[split]) for split in ("validate", "test"))
    if not len(test.ordinals):
        raise InputError("every labelled picture of the test split is damaged", where=tests.name)
    return validate, test


def part(found: Features, samples: Samples) -> Part:
    """Return the features [N, C] and targets [N, L] of samples."""
    return Part(features=found.of(samples), targets=samples.targets)


def found_labels(
    work: Work,
    test: Samples,
    scored: Scored,
    *,
    facts: Mapping[str, Any],
    damaged: frozenset[int],
) -> Found:
    """Return the rows and predictions of scores [N, L] of the test samples.

    Top-1 accuracy is among them where the labels are classes. The setting's `thresholds` are where
    those of accuracy and F1 are chosen.
    """
    labels = work.tests.labels
    sources = work.setting.get("thresholds", ["validate"])
    whole = replace(work.tests, splits={**work.tests.splits, "test": test})
    classes = exclusive(work.tests, work.setting)
    return Found(
        rows=result_rows(whole, work.cell, scored, seed=SEED, sources=sources, exclusive=classes),
        tables=[(PREDICTIONS, prediction_table(whole, work.cell, scored))],
        facts={
            "settled": dict(zip(labels, map(asdict, scored.settled), strict=True)),
            "skipped": {labels[label]: reason for label, reason in scored.skipped.items()},
            "exclusive": classes,
            **facts,
        },
        damaged=damaged,
    )
