"""The YOLOv3 head: its shapes, its loss by loops, and boxes that come back as they were taught."""

import math

import numpy as np
import pytest
import torch

from imitate.eval.heads.yolo import ANCHORS, Marks, Yolo, boxes_of, teach, yolo_loss

CHANNELS = {"stage2": 3, "stage3": 4, "stage4": 5}
STRIDES = {"stage2": 8, "stage3": 16, "stage4": 32}
Box = tuple[int, int, float, float, float, float]  # picture, label, centre, sides


def marks_of(*boxes: Box) -> Marks:
    rows = np.array(boxes, dtype=np.float64).reshape(-1, 6)
    picture, label = rows[:, :2].astype(np.int64).T
    return Marks(picture=picture, label=label, centre=rows[:, 2:4], sides=rows[:, 4:])


def levels(height: int, width: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        name: torch.randn(2, channels, height // STRIDES[name], width // STRIDES[name])
        for name, channels in CHANNELS.items()
    }


def test_the_published_head_has_eighteen_numbers_a_place_at_three_levels() -> None:
    head = Yolo({"stage2": 512, "stage3": 1024, "stage4": 2048}, labels=1, widths=(8, 4, 2), seed=0)
    assert [part[1].out_channels for part in head.out] == [18, 18, 18]
    assert [part[0][0].in_channels for part in head.inside] == [2048, 1024 + 4, 512 + 2]


def test_numbers_come_by_level_and_every_level_counts() -> None:
    head = Yolo(CHANNELS, labels=2, widths=(8, 4, 2), seed=0)
    found = head(levels(64, 96))
    assert [tuple(part.shape) for part in found] == [
        (2, 3, 2, 3, 7),
        (2, 3, 4, 6, 7),
        (2, 3, 8, 12, 7),
    ]
    for name, shape in CHANNELS.items():
        moved = levels(64, 96)
        moved[name] = moved[name] + torch.arange(shape)[:, None, None]
        assert not torch.allclose(head(moved)[-1], found[-1]), name


def test_the_seed_decides_the_weights() -> None:
    one, again, other = (
        Yolo(CHANNELS, labels=1, widths=(8, 4, 2), seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["out.0.1.weight"], other["out.0.1.weight"])


def bce(p: float, t: float) -> float:
    return -(t * math.log(p) + (1 - t) * math.log(1 - p)) if 0 < p < 1 else 0.0


def shape_iou(one: tuple[float, float], other: tuple[float, float], extra: float) -> float:
    common = math.prod(min(a, b) + extra for a, b in zip(one, other, strict=True))
    areas = [math.prod(side + extra for side in box) for box in (one, other)]
    return common / (sum(areas) - common)


def slow_level(found: np.ndarray, boxes: list[Box], anchors: list, extra: float) -> float:
    """The loss of a level as downstream code writes it: a mean over all places of each part."""
    B, A, h, w, F = found.shape
    there, nothing = np.zeros((B, A, h, w)), np.ones((B, A, h, w))
    numbers = np.zeros((B, A, h, w, F))
    scaled = [(a / 416 * w, b / 416 * h) for a, b in anchors]
    for picture, label, cx, cy, bw, bh in boxes:
        row, column = int(cy * h), int(cx * w)
        ious = [shape_iou((bw * w, bh * h), anchor, extra) for anchor in scaled]
        for anchor, iou in enumerate(ious):
            if iou > 0.5:
                nothing[picture, anchor, row, column] = 0
        at = (picture, int(np.argmax(ious)), row, column)
        there[at] = 1
        numbers[at][:2] = cx * w - column, cy * h - row
        numbers[at][2:4] = [
            math.log(side / own) for side, own in zip((bw * w, bh * h), scaled[at[1]], strict=True)
        ]
        numbers[at][5 + label] = 1
    parts = dict.fromkeys(("x", "y", "w", "h", "there", "nothing", "label"), 0.0)
    share = 1 / (1 + np.exp(-found))
    for at in np.ndindex(B, A, h, w):
        if there[at]:
            parts["x"] += bce(share[at][0], numbers[at][0])
            parts["y"] += bce(share[at][1], numbers[at][1])
            parts["w"] += (found[at][2] - numbers[at][2]) ** 2
            parts["h"] += (found[at][3] - numbers[at][3]) ** 2
            parts["there"] += bce(share[at][4], 1)
            parts["label"] += sum(bce(share[at][5 + n], numbers[at][5 + n]) for n in range(F - 5))
        if nothing[at]:
            parts["nothing"] += bce(share[at][4], 0)
    mean = {name: value / (B * A * h * w) for name, value in parts.items()}
    box = 2.5 * (mean["x"] + mean["y"]) + 2.5 * (mean["w"] + mean["h"])
    return box + mean["there"] + 0.5 * mean["nothing"] + mean["label"] / (F - 5)


@pytest.mark.parametrize("extra", [0.0, 1.0])
@pytest.mark.parametrize("labels", [1, 2])
def test_loss_is_the_one_that_loops_compute(extra: float, labels: int) -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 2, 3), (2, 3, 4, 6), (2, 3, 8, 12)]
    found = [rng.normal(0, 1.5, (*shape, 5 + labels)) for shape in shapes]
    boxes: list[Box] = []
    for picture in (0, 1, 1, 1):
        centre, sides = rng.random(2), 0.05 + 0.6 * rng.random(2)
        boxes.append((picture, int(rng.integers(labels)), *centre, *sides))
    expected = sum(
        slow_level(part, boxes, list(anchors), extra)
        for part, anchors in zip(found, ANCHORS, strict=True)
    )
    tensors = [torch.tensor(part) for part in found]
    assert float(yolo_loss(tensors, marks_of(*boxes), extra=extra)) == pytest.approx(
        expected, rel=1e-6
    )


