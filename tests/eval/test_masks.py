"""Dice, IoU, their means and the threshold, against loops that follow the definitions."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.eval.masks import SHOWN, Histogram, Overlaps, dice_of, iou_of, outlined, overlap_rows

RNG = np.random.default_rng(5)


def films(count: int, *, batch: int = 4, subjects: bool = True) -> list[dict[str, Any]]:
    """Rows of films, every third without a region, and of these every second without a hit."""
    rows = []
    for number in range(count):
        target = 0 if number % 3 == 0 else int(RNG.integers(1, 90))
        predicted = 0 if number % 6 == 0 else int(RNG.integers(1, 90))
        common = int(RNG.integers(0, min(target, predicted) + 1))
        pixels = {"target": target, "predicted": predicted, "common": common}
        rows.append(
            {"key": f"film-{number:02d}", "subject_id": f"s{number // 2}" if subjects else None}
            | {"batch": number // batch, "peak": None}
            | {f"{name}_pixels": value for name, value in pixels.items()}
        )
    return rows


def loop(rows: list[dict[str, Any]], measure: str) -> list[float]:
    """Return the measure of each film; nothing predicted where nothing is there counts 1."""
    found = []
    for row in rows:
        a, b, both = (row[f"{n}_pixels"] for n in ("target", "predicted", "common"))
        if a == 0:
            found.append(1.0 if b == 0 else 0.0)
        else:
            found.append(2 * both / (a + b) if measure == "dice" else both / (a + b - both))
    return found


def numbers(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in overlap_rows(Overlaps.of(rows), seed=0)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_areas_say_what_sets_of_pixels_do(left: int, right: int) -> None:
    a, b = ({i for i in range(16) if bits >> i & 1} for bits in (left, right))
    counts = (np.array([n]) for n in (len(a), len(b), len(a & b)))
    target, predicted, common = counts
    dice = dice_of(target, predicted, common)[0]
    iou = iou_of(target, predicted, common)[0]
    assert dice == pytest.approx(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
    assert iou == pytest.approx(len(a & b) / len(a | b) if a or b else 1.0)
    assert dice == pytest.approx(2 * iou / (1 + iou))


@pytest.mark.parametrize("measure", ["dice", "iou"])
def test_means_over_marked_films_all_films_and_batches(measure: str) -> None:
    rows = films(30)
    value = loop(rows, measure)
    found = numbers(rows[::-1])  # their order does not count
    marked = [v for row, v in zip(rows, value, strict=True) if row["target_pixels"]]
    batches = [value[start : start + 4] for start in range(0, 30, 4)]
    assert found[measure]["value"] == pytest.approx(np.mean(marked))
    assert found[f"{measure}-all"]["value"] == pytest.approx(np.mean(value))
    assert found[f"{measure}-batches"]["value"] == pytest.approx(
        np.mean([np.mean(batch) for batch in batches])
    )
    assert len(batches[-1]) == 2 and np.mean(value) != pytest.approx(
        found[f"{measure}-batches"]["value"]
    )
    assert (found[measure]["n"], found[measure]["n_pos"]) == (20, 20)
    assert (found[f"{measure}-all"]["n"], found[f"{measure}-all"]["n_pos"]) == (30, 20)
    assert found[f"{measure}-all"]["n_subjects"] == 15


def test_intervals_hold_the_mean_and_are_of_subjects_where_they_are_known() -> None:
    known, unknown = numbers(films(30)), numbers(films(30, subjects=False))
    for name in ("dice", "iou-all"):
        assert known[name]["ci_low"] < known[name]["value"] < known[name]["ci_high"]
        assert known[name]["ci_method"] == "bootstrap-subjects-1000"
        assert unknown[name]["ci_method"] == "bootstrap-images-1000"
        assert unknown[name]["n_subjects"] is None
    assert known["dice-batches"]["ci_low"] is None
    assert known["dice-batches"]["ci_method"] == "none"


def test_an_interval_of_equal_films_is_their_value() -> None:
    row = {"subject_id": None, "batch": 0, "peak": None}
    row |= {"target_pixels": 4, "predicted_pixels": 4}
    rows = [row | {"key": str(i), "common_pixels": 2} for i in range(6)]
    dice = numbers(rows)["dice"]
    assert (dice["value"], dice["ci_low"], dice["ci_high"]) == (0.5, 0.5, 0.5)


def test_too_few_films_with_a_region_say_nothing() -> None:
    found = numbers(films(6))
    assert found["dice"]["value"] is None and found["dice"]["n"] == 4
    assert found["dice-all"]["value"] is not None


def test_threshold_has_the_best_dice_over_all_pixels() -> None:
    target = RNG.random((5, 8, 8)) < 0.3
    target[0] = False
    share = np.clip(RNG.normal(0.3, 0.2, target.shape) + 0.25 * target, 0, 1).astype(np.float32)
    histogram = Histogram()
    for part in (slice(0, 2), slice(2, 5)):
        histogram.add(share[part], target[part])

    def dice(threshold: float) -> float:
        predicted = share >= np.float32(threshold)
        return 2 * (predicted & target).sum() / (predicted.sum() + target.sum())

    threshold = histogram.threshold()
    assert threshold is not None
    best = max(dice(k / 100) for k in range(1, 100))
    assert dice(threshold) == pytest.approx(best, abs=1e-9)
    assert 0.3 < threshold < 0.6


def test_there_is_no_threshold_without_a_region() -> None:
    histogram = Histogram()
    histogram.add(np.full((1, 4, 4), 0.9, np.float32), np.zeros((1, 4, 4), bool))
    assert histogram.threshold() is None


def test_overlay_outlines_both_regions() -> None:
    film = np.full((20, 20), 90, np.uint8)
    target, predicted = np.zeros((2, 20, 20), bool)
    target[2:8, 2:8] = True
    predicted[10:18, 10:18] = True
    image = cv2.imdecode(np.frombuffer(outlined(film, target, predicted), np.uint8), 1)
    assert tuple(image[2, 4]) == SHOWN["target"] and tuple(image[10, 12]) == SHOWN["predicted"]
    assert tuple(image[5, 5]) == tuple(image[14, 14]) == (90, 90, 90)
