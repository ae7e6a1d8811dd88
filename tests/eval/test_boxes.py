"""Mean average precision against COCO's own code, and the parts it is made of."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imitate.eval.boxes import (
    MEASURES,
    MOST,
    Hits,
    Measure,
    detection_rows,
    framed,
    mean_precision,
    overlaps,
    suppress,
)
from imitate.eval.metrics import MACRO

Film = dict[str, Any]
SIDE = 64


def boxes(rng: np.random.Generator, count: int, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Whole numbers, so that both ways of computing an overlap are exact."""
    found = []
    for _ in range(count):
        x, y = rng.integers(0, SIDE - 12, 2)
        w, h = rng.integers(4, 12, 2) * rng.integers(1, 4)
        label = str(rng.choice(labels))
        found.append({"x": float(x), "y": float(y), "w": float(w), "h": float(h), "label": label})
    return found


def near(rng: np.random.Generator, box: dict[str, Any]) -> dict[str, Any]:
    moves = rng.integers(-2, 3, 4)
    names = ("x", "y", "w", "h")
    return box | {n: max(1.0, box[n] + int(m)) for n, m in zip(names, moves, strict=True)}


def make_films(
    seed: int, *, count: int = 24, labels: Sequence[str] = ("a",), levels: int = 12, most: int = 5
) -> list[Film]:
    """Some films empty, some predictions near a target, scores with many ties."""
    rng = np.random.default_rng(seed)
    films = []
    for number in range(count):
        targets = boxes(rng, int(rng.integers(0, 4)), labels)
        predicted = [near(rng, box) for box in targets if rng.random() < 0.7]
        predicted += boxes(rng, int(rng.integers(0, most)), labels)
        scores = (rng.integers(0, levels, len(predicted)) / levels).tolist()
        films.append(
            {
                "key": f"film-{number:03d}",
                "subject_id": f"s{number // 2}",
                "targets": targets,
                "predicted": predicted,
                "scores": scores,
            }
        )
    return films


def coco(films: Sequence[Film], measure: Measure) -> float:
    """What pycocotools says of these films, taken as they are."""
    names = sorted({b["label"] for f in films for c in ("targets", "predicted") for b in f[c]})
    marked, found = [], []
    for image, film in enumerate(films, start=1):
        for box in film["targets"]:
            told = {"bbox": [box[n] for n in "xywh"], "area": box["w"] * box["h"], "iscrowd": 0}
            told |= {"id": len(marked) + 1, "category_id": names.index(box["label"])}
            marked.append(told | {"image_id": image})
        for box, score in zip(film["predicted"], film["scores"], strict=True):
            told = {"bbox": [box[n] for n in "xywh"], "score": score, "image_id": image}
            found.append(told | {"category_id": names.index(box["label"])})
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "images": [{"id": image} for image in range(1, len(films) + 1)],
            "annotations": marked,
            "categories": [{"id": number} for number in range(len(names))],
        }
        known.createIndex()
        judged = COCOeval(known, known.loadRes(found), "bbox")
        judged.params.iouThrs = np.array(measure.thresholds)
        judged.params.maxDets = [MOST]
        judged.params.areaRng = [[0, 1e10]]
        judged.params.areaRngLbl = ["all"]
        judged.evaluate()
        judged.accumulate()
    precision_TRL = judged.eval["precision"][..., 0, 0]
    defined = precision_TRL[precision_TRL > -1]
    return float(defined.mean()) if defined.size else 0.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c")])
