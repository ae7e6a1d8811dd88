"""Which samples are evaluated, and which of them a label fraction takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imitate.contract import Folders
from imitate.eval.testset import TestSet, open_testset, rules_of
from imitate.prep.protocols.fractions import draw_fraction
from imitate.shards.manifest import ShardSet


@pytest.fixture
def tests(built: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))


def test_uncertain_and_missing_labels_have_no_target(tests: TestSet) -> None:
    labels = tests.shards.column("labels")
    for part in tests.splits.values():
        for ordinal, target_L in zip(part.ordinals, part.targets, strict=True):
            told = {n: labels[ordinal].get(n) for n in tests.labels}
            expected = [v if v in (0.0, 1.0) else np.nan for v in told.values()]
            assert target_L == pytest.approx(expected, nan_ok=True)


def test_splits_are_whole_frontal_and_apart(tests: TestSet) -> None:
    views = tests.shards.column("view")
    for split, part in tests.splits.items():
        frontal = [i for i in tests.shards.rows(split) if views[i] != "LATERAL"]
        assert part.ordinals.tolist() == frontal
    assert tests.labels == ("Edema", "Hernia", "Pneumonia")
    assert tests.names == ("phantom-rsna", "rsna")
    assert (tests.archive, tests.protocol) == ("rsna", "clean")


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.7, 1.0])
def test_a_fraction_takes_whole_subjects_and_lies_within_a_larger_one(
    tests: TestSet, fraction: float
) -> None:
    subjects = tests.shards.column("subject_id")
    whole = {subjects[i] for i in tests.splits["train"].ordinals}
    drawn = tests.fraction("train", fraction, draw=0)
    taken = {subjects[i] for i in drawn.ordinals}
    assert len(taken) == max(1, round(fraction * len(whole)))
    assert drawn.ordinals.tolist() == [
        i for i in tests.splits["train"].ordinals if subjects[i] in taken
    ]
    larger = tests.fraction("train", min(1.0, fraction + 0.2), draw=0)
    assert set(drawn.ordinals) <= set(larger.ordinals)


def test_draws_differ_and_repeat(tests: TestSet) -> None:
    drawn = [tests.fraction("train", 0.3, draw=draw).ordinals.tolist() for draw in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    ("protocol", "fraction", "count"),
    [("paper", 0.01, 160), ("paper", 0.1, 1_601), ("mgca", 0.01, 160), ("benchx", 0.01, 160)],
)
def test_published_fractions_count_pictures(
    tests: TestSet, protocol: str, fraction: float, count: int
) -> None:
    """The count of 16,010 pictures, here of 1 picture in 100: rounding is as published."""
    told = replace(tests, protocol=protocol)
    ordinals = np.concatenate([tests.films[split] for split in ("train", "validate", "test")])
    drawn = told.drawn(ordinals, fraction, draw=0)
    assert len(drawn) == max(1, int(fraction * len(ordinals))) and (np.diff(drawn) > 0).all()
    ids = [f"{i:05d}" for i in range(16_010)]
    rules = rules_of("rsna", protocol)
    assert len(draw_fraction(rules, ids, fraction, subjects={})) == count


def test_an_archive_without_protocols_draws_subjects_as_clean_does() -> None:
    assert rules_of("somewhere", "clean").fractions == {"draw": "subject"}
    assert rules_of("siim", "benchx").fractions["draw"] == "stratified"
