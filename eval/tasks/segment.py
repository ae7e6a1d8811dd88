"""Segmentation: a U-Net on the maps of the encoder, trained on masks or on boxes as rectangles.

Training takes the films that have a region and, where the protocol says so, as many others, before
a fraction of them is drawn; validation and test take every film.

Axes: B films of a batch, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...files import to_arrow
from ...schema import REGIONS
from ...shards.order import Ordinals, permutation
from ..encoders.encoder import Source
from ..encoders.maps import Films, Maps, films_of, read_films, shape_of
from ..heads.regions import Kind, Regions
from ..heads.segmenter import Segmenting
from ..heads.stock import Stock
from ..heads.training import Schedule
from ..masks import Histogram, Overlaps, examples, outlined, overlap_rows, region_row
from ..protocols.setting import read_setting
from ..statistics.answers import FIXED, HALF, VALIDATE
from ..table import Row
from ..testset import TestSet
from .task import SEED, EvalOptions, Found, Place, Task, Work, by_share, result_row

OVERLAYS = 8  # films drawn for the report


class Segment(Task):
    """How well a decoder on the encoder's maps finds regions in the test films."""

    name = "segment"

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need films to train on, to choose on, and regions to test on."""
        empty = [split for split in ("train", "validate") if not len(tests.films[split])]
        if empty:
            return f"{tests.name} has no {empty[0]} split"
        if not has_regions(tests, region_kind(tests)):
            return f"no film of the test split of {tests.name} has a region"
        return None

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan every fraction, draw and seed of the decoder."""
        return by_share(options, head_seeds)

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the protocol's values."""
        return dict(setting)

    def do(self, work: Work) -> Found:
        """Train with each learning rate, keep the best on validation, predict the test split."""
        parts = _parts(work)
        trained = work.teacher.best(work.setting, parts.train, _lessons(work, parts))
        lesson = trained.lesson
        thresholds = _thresholds(work, parts, lesson)
        rows = list(_predictions(work, parts, lesson, thresholds))
        overlays = list(_overlays(parts, rows))
        return Found(
            rows=_numbers(work, rows),
            tables=[(REGIONS, to_arrow(REGIONS, rows))],
            files={f"{key}.png": data for key, _, data in overlays},
            facts=trained.facts
            | {
                "thresholds": thresholds,
                "shape": list(parts.shape),
                "trained_on": {
                    "films": len(parts.train),
                    "marked": int(parts.regions.marked(parts.train).sum()),
                },
                "overlays": [[key, words] for key, words, _ in overlays],
            },
            damaged=parts.stock.damaged | parts.regions.damaged,
        )


def region_kind(tests: TestSet) -> Kind:
    """Return what the regions of a set are made of, as its protocol says."""
    setting = read_setting(tests.protocol, Segment.name, tests.archive) or {}
    return "boxes" if setting.get("target") == "boxes" else "mask"