def test_all_films_and_predictions_give_the_number_of_coco(
    seed: int, labels: tuple[str, ...]
) -> None:
    films = make_films(seed, labels=labels)
    for name in ("map", "map@50"):
        assert mean_precision(films, name) == pytest.approx(coco(films, MEASURES[name]), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_mgca_is_coco_on_the_films_that_have_both_a_target_and_a_prediction(seed: int) -> None:
    films, measure = make_films(seed), MEASURES["map-mgca"]
    confident = [
        film
        | {
            "predicted": [
                b for b, s in zip(film["predicted"], film["scores"], strict=True) if s >= 0.5
            ],
            "scores": [s for s in film["scores"] if s >= 0.5],
        }
        for film in films
    ]
    kept = [film for film in confident if film["targets"] and film["predicted"]]
    assert 0 < len(kept) < len(films)
    assert mean_precision(films, "map-mgca") == pytest.approx(coco(kept, measure), abs=1e-12)
    assert mean_precision(films, "map-mgca") > coco(confident, measure)


@pytest.mark.parametrize("seed", range(8))
def test_poor_boxes_do_not_decide_which_good_ones_stay(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner_D2, score_D = 200 * rng.random((400, 2)), rng.random(400)
    box_D4 = np.concatenate([corner_D2, corner_D2 + 20 + 60 * rng.random((400, 2))], axis=1)
    good = np.flatnonzero(score_D >= 0.5)
    stays = suppress(box_D4, score_D, limit=0.5, extra=1.0)
    alone = good[suppress(box_D4[good], score_D[good], limit=0.5, extra=1.0)]
    assert stays[score_D[stays] >= 0.5].tolist() == alone.tolist()


def test_more_predictions_than_count_are_cut_as_coco_cuts_them() -> None:
    films = make_films(3, count=4, levels=1000, most=2)
    rng = np.random.default_rng(0)
    films[0]["predicted"] += boxes(rng, 2 * MOST, ("a",))
    films[0]["scores"] += (rng.integers(0, 1000, 2 * MOST) / 1000).tolist()
    assert mean_precision(films, "map") == pytest.approx(coco(films, MEASURES["map"]), abs=1e-12)


@pytest.mark.parametrize(("column", "value"), [("predicted", 0.0), ("targets", -1), ("both", -1)])
def test_nothing_predicted_is_worse_than_misses_where_films_are_left_out(
    column: str, value: float
) -> None:
    empty = ("predicted", "targets") if column == "both" else (column,)
    films = [f | {name: [] for name in empty} for f in make_films(1)]
    if "predicted" in empty:
        films = [film | {"scores": []} for film in films]
    assert (mean_precision(films, "map"), mean_precision(films, "map-mgca")) == (value, -1.0)
    assert all(row["value"] in (None, 0.0) for row in detection_rows(films, seed=0))


def test_a_label_without_targets_does_not_count_in_the_mean() -> None:
    films = make_films(2, labels=("a", "b"))
    rng = np.random.default_rng(5)
    for film in films:
        film["predicted"] += boxes(rng, 1, ("c",))
        film["scores"] += [0.9]
    rows = {(r["metric"], r["label"]): r for r in detection_rows(films, seed=0)}
    assert rows["map", "c"]["value"] is None and rows["map", "c"]["ci_method"] == "none"
    mean = np.mean([rows["map", name]["value"] for name in "ab"])
    assert rows["map", MACRO]["value"] == pytest.approx(mean)
    assert mean_precision(films, "map") == pytest.approx(mean)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.lists(st.integers(0, 3), min_size=10, max_size=10))
def test_a_weight_is_so_many_copies_of_a_film(seed: int, weights: list[int]) -> None:
    films = make_films(seed, count=10, levels=10_000)
    rng = np.random.default_rng(seed)
    for film in films:  # no ties, of which the order would decide
        film["scores"] = rng.random(len(film["scores"])).tolist()
    measure = replace(MEASURES["map"], confidence=0.2)
    copies = [film for film, weight in zip(films, weights, strict=True) for _ in range(weight)]
    weighted = Hits.of(films, "a", measure).precision(np.array(weights, dtype=np.float64))
    if not any(film["targets"] for film in copies):
        assert np.isnan(weighted)
    else:
        alone = Hits.of(copies, "a", measure).precision(np.ones(len(copies)))
        assert weighted == pytest.approx(alone, abs=1e-12)


def test_rows_do_not_depend_on_the_order_of_films_and_their_intervals_hold_them() -> None:
    films = make_films(4, count=60)
    rows = list(detection_rows(films, seed=0))
    assert rows == list(detection_rows(films[::-1], seed=0))
    assert [row["metric"] for row in rows] == list(MEASURES)
    for row in rows:
        assert row["ci_low"] < row["value"] < row["ci_high"]
        assert row["ci_method"].startswith("bootstrap-subjects") and row["n_subjects"] <= 30
    by_name = {row["metric"]: row for row in rows}
    assert by_name["map"]["n"] == 60 > by_name["map-mgca"]["n"] == by_name["map-mgca"]["n_pos"]
    assert by_name["map"]["threshold_source"] is None
    assert by_name["map-mgca"]["threshold_source"] == "fixed"


def test_films_without_subjects_are_drawn_one_by_one() -> None:
    films = [film | {"subject_id": None} for film in make_films(4)]
    row = next(detection_rows(films, seed=0))
    assert row["ci_method"].startswith("bootstrap-images") and row["n_subjects"] is None


def test_too_few_films_with_a_box_say_nothing() -> None:
    films = [film | {"targets": []} for film in make_films(4)]
    for film in films[:4]:
        film["targets"] = [{"x": 1.0, "y": 1.0, "w": 8.0, "h": 8.0, "label": "a"}]
    assert {row["value"] for row in detection_rows(films, seed=0)} == {None}


def slow_overlap(one: np.ndarray, other: np.ndarray, extra: float) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0]) + extra
    high = min(one[3], other[3]) - max(one[1], other[1]) + extra
    common = max(wide, 0) * max(high, 0)
    areas = [(b[2] - b[0] + extra) * (b[3] - b[1] + extra) for b in (one, other)]
    return float(common / (sum(areas) - common))