def test_an_anchor_of_the_shape_of_a_box_is_not_taught_that_nothing_is_there() -> None:
    box = (0, 0, 0.5, 0.5, 156 / 416, 198 / 416)
    taught = teach(marks_of(box), 0, (1, 7, 7), labels=1, extra=0)
    assert taught.there.sum() == 1 and taught.there[0, 1, 3, 3] == 1
    np.testing.assert_allclose(taught.numbers[0, 1, 3, 3], [0.5, 0.5, 0, 0, 0, 1], atol=1e-6)
    assert taught.nothing[0, 1, 3, 3] == 0 and taught.nothing.sum() == taught.nothing.size - 1


def test_a_batch_without_boxes_learns_that_nothing_is_there() -> None:
    found = [torch.zeros(1, 3, 2, 2, 6, requires_grad=True) for _ in ANCHORS]
    loss = yolo_loss(found, marks_of(), extra=0)
    assert float(loss.detach()) == pytest.approx(3 * 0.5 * math.log(2))
    loss.backward()  # type: ignore[no-untyped-call]
    for part in found:
        assert part.grad is not None and part.grad[..., 4].gt(0).all()
        assert part.grad[..., :4].eq(0).all()


def test_what_is_taught_is_what_is_found() -> None:
    """A head that says exactly what it was taught gives the boxes back, at every level."""
    boxes: list[Box] = [(0, 1, 0.3, 0.4, 0.2, 0.5), (1, 0, 0.999, 0.01, 0.1, 0.02)]
    said = []
    for level, (h, w) in enumerate([(2, 3), (4, 6), (8, 12)]):
        taught = teach(marks_of(*boxes), level, (2, h, w), labels=2, extra=0)
        numbers = torch.from_numpy(taught.numbers)
        numbers[..., :2] = torch.logit(numbers[..., :2], eps=1e-6)
        numbers[..., 4] = torch.from_numpy(20 * taught.there - 10)
        said.append(numbers)
    box_BK4, object_BK, label_BK = boxes_of(said, (64, 96))
    assert box_BK4.shape == (2, 3 * (6 + 24 + 96), 4)
    for picture, label, cx, cy, bw, bh in boxes:
        sure = object_BK[picture] > 0.9
        assert int(sure.sum()) == len(ANCHORS)
        expected = torch.tensor([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2])
        expected = expected * torch.tensor([96.0, 64.0, 96.0, 64.0])
        assert torch.allclose(box_BK4[picture][sure], expected.expand(3, 4), atol=1e-3)
        assert label_BK[picture][sure].eq(label).all()


def test_boxes_stay_finite_whatever_the_head_says() -> None:
    said = [torch.full((1, 3, 2, 2, 6), 1e4) for _ in ANCHORS]
    assert all(torch.isfinite(part).all() for part in boxes_of(said, (64, 64)))


def test_a_centre_on_the_border_belongs_to_the_last_cell() -> None:
    taught = teach(marks_of((0, 0, 1.0, 1.0, 0.1, 0.1)), 0, (1, 2, 3), labels=1, extra=0)
    ((_, _, row, column),) = np.argwhere(taught.there)
    assert (row, column) == (1, 2)
