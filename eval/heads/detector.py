"""Training a YOLOv3 head on the maps of an encoder, and the boxes that it then predicts.

Axes: B pictures of a batch, K boxes of all cells and anchors, D predictions of a picture; 4 left,
top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...shards.order import Ordinals
from ...shards.reader import SampleDamaged, ShardReader
from ..boxes import MEASURES, mean_precision, suppress
from ..encoders.maps import Films, in_batches
from ..metrics import Floats
from .training import Lesson
from .yolo import Marks, Yolo, boxes_of, yolo_loss

Box = Mapping[str, Any]  # x, y, w, h in pixels of the stored picture, label
LEAST = 0.01  # objectness of a prediction that is kept
CANDIDATES = 1000  # the best of a picture, among which worse ones that overlap fall
OVERLAP = 0.5  # the least overlap at which they fall


class Boxes:
    """The boxes of samples as they are stored, held in memory; most films have none.

    `labels` are the names of all of them, in order. `damaged` are the ordinals of the samples
    whose boxes cannot be read.
    """

    def __init__(self, reader: ShardReader, rows: Ordinals) -> None:
        self.reader = reader
        self._boxes: dict[int, list[Box]] = {}
        damaged = set()
        for ordinal in rows.tolist():
            boxes = read_boxes(reader, ordinal)
            if boxes is None:
                damaged.add(ordinal)
            elif boxes:
                self._boxes[ordinal] = boxes
        self.damaged = frozenset(damaged)
        self.labels = tuple(sorted({b["label"] for found in self._boxes.values() for b in found}))

    def of(self, ordinal: int) -> list[Box]:
        """Return the boxes of a sample."""
        return self._boxes.get(ordinal, [])

    def marked(self, rows: Ordinals) -> npt.NDArray[np.bool_]:
        """Tell which samples have a box.  # [B]"""
        return np.array([ordinal in self._boxes for ordinal in rows.tolist()], dtype=bool)

    def size(self, ordinal: int) -> tuple[int, int]:
        """Return the rows and columns of a stored picture."""
        return int(self.reader.heights[ordinal]), int(self.reader.widths[ordinal])

    def marks(self, rows: Ordinals) -> Marks:
        """Return the boxes of a batch as shares of their pictures."""
        found = []
        for picture, ordinal in enumerate(rows.tolist()):
            H, W = self.size(ordinal)
            for box in self.of(ordinal):
                centre = (box["x"] + box["w"] / 2) / W, (box["y"] + box["h"] / 2) / H
                sides = box["w"] / W, box["h"] / H
                found.append((picture, self.labels.index(box["label"]), *centre, *sides))
        mark_M6 = np.array(found, dtype=np.float64).reshape(-1, 6)
        picture, label = mark_M6[:, :2].astype(np.int64).T
        return Marks(picture=picture, label=label, centre=mark_M6[:, 2:4], sides=mark_M6[:, 4:])


