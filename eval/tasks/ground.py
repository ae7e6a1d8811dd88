"""Zero-shot grounding: whether the places near to a finding's prompts are where the finding is.

Nothing is trained. A place's margin is how much nearer it lies to the prompts for presence than to
those for absence; a pixel is predicted from a threshold on, which validation chooses or which is 0.
Regions are measured at the size of the stored pictures.

Axes: B films of a batch, h and w rows and columns of places, H and W those of pictures, D joint
embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...files import to_arrow
from ...schema import REGIONS
from ...shards.order import Ordinals
from ..encoders.encoder import Source
from ..grounding.numbers import grounding_rows
from ..grounding.places import Places, share_of, spread, stored_picture, tinted
from ..heads.regions import Pixels, Regions
from ..heads.stock import Stock
from ..masks import Histogram, Overlaps, examples, outlined, region_row
from ..metrics import Floats
from ..statistics.answers import FIXED, VALIDATE
from ..table import Row
from ..testset import TestSet
from .segment import OVERLAYS, has_regions, region_kind
from .task import SEED, EvalOptions, Found, Place, Task, Work, once, result_row
from .zeroshot import embed_pairs, pairs_of


class Ground(Task):
    """How well the places near to a label's prompts agree with the regions of the test films."""

    name = "ground"

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need an encoder that embeds places, one label, and regions of it."""
        if not source.embeds_places:
            return f"{source.name} embeds no place beside texts"
        if len(tests.labels) != 1:
            return f"{tests.name} has {len(tests.labels)} labels, and regions are of one"
        if not has_regions(tests, region_kind(tests)):
            return f"no film of the test split of {tests.name} has a region"
        return None

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan one cell: nothing is trained."""
        return once(head_seeds)

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the prompts and on what regions are."""
        pairs = [asdict(pair) for pair in pairs_of(tests, setting)]
        return [dict(setting), region_kind(tests), pairs]

    def do(self, work: Work) -> Found:
        """Embed the places of every film and compare them with the prompts."""
        films = _films(work)
        span, thresholds = _settled(work, films)
        rows = list(_predictions(work, films, thresholds))
        overlays = list(_overlays(films, span, rows))
        return Found(
            rows=list(_numbers(work, rows)),
            tables=[(REGIONS, to_arrow(REGIONS, rows))],
            files={f"{key}.png": data for key, _, data in overlays},
            facts={
                "prompts": {p.label: asdict(p) for p in pairs_of(work.tests, work.setting)},
                "thresholds": thresholds,
                "overlays": [[key, words] for key, words, _ in overlays],
            },
            damaged=films.damaged,
        )


@dataclass(frozen=True, kw_only=True)
class _Films:
    """The sound films of a cell, their regions, and their margins [h, w] by ordinal."""

    regions: Regions
    margins: Mapping[int, Floats]
    validate: Ordinals
    test: Ordinals
    damaged: frozenset[int]

    def margin(self, ordinal: int) -> Floats:
        """Return the margin of each pixel of a stored picture [H, W]."""
        (margin_HW,) = spread(self.margins[ordinal][None], self.regions.shape)
        return np.asarray(margin_HW)


def _films(work: Work) -> _Films:
    """See every validation and test film once; InputError when a split has no sound one."""
    tests, encoder = work.tests, work.pictures.encoder
    embed = encoder.embed_texts
    assert embed is not None  # planned only for sources with a text side
    nothing = np.empty(0, dtype=np.int64)  # is trained on
    stock = Stock(tests, nothing, seed=SEED, workers=work.options.workers)
    asked = {split: tests.films[split] for split in ("validate", "test")}
    everyone = np.sort(np.concatenate(list(asked.values())))
    height, width = stock.reader.empty(tests.films["test"][:1]).shape[1:]
    regions = Regions(stock.reader, everyone, kind=region_kind(tests), shape=(height, width))
    sound = {split: stock.sound(rows, without=regions.damaged) for split, rows in asked.items()}
    places = Places(
        encoder=encoder,
        reader=stock.reader,
        ensembles=embed_pairs(embed, pairs_of(tests, work.setting)),
        workers=work.options.workers,
    )
    margins: dict[int, Floats] = {}
    for batch, margin_B1hw in places.margins(np.sort(np.concatenate(list(sound.values())))):
        work.interrupts.check()
        margins |= dict(zip(batch.tolist(), margin_B1hw[:, 0], strict=True))
    return _Films(
        regions=regions, margins=margins, damaged=stock.damaged | regions.damaged, **sound
    )


def _settled(work: Work, films: _Films) -> tuple[tuple[float, float], dict[str, float]]:
    """Return the least and the largest margin, and the threshold of each source.

    The bounds, those of validation where it has films, tell how finely thresholds are tried.
    """
    seen = films.validate if len(films.validate) else films.test
    margins = np.stack([films.margins[ordinal] for ordinal in seen.tolist()])
    low, high = float(margins.min()), float(margins.max())
    found = {FIXED: 0.0}
    if VALIDATE in work.setting["thresholds"]:
        histogram = Histogram()
        for ordinal in films.validate.tolist():
            work.interrupts.check()
            share_HW = share_of(films.margin(ordinal), low, high).astype(np.float32)
            histogram.add(share_HW, films.regions.of(np.array([ordinal]))[0])
        settled = histogram.threshold()
        # without a region in validation there is nothing to choose on
        found |= {} if settled is None else {VALIDATE: low + settled * (high - low)}
    sources = [source for source in work.setting["thresholds"] if source in found]
    return (low, high), {source: found[source] for source in sources or [FIXED]}


def _predictions(work: Work, films: _Films, thresholds: Mapping[str, float]) -> Iterator[Row]:
    """Yield a row of REGIONS for every test film and threshold."""
    keys, subjects = (work.tests.shards.column(name) for name in ("key", "subject_id"))
    cell = {name: value for name, value in asdict(work.cell).items() if name in REGIONS.names}
    for ordinal in films.test.tolist():
        work.interrupts.check()
        margin_HW = films.margin(ordinal)
        target_HW = films.regions.of(np.array([ordinal]))[0]
        peak = peak_of(films.margins[ordinal], target_HW) if target_HW.any() else None
        for source, threshold in thresholds.items():
            yield cell | {
                "key": str(keys[ordinal]),
                "subject_id": subjects[ordinal],
                "label": work.tests.labels[0],
                "threshold_source": source,
                "threshold": threshold,
                "batch": 0,
                "peak": peak,
                **region_row(target_HW, margin_HW >= threshold),
                "ordinal": ordinal,
            }


def peak_of(margin_hw: Floats, target_HW: Pixels) -> str:
    """Return whether the centre or a part of the highest place is in the region, or neither.

    The first at a tie.
    """
    place = np.unravel_index(int(margin_hw.argmax()), margin_hw.shape)
    sides = [side / places for side, places in zip(target_HW.shape, margin_hw.shape, strict=True)]
    row, column = (int((at + 0.5) * side) for at, side in zip(place, sides, strict=True))
    if target_HW[row, column]:
        return "centre"
    rows, columns = (
        slice(int(at * side), math.ceil((at + 1) * side))
        for at, side in zip(place, sides, strict=True)
    )
    return "part" if target_HW[rows, columns].any() else "outside"


def _numbers(work: Work, rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of RESULTS that follow from rows of REGIONS."""
    for source in dict.fromkeys(row["threshold_source"] for row in rows):
        own = [row for row in rows if row["threshold_source"] == source]
        told = {"label": own[0]["label"], "threshold_source": source}
        for numbers in grounding_rows(Overlaps.of(own), seed=SEED):
            yield result_row(work.tests, work.cell, numbers | told)


def _overlays(
    films: _Films, span: tuple[float, float], rows: Sequence[Row]
) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, words and a drawing of some films that have a region."""
    ordinals = {row["key"]: row["ordinal"] for row in rows}
    for key, words, predicted_HW in examples(rows, most=OVERLAYS):
        ordinal = ordinals[key]
        share_HW = share_of(films.margin(ordinal), *span)
        picture = tinted(stored_picture(films.regions.reader, ordinal), share_HW)
        target_HW = films.regions.of(np.array([ordinal]))[0]
        yield key, words, outlined(picture, target_HW, predicted_HW)