@pytest.mark.parametrize("extra", [0.0, 1.0])
def test_overlaps_and_suppression_are_what_loops_say(extra: float) -> None:
    rng = np.random.default_rng(0)
    low = rng.random((60, 2)) * 40
    box_D4 = np.concatenate([low, low + 1 + rng.random((60, 2)) * 20], axis=1)
    score_D = rng.integers(0, 20, 60) / 20
    share_DD = overlaps(box_D4, box_D4, extra=extra)
    slow_DD = [[slow_overlap(one, other, extra) for other in box_D4] for one in box_D4]
    np.testing.assert_allclose(share_DD, slow_DD, atol=1e-12)
    kept: list[int] = []
    for place in sorted(range(60), key=lambda d: (-score_D[d], d)):
        if all(slow_DD[place][other] < 0.4 for other in kept):
            kept.append(place)
    found = suppress(box_D4, score_D, limit=0.4, extra=extra)
    assert found.tolist() == kept and 1 < len(kept) < 60


def test_boxes_without_an_area_overlap_nothing() -> None:
    point = np.array([[3.0, 3.0, 3.0, 3.0]])
    assert overlaps(point, point).tolist() == [[0.0]]


def test_frames_show_targets_and_what_is_surely_predicted() -> None:
    box = {"x": 4.0, "y": 4.0, "w": 8.0, "h": 8.0, "label": "a"}
    film = {"targets": [box], "predicted": [box | {"x": 20.0}, box | {"x": 40.0}]}
    picture_HW = np.full((64, 64), 7, dtype=np.uint8)

    def drawn(scores: list[float]) -> list[bool]:
        data = np.frombuffer(framed(picture_HW, film | {"scores": scores}), np.uint8)
        image_HWC = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return [image_HWC[4, x].tolist() != [7, 7, 7] for x in (4, 20, 40)]

    assert drawn([0.9, 0.2]) == [True, True, False]
    assert drawn([0.1, 0.2]) == [True, False, True]
    assert framed(picture_HW, film | {"predicted": [], "scores": []})
