"""Retrieval examples of an evaluation: what some queries asked for, and what was nearest to them.

They are read from the shards when the report is written; keys alone lie in the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...contract import InputError
from ...files import read_rows
from ...page import Prose, Sheet, Table, Tile
from ...prep.sheets.films import small_picture
from ...schema import RETRIEVALS
from ...shards.manifest import ShardSet
from ...shards.order import Ordinals
from ...shards.reader import ShardReader
from ...train.network.text import neutral_text, normal_form
from ..encoders.features import to_bytes
from ..retrieval.ranking import DIRECTIONS
from ..statistics.kept import PLACE
from .opened import Opened

TASK = "retrieve"
SHOWN = 3  # queries of each direction
DAMAGED = "damaged: the shards no longer hold it as it was evaluated"
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Films:
    """Impressions and pictures by key; of a damaged one there is none."""

    reader: ShardReader
    places: Mapping[str, int]

    @classmethod
    def of(cls, shards: ShardSet, reader: ShardReader) -> _Films:
        places = {str(key): place for place, key in enumerate(shards.column("key"))}
        return cls(reader=reader, places=places)

    def text(self, key: str) -> str | None:
        """Return an Impression as the encoder read it."""
        try:
            (document,) = self.reader.texts(self._at(key))
        except InputError:
            return None
        return neutral_text(document["impression"])

    def picture(self, key: str) -> str:
        """Return a small picture; empty without one."""
        try:
            return small_picture(to_bytes(self.reader.images(self._at(key)))[0])
        except InputError:
            return ""

    def tile(self, key: str, *tags: str) -> Tile:
        """Return a film under its key."""
        picture = self.picture(key)
        caption = (key,) if picture else (key, DAMAGED)
        return Tile(pictures=(("", picture),), caption=caption, tags=tags)

    def _at(self, key: str) -> Ordinals:
        if key not in self.places:
            raise InputError("a film that was retrieved is not in the shards", where=f"key {key}")
        return np.array([self.places[key]], dtype=np.int64)


def example_blocks(opened: Opened) -> Iterator[Prose | Sheet | Table]:
    """Yield queries of the encoder, spread from the one that did best to the one that did worst.

    All of it is private. Raises InputError when the table of retrievals is damaged, or of an
    earlier version.
    """
    for told in opened.cells(TASK, controls=False):
        if opened.shards is None:
            text = "The shards that were evaluated are not here any more: no retrieval examples."
            yield Prose(text=text, tone="quiet", private=True)
            continue
        rows = [
            row
            for row in read_rows(opened.kept.folder / f"{RETRIEVALS.name}.parquet", RETRIEVALS)
            if all(row[name] == told["cell"][name] for name in PLACE)
        ]
        text = "Retrieval examples: in each direction from the query that did best to the worst."
        yield Prose(text=text, tone="quiet", private=True)
        with closing(ShardReader(opened.shards)) as reader:
            films = _Films.of(opened.shards, reader)
            for direction, show in zip(DIRECTIONS, (_texts_found, _films_found), strict=True):
                asked = [row for row in rows if row["direction"] == direction]
                for row in _spread(asked):
                    yield from show(films, row, len(asked))


def _spread(rows: Sequence[Row]) -> list[Row]:
    """Return a few queries, as far from each other as can be in how well they did."""
    ordered = sorted(rows, key=lambda row: (2 * row["above"] + row["level"], row["key"]))
    places = np.linspace(0, len(ordered) - 1, min(SHOWN, len(ordered))).round()
    return [ordered[int(place)] for place in places]


def _title(row: Row, candidates: str) -> str:
    level = f", {row['level'] - 1} as near" if row["level"] > 1 else ""
    nearer = f"{row['above']} of {candidates} are nearer than its own{level}"
    return f"{TASK}, {row['direction']}: {nearer}"


def _texts_found(films: _Films, row: Row, candidates: int) -> Iterator[Sheet | Table]:
    """Yield the film that asked, its own Impression, and the Impressions that were nearest."""
    own = films.text(row["key"])
    yield Sheet(
        title=_title(row, f"{candidates} Impressions"),
        text=f"Its own Impression: {own or DAMAGED}",
        tiles=(films.tile(row["key"]),),
    )
    found = [films.text(key) for key in row["nearest"]]
    lines = [
        (f"{place}", _likeness(own, text), text or DAMAGED)
        for place, text in enumerate(found, start=1)
    ]
    yield Table(
        columns=("", "text", "Impression"),
        rows=tuple(lines),
        caption="The nearest Impressions, each text once",
        private=True,
    )


def _films_found(films: _Films, row: Row, candidates: int) -> Iterator[Sheet]:
    """Yield the Impression that asked, and the films that were nearest."""
    own = films.text(row["key"])
    tiles = [
        films.tile(key, "own film" if key == row["key"] else _likeness(own, films.text(key)))
        for key in row["nearest"]
    ]
    yield Sheet(
        title=_title(row, f"{candidates} films"),
        text=f"The Impression of {row['key']}: {own or DAMAGED}",
        tiles=tuple(tiles),
    )


def _likeness(own: str | None, text: str | None) -> str:
    """Return whether a text is the own one to the letter, counts as the same, or is another."""
    if own is None or text is None:
        return "not known"
    if text == own:
        return "own text"
    return "same text" if normal_form(text) == normal_form(own) else "another"