def read_boxes(reader: ShardReader, ordinal: int) -> list[Box] | None:
    """Return the boxes of a sample; None when it is damaged."""
    try:
        (document,) = reader.texts(np.array([ordinal]))
    except SampleDamaged:
        return None
    return list(document["boxes"])


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The boxes that are predicted on a film, by label in order, and their objectness."""

    boxes: list[Box]
    scores: list[float]


class Detecting(Lesson):
    """Train a head, and the encoder with it as its maps say, on pictures and their boxes.

    `monitor` is what is judged on validation: the mean `loss` over its batches, or a measure of
    `eval/boxes.py`. `extra` is added to the sides of boxes where their overlap is taken: cells in
    the assignment to anchors, pixels where predictions fall (published code adds 1 to both).
    """

    def __init__(
        self,
        films: Films,
        boxes: Boxes,
        setting: Mapping[str, Any],
        *,
        validate: Ordinals,
        batch: int,
    ) -> None:
        self.films, self.boxes, self.validate, self.batch = films, boxes, validate, batch
        self.monitor, self.extra = setting["monitor"], float(setting["extra"])
        self.head = Yolo(
            films.maps.channels,
            labels=len(boxes.labels),
            widths=setting["widths"],
            seed=films.stock.seed,
        ).to(films.device)
        # a frozen encoder need not be kept after each epoch
        frozen = films.maps.mode == "frozen"
        self.module = self.head if frozen else nn.ModuleList([films.maps, self.head])

    def losses(self, batches: Sequence[Ordinals], epoch: int) -> Iterator[Tensor]:
        """Yield the loss of each batch."""
        self._train(True)
        for batch, levels in zip(batches, self.films.levels(batches), strict=True):
            yield self._loss(self.head(levels), batch)

    @torch.no_grad()
    def judge(self) -> float:
        """Return the monitored value on validation, the least the best."""
        if self.monitor != "loss":
            least = max(LEAST, MEASURES[self.monitor].confidence)
            films = [
                film_row(str(ordinal), self.boxes.of(ordinal), predicted)
                for ordinal, predicted in self.predict(self.validate, least=least)
            ]
            return -mean_precision(films, self.monitor)
        self._train(False)
        batches = in_batches(self.validate, self.batch)
        passes = zip(batches, self.films.levels(batches), strict=True)
        found = [self._loss(self.head(levels), batch) for batch, levels in passes]
        return float(torch.stack(found).mean())

    @torch.no_grad()
    def predict(self, rows: Ordinals, *, least: float = LEAST) -> Iterator[tuple[int, Predicted]]:
        """Yield each sample and the boxes found on it, of an objectness of at least `least`."""
        self._train(False)
        batches = in_batches(rows, self.batch)
        for batch, levels in zip(batches, self.films.levels(batches), strict=True):
            parts = (part.cpu().numpy() for part in boxes_of(self.head(levels), self.films.shape))
            for ordinal, *found in zip(batch.tolist(), *parts, strict=True):
                yield ordinal, self._kept(ordinal, *found, least=least)

    def _kept(
        self,
        ordinal: int,
        box_K4: npt.NDArray[np.float32],
        object_K: npt.NDArray[np.float32],
        label_K: npt.NDArray[np.int64],
        *,
        least: float,
    ) -> Predicted:
        """Return the boxes of a film that do not fall to better ones, in its stored pixels."""
        best = np.argsort(-object_K, kind="stable")[:CANDIDATES]
        best = best[object_K[best] >= least]
        height, width = np.array(self.boxes.size(ordinal)) / self.films.shape
        found = Predicted(boxes=[], scores=[])
        for number, label in enumerate(self.boxes.labels):
            own = best[label_K[best] == number]
            box_D4, score_D = box_K4[own].astype(np.float64), object_K[own].astype(np.float64)
            stays = suppress(box_D4, score_D, limit=OVERLAP, extra=self.extra)
            stored_D4: Floats = box_D4[stays] * (width, height, width, height)
            for left, top, right, bottom in stored_D4.tolist():
                sides = {"x": left, "y": top, "w": right - left, "h": bottom - top}
                found.boxes.append(sides | {"label": label})
            found.scores.extend(score_D[stays].tolist())
        return found

    def _loss(self, found: Sequence[Tensor], batch: Ordinals) -> Tensor:
        return yolo_loss(found, self.boxes.marks(batch), extra=self.extra)

    def _train(self, mode: bool) -> None:
        self.films.maps.train(mode)
        self.head.train(mode)


def film_row(
    key: str, targets: Sequence[Box], predicted: Predicted, *, subject: str | None = None
) -> dict[str, Any]:
    """Return the columns of DETECTIONS that a film has of its own."""
    return {
        "key": key,
        "subject_id": subject,
        "targets": list(targets),
        "predicted": predicted.boxes,
        "scores": predicted.scores,
    }
