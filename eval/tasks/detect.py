"""Detection: a YOLOv3 head on the maps of the encoder, trained on boxes.

Every film of a split takes part, with boxes or without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...contract import SPLITS
from ...files import to_arrow
from ...schema import DETECTIONS
from ...shards.order import Ordinals
from ...shards.reader import ShardReader
from ...train.network.backbone import STAGES
from ..boxes import detection_rows, framed
from ..encoders.encoder import Source
from ..encoders.features import to_bytes
from ..encoders.maps import Films, Maps, films_of, shape_of
from ..heads.detector import Boxes, Detecting, film_row, read_boxes
from ..heads.stock import Stock
from ..heads.training import Schedule
from ..heads.yolo import ANCHORS
from ..table import Row
from ..testset import TestSet
from .task import SEED, EvalOptions, Found, Place, Task, Work, by_share, result_row

LEVELS = STAGES[-len(ANCHORS) :]
OVERLAYS = 8  # films drawn for the report
ASKED = 32  # films with a finding that are asked for boxes, before a set counts as without them


class Detect(Task):
    """How well a head on the encoder's maps finds the boxes of the test films."""

    name = "detect"

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need films with boxes to train on, to choose on and to test on."""
        reader = ShardReader(tests.shards)
        empty = [split for split in SPLITS if not _has_boxes(tests, reader, split)]
        if empty:
            return f"no film of the {empty[0]} split of {tests.name} has a box"
        return None

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan every fraction, draw and seed of the head."""
        return by_share(options, head_seeds)

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the protocol's values."""
        return dict(setting)

    def do(self, work: Work) -> Found:
        """Train with each learning rate, keep the best on validation, predict the test split."""
        parts = _parts(work)
        trained = work.teacher.best(work.setting, parts.train, _lessons(work, parts))
        rows = list(_predictions(work, parts, trained.lesson))
        overlays = list(_overlays(parts, rows))
        return Found(
            rows=[
                result_row(work.tests, work.cell, numbers)
                for numbers in detection_rows(rows, seed=SEED)
            ],
            tables=[(DETECTIONS, to_arrow(DETECTIONS, rows))],
            files={f"{key}.png": data for key, _, data in overlays},
            facts=trained.facts
            | {
                "shape": list(parts.shape),
                "boxes": list(parts.boxes.labels),
                "trained_on": {
                    "films": len(parts.train),
                    "marked": int(parts.boxes.marked(parts.train).sum()),
                },
                "overlays": [[key, words] for key, words, _ in overlays],
            },
            damaged=parts.stock.damaged | parts.boxes.damaged,
        )


def _has_boxes(tests: TestSet, reader: ShardReader, split: str) -> bool:
    """Tell whether a film of the split has a box; such a film has a label that is present."""
    samples = tests.splits[split]
    positive = samples.ordinals[(samples.targets == 1).any(axis=1)]
    return any(read_boxes(reader, ordinal) for ordinal in positive[:ASKED].tolist())


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The sound films of a cell by split, how they are read, and their boxes."""

    stock: Stock
    boxes: Boxes
    shape: tuple[int, int]
    train: Ordinals
    validate: Ordinals
    test: Ordinals


def _parts(work: Work) -> _Parts:
    """Gather the films of a cell; InputError when a split has no sound one."""
    tests = work.tests
    films = dict(tests.films)
    stock = Stock(tests, films["train"], seed=work.cell.head_seed, workers=work.options.workers)
    boxes = Boxes(stock.reader, np.unique(np.concatenate(list(films.values()))))
    shape = shape_of(work.setting, stock.reader, films["train"])
    films["train"] = tests.drawn(films["train"], work.cell.fraction, draw=work.cell.draw)
    sound = {split: stock.sound(rows, without=boxes.damaged) for split, rows in films.items()}
    return _Parts(stock=stock, boxes=boxes, shape=shape, **sound)


def _lessons(work: Work, parts: _Parts) -> Callable[[Schedule], Detecting]:
    """Return what makes a head to train, on one pass of the encoder where it cannot change."""

    def read() -> Films:
        maps = Maps(work.pictures.encoder, work.setting, levels=LEVELS).to(work.device)
        films = Films(parts.stock, maps, parts.shape)
        films.keep(np.concatenate([parts.validate, parts.train]))
        return films

    films = films_of(read)
    return lambda schedule: Detecting(
        films(), parts.boxes, work.setting, validate=parts.validate, batch=schedule.batch
    )


def _predictions(work: Work, parts: _Parts, lesson: Detecting) -> Iterator[Row]:
    """Yield a row of DETECTIONS for every test film."""
    keys, subjects = (work.tests.shards.column(name) for name in ("key", "subject_id"))
    cell = {name: value for name, value in asdict(work.cell).items() if name in DETECTIONS.names}
    for ordinal, predicted in lesson.predict(parts.test):
        work.interrupts.check()
        subject = subjects[ordinal]
        film = film_row(str(keys[ordinal]), parts.boxes.of(ordinal), predicted, subject=subject)
        yield cell | film | {"ordinal": ordinal}


def _overlays(parts: _Parts, rows: Sequence[Row]) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, words and frames of some films that have a box, spread over the test split."""
    marked = sorted((row for row in rows if row["targets"]), key=lambda row: str(row["key"]))
    places = np.linspace(0, len(marked) - 1, min(OVERLAYS, len(marked))).round().astype(np.int64)
    for row in (marked[place] for place in places):
        picture_1HW = to_bytes(parts.stock.reader.images(np.array([row["ordinal"]])))
        words = f"boxes: {len(row['targets'])}; best score {max(row['scores'], default=0):.2f}"
        yield row["key"], words, framed(picture_1HW[0], row)
