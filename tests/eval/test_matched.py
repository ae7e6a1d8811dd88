"""Grey levels brought to the norm of a run's training set."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.contract import Folders, UsageError
from imitate.eval.encoders.matched import check_matchable, matched
from imitate.eval.testset import open_testset
from imitate.shards.manifest import ShardSet


def padded(film_HW: np.ndarray) -> np.ndarray:
    return np.pad(film_HW, ((3, 5), (0, 0)))


@given(st.integers(0, 10_000))
def test_the_film_is_equalized_and_its_border_stays_black(seed: int) -> None:
    rng = np.random.default_rng(seed)
    film_HW = rng.integers(1, 90, (12, 20)).astype(np.uint8)
    out = matched(padded(film_HW), "mimic")
    assert np.array_equal(out[3:-5], cv2.equalizeHist(film_HW))
    assert not out[:3].any() and not out[-5:].any()


@given(st.integers(0, 10_000))
def test_the_film_is_stretched_without_changing_its_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    film_HW = rng.integers(20, 90, (12, 20)).astype(np.uint8)
    out = matched(padded(film_HW), "minmax")[3:-5]
    assert (out.min(), out.max()) == (0, 255)
    order = np.argsort(film_HW, axis=None, kind="stable")
    assert (np.diff(out.ravel()[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0, 7])
def test_a_blank_picture_stays_blank(value: int) -> None:
    blank = np.full((4, 4), value, np.uint8)
    for norm in ("mimic", "minmax"):
        assert len(np.unique(matched(blank, norm))) == 1


@pytest.mark.parametrize(("trained", "tested"), [("window", "none"), ("minmax", "mimic")])
def test_what_cannot_be_undone_is_refused(trained: str, tested: str) -> None:
    with pytest.raises(UsageError, match=f"--norm {trained}"):
        check_matchable(trained, tested)
    check_matchable("mimic", tested)
    check_matchable("minmax", "window")


def test_a_set_with_a_norm_reads_matched_pictures(built: Path) -> None:
    tests = open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))
    rows = tests.films["test"][:5]
    plain = tests.reader().images(rows)
    other = replace(tests, norm="mimic").reader().images(rows)
    assert np.array_equal(other, np.stack([matched(image, "mimic") for image in plain]))
    assert not np.array_equal(other, plain)
