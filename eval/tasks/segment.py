"""Segmentation: a U-Net on the maps of the encoder, trained on masks or on boxes as rectangles.

Training takes the films that have a region and, where the protocol says so, as many others, before
a fraction of them is drawn; validation and test take every film.

Axes: B films of a batch, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...contract import InputError
from ...files import to_arrow
from ...prep.pixels.mask import draw_runs, runs_of
from ...prep.record import Runs
from ...schema import REGIONS
from ...shards.order import Ordinals, permutation
from ..encoders.encoder import Source
from ..encoders.maps import Films, Maps, read_films, shape_of
from ..heads.regions import Kind, Regions
from ..heads.segmenter import Segmenting
from ..heads.stock import Stock
from ..heads.training import Curve, Schedule, fit
from ..masks import Histogram, Overlaps, outlined, overlap_rows
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
            return f"{tests.shards.name} has no {empty[0]} split"
        if not _has_regions(tests, _kind(tests)):
            return f"no film of the test split of {tests.shards.name} has a region"
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
        rates = work.setting["lr"] if isinstance(work.setting["lr"], list) else [work.setting["lr"]]
        tried = list(_trained(work, parts, rates))
        best = int(np.argmin([min(curve.judged) for _, curve in tried]))
        lesson, curve = tried[best]
        thresholds = _thresholds(work, parts, lesson)
        rows = list(_predictions(work, parts, lesson, thresholds))
        overlays = dict(_overlays(parts, rows))
        return Found(
            rows=_numbers(work, rows),
            tables=[(REGIONS, to_arrow(REGIONS, rows))],
            files={f"{key}.png": data for key, data in overlays.items()},
            facts={
                "lr": rates[best],
                "epochs": len(curve.judged),
                "best_epoch": curve.best + 1,
                "losses": list(curve.losses),
                "judged": list(curve.judged),
                "thresholds": thresholds,
                "shape": list(parts.shape),
                "trained_on": {
                    "films": len(parts.train),
                    "marked": int(parts.regions.marked(parts.train).sum()),
                },
                "overlays": list(overlays),
            },
            damaged=parts.stock.damaged | parts.regions.damaged,
        )


def _kind(tests: TestSet) -> Kind:
    setting = read_setting(tests.protocol, Segment.name, tests.archive) or {}
    return "boxes" if setting.get("target") == "boxes" else "mask"


def _has_regions(tests: TestSet, kind: Kind) -> bool:
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
    regions = Regions(stock.reader, everyone, kind=_kind(tests), shape=shape)
    train = _balanced(tests.films["train"], regions) if setting["balance"] else tests.films["train"]
    wanted = {
        "train": tests.drawn(train, work.cell.fraction, draw=work.cell.draw),
        "validate": tests.films["validate"],
        "test": tests.films["test"],
    }
    sound = {split: _sound(stock, regions, rows) for split, rows in wanted.items()}
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


def _sound(stock: Stock, regions: Regions, rows: Ordinals) -> Ordinals:
    sound = stock.sound(rows[~np.isin(rows, sorted(regions.damaged))])
    if not len(sound):
        raise InputError(
            "every film of a split is damaged",
            where=stock.reader.shards.name,
            todo="`imitate verify` names every damaged sample",
        )
    return sound


def _trained(
    work: Work, parts: _Parts, rates: Sequence[float]
) -> Iterator[tuple[Segmenting, Curve]]:
    """Train one decoder a learning rate, on one pass of the encoder where it cannot change."""
    films: Films | None = None
    turned = work.setting["augment"] == "turned"
    for rate in rates:
        schedule = Schedule.of(work.setting, lr=rate)
        if films is None or films.maps.mode != "frozen":
            maps = Maps(work.pictures.encoder, work.setting).to(work.device)
            films = Films(parts.stock, maps, parts.shape)
            seen = [parts.validate] if turned else [parts.validate, parts.train]
            films.keep(np.concatenate(seen))
        lesson = Segmenting(
            films, parts.regions, validate=parts.validate, batch=schedule.batch, turned=turned
        )
        curve = fit(
            lesson,
            parts.train,
            schedule,
            seed=work.cell.head_seed,
            folder=work.folder / f"lr-{rate:g}",
            interrupts=work.interrupts,
            progress=work.options.progress,
        )
        yield lesson, curve


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
                    "height": parts.shape[0],
                    "width": parts.shape[1],
                    "target_pixels": int(target_BHW[place].sum()),
                    "predicted_pixels": int(predicted_HW.sum()),
                    "common_pixels": int((predicted_HW & target_BHW[place]).sum()),
                    "runs": runs_of(predicted_HW),
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


def _overlays(parts: _Parts, rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Yield the key and outlines of some films that have a region, from the worst to the best."""
    source = rows[0]["threshold_source"]
    marked = [row for row in rows if row["target_pixels"] and row["threshold_source"] == source]
    marked.sort(key=lambda row: str(row["key"]))
    order = np.argsort(Overlaps.of(marked).values("dice"), kind="stable")
    places = np.linspace(0, len(order) - 1, min(OVERLAYS, len(order))).round().astype(np.int64)
    ordinals = {parts.keys[ordinal]: ordinal for ordinal in parts.test.tolist()}
    for row in (marked[place] for place in order[places]):
        film = np.array([ordinals[row["key"]]])
        picture_HW = read_films(parts.stock.reader, film, parts.shape)[0].round().byte().numpy()
        runs = (row["runs"],) if row["runs"] else ()
        predicted_HW = draw_runs(Runs(rows=runs, height=row["height"], width=row["width"]))
        yield row["key"], outlined(picture_HW, parts.regions.of(film)[0], predicted_HW)
