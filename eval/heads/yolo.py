"""The head of YOLOv3 on three levels of an encoder: its layers, its loss, its boxes.

Redmon and Farhadi, 2018, in the form of published code (HKU-MedAI/MGCA, mgca/models/
ssl_detector.py, mgca/utils/yolo_loss.py). Each level assigns every box to the cell of its centre
and to that of its own anchors whose shape overlaps the box most. So all three levels learn it.

Axes: B pictures, C channels, h and w rows and columns of a map, A anchors of a level, F numbers of
an anchor (x, y, width, height, objectness, then one a label), L labels, M boxes of a batch, K boxes
of all cells and anchors; 2 is width, height, 4 left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.maps import STRIDES, Levels

ANCHORED = 416  # side of the pictures that the anchors were made for
ANCHORS = (  # of COCO, from the coarsest level to the finest
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
IGNORED = 0.5  # an anchor that overlaps a box by more is not taught that nothing is there
PLACE, SIZE, NOTHING = 2.5, 2.5, 0.5  # weights in the loss
LARGEST = 8.0  # logarithm of a box's side over its anchor's

Floats32 = npt.NDArray[np.float32]


class Yolo(nn.Module):
    """The three coarsest maps to boxes; its weights are drawn by `seed`.

    `widths` are the channels of the levels, the coarsest first; every second layer has twice that.
    """

    def __init__(
        self, channels: Mapping[str, int], *, labels: int, widths: Sequence[int], seed: int
    ) -> None:
        super().__init__()
        self.levels = sorted(channels, key=STRIDES.__getitem__, reverse=True)[: len(ANCHORS)]
        self.numbers = 5 + labels
        above = [0, *widths[1:]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inside = nn.ModuleList(
                nn.Sequential(
                    _layer(channels[name] + more, width, 1),
                    _layer(width, 2 * width, 3),
                    _layer(2 * width, width, 1),
                    _layer(width, 2 * width, 3),
                    _layer(2 * width, width, 1),
                )
                for name, more, width in zip(self.levels, above, widths, strict=True)
            )
            self.out = nn.ModuleList(
                nn.Sequential(
                    _layer(width, 2 * width, 3),
                    nn.Conv2d(2 * width, len(anchors) * self.numbers, 1),
                )
                for width, anchors in zip(widths, ANCHORS, strict=True)
            )
            self.down = nn.ModuleList(_layer(a, b, 1) for a, b in pairwise(widths))

    def forward(self, levels: Levels) -> list[Tensor]:
        """Return the numbers [B, A, h, w, F] of each level, the coarsest first."""
        found = []
        x_BChw = levels[self.levels[0]]
        for number, (inside, out) in enumerate(zip(self.inside, self.out, strict=True)):
            if number:
                fine_BChw = levels[self.levels[number]]
                below_BChw = self.down[number - 1](x_BChw)
                below_BChw = F.interpolate(below_BChw, fine_BChw.shape[2:], mode="nearest")
                x_BChw = torch.cat([below_BChw, fine_BChw], dim=1)
            x_BChw = inside(x_BChw)
            y_BChw = out(x_BChw)
            y_BAFhw = y_BChw.unflatten(1, (len(ANCHORS[number]), self.numbers))
            found.append(y_BAFhw.permute(0, 1, 3, 4, 2))
        return found


def _layer(inside: int, out: int, side: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, out, side, padding=side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.LeakyReLU(0.1))


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The boxes of a batch: each one's picture and label, its centre and sides as shares."""

    picture: npt.NDArray[np.int64]  # [M]
    label: npt.NDArray[np.int64]  # [M]
    centre: npt.NDArray[np.float64]  # [M, 2]
    sides: npt.NDArray[np.float64]  # [M, 2]


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a level is to say: where boxes are, where nothing is, and the numbers of the boxes."""

    there: Floats32  # [B, A, h, w]
    nothing: Floats32  # [B, A, h, w]
    numbers: Floats32  # [B, A, h, w, F], objectness left out of use


def teach(
    marks: Marks, level: int, shape: tuple[int, int, int], *, labels: int, extra: float
) -> Taught:
    """Assign boxes to the cells and anchors of a level of `shape` [B, h, w].

    Of several boxes of one cell and anchor the last is taken. `extra` cells are added to the sides
    of boxes and anchors before their overlap is taken, as published code does.
    """
    B, h, w = shape
    anchor_A2 = np.array(ANCHORS[level]) / ANCHORED
    numbers = np.zeros((B, len(anchor_A2), h, w, 5 + labels), dtype=np.float32)
    there, nothing = np.zeros_like(numbers[..., 0]), np.ones_like(numbers[..., 0])
    share_MA = _shapes(marks.sides * (w, h), anchor_A2 * (w, h), extra)
    best_M = np.argmax(share_MA, axis=1)
    place_M2 = marks.centre * (w, h)
    cell_M2 = np.minimum(place_M2.astype(np.int64), (w - 1, h - 1))
    column_M, row_M = cell_M2.T
    for m, anchor in zip(*np.nonzero(share_MA > IGNORED), strict=True):
        nothing[marks.picture[m], anchor, row_M[m], column_M[m]] = 0
    at = (marks.picture, best_M, row_M, column_M)
    there[at] = 1
    numbers[*at, :2] = place_M2 - cell_M2
    numbers[*at, 2:4] = np.log(np.maximum(marks.sides, 1e-9) / anchor_A2[best_M])
    numbers[*at, 5 + marks.label] = 1
    return Taught(there=there, nothing=nothing, numbers=numbers)


def _shapes(
    one_M2: npt.NDArray[np.float64], other_A2: npt.NDArray[np.float64], extra: float
) -> npt.NDArray[np.float64]:
    """Return the IoU [M, A] of boxes that share a corner."""
    common_MA = (np.minimum(one_M2[:, None], other_A2[None]) + extra).prod(axis=2)
    one_M1, other_A = (one_M2 + extra).prod(axis=1)[:, None], (other_A2 + extra).prod(axis=1)
    share_MA: npt.NDArray[np.float64] = common_MA / (one_M1 + other_A - common_MA)
    return share_MA


def level_loss(found_BAhwF: Tensor, taught: Taught) -> Tensor:
    """Return the loss of a level; every part is a mean over all cells and anchors, taught or not.

    Cross-entropy of place, objectness and label, squared error of the logarithms of the sides.
    """
    device = found_BAhwF.device
    there_BAhw, nothing_BAhw, number_BAhwF = (
        torch.from_numpy(part).to(device) for part in (taught.there, taught.nothing, taught.numbers)
    )
    there_BAhw1 = there_BAhw[..., None]
    cross = F.binary_cross_entropy_with_logits
    place = cross(found_BAhwF[..., :2], number_BAhwF[..., :2], reduction="none")
    size = (found_BAhwF[..., 2:4] - number_BAhwF[..., 2:4]) ** 2
    label = cross(found_BAhwF[..., 5:], number_BAhwF[..., 5:], reduction="none")
    object_BAhw = found_BAhwF[..., 4]
    loss = PLACE * 2 * (place * there_BAhw1).mean() + SIZE * 2 * (size * there_BAhw1).mean()
    loss = loss + (F.softplus(-object_BAhw) * there_BAhw).mean()
    loss = loss + NOTHING * (F.softplus(object_BAhw) * nothing_BAhw).mean()
    whole: Tensor = loss + (label * there_BAhw1).mean()
    return whole


def yolo_loss(found: Sequence[Tensor], marks: Marks, *, extra: float) -> Tensor:
    """Return the sum of the losses of all levels for the boxes of a batch."""
    parts = []
    for level, found_BAhwF in enumerate(found):
        B, _, h, w, numbers = found_BAhwF.shape
        taught = teach(marks, level, (B, h, w), labels=numbers - 5, extra=extra)
        parts.append(level_loss(found_BAhwF, taught))
    return torch.stack(parts).sum()


def boxes_of(found: Sequence[Tensor], shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes [B, K, 4] in pixels of pictures of `shape`, objectness and label [B, K]."""
    H, W = shape
    boxes, objects, labels = [], [], []
    for level, found_BAhwF in enumerate(found):
        h, w = found_BAhwF.shape[2:4]
        size_2, shape_2 = found_BAhwF.new_tensor((W, H)), found_BAhwF.new_tensor((w, h))
        anchor_A112 = found_BAhwF.new_tensor(ANCHORS[level])[:, None, None] / ANCHORED
        cell_hw2 = found_BAhwF.new_tensor(
            [[(column, row) for column in range(w)] for row in range(h)]
        )
        place = torch.sigmoid(found_BAhwF[..., :2]) + cell_hw2
        centre = place / shape_2 * size_2
        half = torch.exp(found_BAhwF[..., 2:4].clamp(max=LARGEST)) * anchor_A112 * size_2 / 2
        boxes.append(torch.cat([centre - half, centre + half], dim=-1).flatten(1, 3))
        objects.append(torch.sigmoid(found_BAhwF[..., 4]).flatten(1))
        labels.append(found_BAhwF[..., 5:].argmax(dim=-1).flatten(1))
    return torch.cat(boxes, dim=1), torch.cat(objects, dim=1), torch.cat(labels, dim=1)
