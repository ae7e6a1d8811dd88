"""What a set holds: splits, views, patients, sizes, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...contract import SPLITS
from ...page import Cell, Charts, Prose, Section, Share, Table
from .prepared import PreparedSet, counts_of, distinct
from .texts import histogram

COMMON = 8  # values listed of a column that can have many
LABEL_VALUES = {"+": 1.0, "−": 0.0, "?": -1.0}
SIGNS = "+ present, − absent, ? uncertain"


def composition_section(prepared: PreparedSet) -> Section:
    """Return splits, views, and what the archive tells of patients and origin."""
    blocks = [_splits(prepared), _by_split(prepared, "view", prepared.manifest["view"])]
    for name in ("sex", "origin"):
        column = _metadata(prepared, name)
        if column.null_count < prepared.rows:
            blocks.append(_by_split(prepared, name, column))
    return Section(title="What it holds", blocks=(*blocks, *_ages(prepared)))


def sizes_section(prepared: PreparedSet) -> Section:
    """Return the sizes of the originals and of the prepared films."""
    manifest, films = prepared.manifest, prepared.rows
    sides = {name: np.asarray(manifest[f"source_{name}"]) for name in ("width", "height")}
    charts = Charts(
        histograms=tuple(
            histogram(side, title=f"{name.capitalize()} of the originals", unit="pixels")
            for name, side in sides.items()
        )
    )
    before = _shapes(manifest, ("source_width", "source_height"), "original", films)
    after = _shapes(manifest, ("width", "height", "bits", "norm"), "prepared", films)
    told = len(before.rows) <= COMMON  # then the table says all that a histogram could
    return Section(title="Sizes", blocks=(before, after) if told else (charts, before, after))


def labels_section(prepared: PreparedSet) -> Section | None:
    """Return label counts in each split, or None for a set without labels."""
    blocks = []
    sources = [name for (name,) in counts_of(prepared.manifest, "label_source") if name]
    told = f" ({', '.join(sorted(sources))})" if sources else ""
    for column, caption in (
        ("labels", f"labels of the archive{told}"),
        ("report_labels", "findings that rules read in the reports: not the archive's labels"),
    ):
        counts = label_counts(prepared.manifest, column)
        if counts:
            blocks.append(_label_table(prepared, counts, caption))
    return Section(title="Labels", blocks=tuple(blocks)) if blocks else None


def composition_remarks(prepared: PreparedSet) -> Iterator[Prose]:
    """Yield what deserves a look: unknown views, an empty split, labels without a case."""
    unknown = prepared.manifest["view"].null_count
    if 0 < unknown < prepared.rows:
        yield Prose(text="Films whose view is not known: {}.", counts=(unknown,), tone="note")
    splits = {split for (split,) in counts_of(prepared.manifest, "split")}
    if missing := [split for split in SPLITS if split not in splits]:
        yield Prose(text=f"No film is in the split {' or '.join(missing)}.", tone="note")
    counts = label_counts(prepared.manifest, "labels")
    names = sorted({name for name, _, _ in counts})
    empty = [n for n in names if "test" in splits and not counts.get((n, "test", 1.0))]
    if empty:
        text = f"No positive case in the test split: {', '.join(empty)}."
        yield Prose(text=text, tone="note")


def label_counts(manifest: pa.Table, column: str) -> Mapping[tuple[str, str, float], int]:
    """Return how many films of a split have a label with a value, by (label, split, value)."""
    total: dict[tuple[Any, ...], int] = {}
    split = manifest["split"].combine_chunks()
    maps = manifest[column].combine_chunks()
    maps = maps.combine_chunks() if isinstance(maps, pa.ChunkedArray) else maps
    split = split.combine_chunks() if isinstance(split, pa.ChunkedArray) else split
    offsets = np.asarray(maps.offsets)
    first, last = int(offsets[0]), int(offsets[-1])
    flat = pa.table(
        {
            "label": maps.keys[first:last],
            "split": split.take(np.repeat(np.arange(len(maps)), np.diff(offsets))),
            "value": maps.items[first:last],
        }
    )
    total = counts_of(flat, "label", "split", "value")
    return {(str(label), str(part), float(value)): n for (label, part, value), n in total.items()}


def _metadata(prepared: PreparedSet, name: str) -> Any:
    return pc.map_lookup(prepared.manifest["metadata"], name, "first")


def _splits(prepared: PreparedSet) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for split in SPLITS:
        part = prepared.manifest.filter(pc.equal(prepared.manifest["split"], split))
        films = part.num_rows
        known = (distinct(part["subject_id"]) or None, distinct(part["study_id"]) or None)
        rows.append((split, films, Share(part=films, whole=prepared.rows), *known))
    return Table(columns=("split", "films", "", "patients", "studies"), rows=tuple(rows))


def _by_split(prepared: PreparedSet, name: str, column: Any) -> Table:
    """Return the films of each value of a column, in all and in each split."""
    table = pa.table({"value": column, "split": prepared.manifest["split"]})
    totals, parts = counts_of(table, "value"), counts_of(table, "value", "split")
    rows: list[tuple[Cell, ...]] = []
    for (value,), count in list(totals.items())[:COMMON]:
        share = Share(part=count, whole=prepared.rows)
        rows.append(
            (value or "not known", count, share, *(parts.get((value, s), 0) for s in SPLITS))
        )
    if rest := sum(list(totals.values())[COMMON:]):
        others = len(totals) - COMMON
        rows.append((f"{others} others", rest, Share(part=rest, whole=prepared.rows), *[None] * 3))
    return Table(columns=(name, "films", "", *SPLITS), rows=tuple(rows))


def _ages(prepared: PreparedSet) -> Iterator[Charts]:
    texts = _metadata(prepared, "age").drop_null()
    ages = [int(text) for text in texts.to_pylist() if text.isdecimal()]
    if ages:
        title = f"Age, known of {100 * len(ages) // prepared.rows} % of the films"
        yield Charts(histograms=(histogram(np.array(ages), title=title, unit="years"),))


def _shapes(manifest: pa.Table, columns: tuple[str, ...], name: str, films: int) -> Table:
    counts = counts_of(manifest, *columns)
    rows: list[tuple[Cell, ...]] = []
    for values, count in list(counts.items())[:COMMON]:
        width, height, *more = values
        shape = f"{width} × {height}"
        told = (f"{more[0]} bits", more[1]) if more else ()
        rows.append((shape, *told, count, Share(part=count, whole=films)))
    if rest := sum(list(counts.values())[COMMON:]):
        blank = (None,) * (2 if len(columns) > 2 else 0)
        others = f"{len(counts) - COMMON} other sizes"
        rows.append((others, *blank, rest, Share(part=rest, whole=films)))
    head = ("bits", "norm") if len(columns) > 2 else ()
    return Table(columns=(f"{name}, width × height", *head, "films", ""), rows=tuple(rows))


def _label_table(
    prepared: PreparedSet, counts: Mapping[tuple[str, str, float], int], caption: str
) -> Table:
    values = {
        sign: value
        for sign, value in LABEL_VALUES.items()
        if any(told == value for _, _, told in counts)
    }
    splits = [s for s in SPLITS if any(split == s for _, split, _ in counts)]
    rows: list[tuple[Cell, ...]] = []
    for name in sorted({name for name, _, _ in counts}):
        present = sum(counts.get((name, split, 1.0), 0) for split in splits)
        cells = [counts.get((name, split, v), 0) for split in splits for v in values.values()]
        rows.append((name, Share(part=present, whole=prepared.rows), *cells))
    heads = [f"{split} {sign}" for split in splits for sign in values]
    return Table(
        columns=("label", "present in", *heads), rows=tuple(rows), caption=f"{caption}; {SIGNS}"
    )
