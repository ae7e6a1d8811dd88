"""Masks and boxes as they are compared: the same numbers as in the results, film by film."""

from typing import Any

import numpy as np
import pytest

from imitate.eval.boxes import detection_rows
from imitate.eval.masks import Overlaps, overlap_rows
from imitate.eval.statistics.comparison import compare, groups_of
from imitate.eval.statistics.evidence import Boxes, Masks

CELL = {"protocol": "clean", "fraction": 1.0, "draw": 0, "head_seed": 0}


def regions(seed: int, skill: float) -> list[dict[str, Any]]:
    """Rows of REGIONS: films, some without a region, whose overlap grows with `skill`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(40):
        target = int(rng.integers(50, 100)) if i % 4 else 0
        common = int(target * skill * rng.random())
        row = {
            "key": f"k{i:02d}",
            "subject_id": f"s{i // 2}",
            "batch": i // 8,
            "target_pixels": target,
            "predicted_pixels": common + int(rng.integers(0, 30)),
            "common_pixels": common,
            "peak": None,
        }
        rows += [row | {"threshold_source": source} for source in ("validate", "fixed")]
    return rows


def detections(seed: int, skill: float) -> list[dict[str, Any]]:
    """Rows of DETECTIONS: one box on most films, found about as often as `skill`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(30):
        x, y = rng.integers(0, 100, 2).tolist()
        box = {"x": float(x), "y": float(y), "w": 20.0, "h": 20.0, "label": "nodule"}
        found = box if rng.random() < skill else box | {"x": x + 15.0}
        rows.append(
            {
                "key": f"k{i:02d}",
                "subject_id": f"s{i // 2}",
                "targets": [box] if i % 3 else [],
                "predicted": [found],
                "scores": [float(rng.random())],
            }
        )
    return rows


def test_masks_have_the_numbers_of_the_results() -> None:
    rows = regions(0, 0.8)
    masks = Masks.of(rows)
    own = [row for row in rows if row["threshold_source"] == "validate"]
    known = {row["metric"]: row for row in overlap_rows(Overlaps.of(own), seed=3)}
    value = masks.values(("dice", "iou"))
    spread = masks.spread(("dice", "iou"), seed=3)
    for m, metric in enumerate(("dice", "iou")):
        assert value[0, m] == pytest.approx(known[metric]["value"])
        bounds = known[metric]["ci_low"], known[metric]["ci_high"]
        assert np.quantile(spread[:, 0, m], (0.025, 0.975)) == pytest.approx(bounds)


def test_boxes_have_the_numbers_of_the_results() -> None:
    rows = detections(0, 0.6)
    boxes = Boxes.of(rows)
    known = next(row for row in detection_rows(rows, seed=3) if row["metric"] == "map")
    assert boxes.labels == ("nodule",)
    assert boxes.values(("map",))[0, 0] == pytest.approx(known["value"])
    bounds = known["ci_low"], known["ci_high"]
    spread = boxes.spread(("map",), seed=3)[:, 0, 0]
    assert np.quantile(spread, (0.025, 0.975)) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("task", "metric", "good", "poor"),
    [
        ("segment", "dice", Masks.of(regions(1, 0.95)), Masks.of(regions(2, 0.4))),
        ("detect", "map", Boxes.of(detections(1, 0.95)), Boxes.of(detections(2, 0.2))),
    ],
)
def test_encoders_are_compared_by_the_main_metric_of_a_task(
    task: str, metric: str, good: Masks | Boxes, poor: Masks | Boxes
) -> None:
    cells = [
        (CELL | {"task": task, "encoder": name, "run_digest": name}, each)
        for name, each in (("good", good), ("poor", poor))
    ]
    (row,) = compare(groups_of("siim", "good", cells), seed=0)
    assert (row["metric"], row["n"]) == (metric, len(good.keys))
    assert row["difference"] > 0.2 and row["ci_low"] > 0 and row["p"] < 0.01
    value = [each.values((metric,))[0, 0] for each in (good, poor)]
    assert row["difference"] == pytest.approx(value[0] - value[1])


def test_too_few_cases_compare_nothing() -> None:
    few = Masks.of(regions(1, 0.9)).only(np.arange(40) < 4)
    assert not few.counted.any() and np.isnan(few.values(("dice",))).all()
    none = Boxes.of(detections(1, 0.9)).only(np.arange(30) < 3)
    assert not none.counted.any() and np.isnan(none.values(("map",))).all()
    for task, found in (("segment", few), ("detect", none)):
        cells = [
            (CELL | {"task": task, "encoder": name, "run_digest": name}, found)
            for name in ("one", "other")
        ]
        (row,) = compare(groups_of("siim", "one", cells), seed=0)
        assert (row["difference"], row["labels"], row["n"]) == (None, 0, len(found.keys))
