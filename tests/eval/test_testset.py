"""Which samples are evaluated, and which of them a label fraction takes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.contract import Folders
from imitate.eval.testset import Samples, TestSet, open_testset, subset
from imitate.shards.manifest import ShardSet


def samples(n: int) -> Samples:
    return Samples(ordinals=np.arange(n) * 3, targets=np.zeros((n, 1)))


@pytest.mark.parametrize(
    ("n", "fraction", "count"),
    [
        (16_010, 0.01, 160),
        (16_010, 0.1, 1_601),
        (16_010, 1.0, 16_010),
        (186_027, 0.01, 1_860),
        (8_433, 0.01, 84),
        (6_400, 0.1, 640),
        (100, 0.29, 29),
        (50, 0.01, 1),
    ],
)
def test_fractions_have_the_published_counts(n: int, fraction: float, count: int) -> None:
    assert len(subset(samples(n), fraction, seed=0, draw=0).ordinals) == count


@given(st.integers(1, 200), st.integers(0, 5), st.floats(0.01, 1), st.floats(0.01, 1))
def test_fractions_of_a_draw_nest(n: int, draw: int, one: float, other: float) -> None:
    small, large = (
        subset(samples(n), fraction, seed=0, draw=draw).ordinals
        for fraction in sorted((one, other))
    )
    assert set(small) <= set(large)
    assert (np.diff(large) > 0).all()


def test_draws_differ_and_repeat() -> None:
    drawn = [subset(samples(100), 0.3, seed=0, draw=draw).ordinals.tolist() for draw in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


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