def has_regions(tests: TestSet, kind: Kind) -> bool:
    """Tell whether there is anything to find; a film with boxes has a label that is present."""
    if kind == "boxes":
        return bool((tests.test.targets == 1).any())
    sizes = np.asarray(tests.shards.column("mask_len"))[tests.films["test"]]
    return bool((sizes > 0).any())


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The sound films of a cell by split, how they are read, and their regions."""

    stock: Stock
    regions: Regions
    shape: tuple[int, int]
    train: Ordinals
    validate: Ordinals
    test: Ordinals
    keys: Sequence[str]  # by ordinal
    subjects: Sequence[str | None]


def _parts(work: Work) -> _Parts:
    """Gather the films of a cell; InputError when a split has no sound one."""
    tests, setting = work.tests, work.setting
    stock = Stock(
        tests, tests.films["train"], seed=work.cell.head_seed, workers=work.options.workers
    )
    shape = shape_of(setting, stock.reader, tests.films["train"])
    everyone = np.sort(np.concatenate(list(tests.films.values())))
    regions = Regions(stock.reader, everyone, kind=region_kind(tests), shape=shape)
    train = _balanced(tests.films["train"], regions) if setting["balance"] else tests.films["train"]
    wanted = {
        "train": tests.drawn(train, work.cell.fraction, draw=work.cell.draw),
        "validate": tests.films["validate"],
        "test": tests.films["test"],
    }
    sound = {split: stock.sound(rows, without=regions.damaged) for split, rows in wanted.items()}
    columns = {name: tests.shards.column(name) for name in ("key", "subject_id")}
    return _Parts(
        stock=stock,
        regions=regions,
        shape=shape,
        keys=columns["key"],  # type: ignore[arg-type]
        subjects=columns["subject_id"],  # type: ignore[arg-type]
        **sound,
    )


def _balanced(rows: Ordinals, regions: Regions) -> Ordinals:
    """Return the films that have a region and as many drawn from the others, ascending."""
    marked_N = regions.marked(rows)
    others = rows[~marked_N]
    order = permutation(len(others), purpose="eval/balance", seed=SEED, epoch=0)
    return np.sort(np.concatenate([rows[marked_N], others[order[: marked_N.sum()]]]))


def _lessons(work: Work, parts: _Parts) -> Callable[[Schedule], Segmenting]:
    """Return what makes a decoder to train, on one pass of the encoder where it cannot change."""
    turned = work.setting["augment"] == "turned"
    seen = [parts.validate] if turned else [parts.validate, parts.train]

    def read() -> Films:
        maps = Maps(work.pictures.encoder, work.setting).to(work.device)
        films = Films(parts.stock, maps, parts.shape)
        films.keep(np.concatenate(seen))
        return films

    films = films_of(read)
    return lambda schedule: Segmenting(
        films(), parts.regions, validate=parts.validate, batch=schedule.batch, turned=turned
    )


def _thresholds(work: Work, parts: _Parts, lesson: Segmenting) -> dict[str, float]:
    """Return the threshold of each source that the protocol names; one half where none is."""
    sources = work.setting["thresholds"]
    found = {FIXED: HALF}
    if VALIDATE in sources:
        histogram = Histogram()
        for batch, share_BHW in lesson.predict(parts.validate):
            work.interrupts.check()
            histogram.add(share_BHW, parts.regions.of(batch))
        settled = histogram.threshold()
        found |= {} if settled is None else {VALIDATE: settled}
    # without a region in validation there is nothing to choose on
    return {source: found[source] for source in sources if source in found} or {FIXED: HALF}


def _predictions(
    work: Work, parts: _Parts, lesson: Segmenting, thresholds: Mapping[str, float]
) -> Iterator[Row]:
    """Yield a row of REGIONS for every test film and threshold."""
    label = work.tests.labels[0] if len(work.tests.labels) == 1 else "region"
    cell = {name: value for name, value in asdict(work.cell).items() if name in REGIONS.names}
    for number, (batch, share_BHW) in enumerate(lesson.predict(parts.test)):
        work.interrupts.check()
        target_BHW = parts.regions.of(batch)
        for place, ordinal in enumerate(batch.tolist()):
            for source, threshold in thresholds.items():
                predicted_HW = share_BHW[place] >= threshold
                yield cell | {
                    "key": parts.keys[ordinal],
                    "subject_id": parts.subjects[ordinal],
                    "label": label,
                    "threshold_source": source,
                    "threshold": threshold,
                    "batch": number,
                    "peak": None,  # nothing is measured by it here
                    **region_row(target_BHW[place], predicted_HW),
                }


def _numbers(work: Work, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of RESULTS that follow from rows of REGIONS."""
    found = []
    for source in dict.fromkeys(row["threshold_source"] for row in rows):
        own = [row for row in rows if row["threshold_source"] == source]
        told = {"label": own[0]["label"], "threshold_source": source}
        for numbers in overlap_rows(Overlaps.of(own), seed=SEED):
            found.append(result_row(work.tests, work.cell, numbers | told))
    return found


def _overlays(parts: _Parts, rows: Sequence[Row]) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, words and outlines of some films that have a region."""
    ordinals = {parts.keys[ordinal]: ordinal for ordinal in parts.test.tolist()}
    for key, words, predicted_HW in examples(rows, most=OVERLAYS):
        film = np.array([ordinals[key]])
        picture_HW = read_films(parts.stock.reader, film, parts.shape)[0].round().byte().numpy()
        yield key, words, outlined(picture_HW, parts.regions.of(film)[0], predicted_HW)
