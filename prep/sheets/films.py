"""Contact sheets: films as stored and as prepared, those left out, boxes and masks.

Axes: H rows, W columns, C channels.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc

from ...contract import Reject
from ...page import Prose, Section, Sheet, Tile
from ..pixels.decoder import Decoder
from ..pixels.glance import Glance
from .prepared import PreparedSet, counts_of

SIDE = 208  # pixels of the longest side of a small picture
VIEWS, EACH = 4, 6  # views shown, and films of each
PROBES = 24  # originals looked at for inverted ones
MARKED = 12  # films shown with boxes or masks
LEFT_OUT, REASON = 12, 3  # films left out that are shown, and of one reason
INK = (80, 200, 255)  # of boxes and outlines, blue first
# reasons whose film may be decoded and looked at; never what may show a patient's name
SHOWABLE = (
    *("blank_picture", "modality_refused", "mask_unreadable", "file_not_listed", "split_missing"),
    *("duplicate_name", "report_missing", "report_unreadable", "no_report", "no_text"),
    *("too_short", "view_not_selected", "unlabelled"),
)
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The rows of the sheets, and the originals of those that lie where they were read."""

    views: Mapping[str | None, Sequence[Row]]
    probes: Sequence[Row]
    left_out: Sequence[Row]
    originals: Mapping[Path, Glance]


def films_section(prepared: PreparedSet, decoder: Decoder) -> Section:
    """Return the contact sheets of a set, all private; a sample of films by the set's seed.

    Originals are decoded where films are, as some of those left out never were.
    """
    choice = _choose(prepared, decoder)
    blocks: list[Prose | Sheet] = []
    if not choice.originals:
        text = "The originals could not be read where the archive lay: prepared films alone."
        blocks.append(Prose(text=text, tone="quiet", private=True))
    for view, rows in choice.views.items():
        total = len(prepared.where("view", view))
        title = f"{view or 'View not known'}: {len(rows)} of {total:,}"
        tiles = tuple(_pair(prepared, row, choice.originals) for row in rows)
        blocks.append(Sheet(title=title, tiles=tiles))
    blocks += _inverted(prepared, choice)
    blocks += _marked(prepared)
    if tiles := tuple(_left_out(prepared, choice)):
        blocks.append(Sheet(title="Left out, as stored", tiles=tiles))
    return Section(title="Films", blocks=tuple(blocks))


def small_picture(pixels: np.ndarray) -> str:
    """Return a picture [H, W] or [H, W, C] as a data URI, its longest side at most SIDE."""
    height, width = pixels.shape[:2]
    scale = min(SIDE / max(height, width), 1.0)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    small = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return _uri(bytes(jpeg))


def read_prepared(path: Path) -> np.ndarray | None:
    """Return a prepared PNG with 8 bits [H, W], or None when it cannot be read."""
    if not path.is_file():
        return None
    pixels_HW = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels_HW is None or pixels_HW.ndim != 2:
        return None
    deep = pixels_HW.dtype == np.uint16
    return np.asarray(pixels_HW >> 8 if deep else pixels_HW, dtype=np.uint8)


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _choose(prepared: PreparedSet, decoder: Decoder) -> _Choice:
    counts = [view for (view,) in counts_of(prepared.manifest, "view")][:VIEWS]
    each = EACH if len(counts) > 1 else 2 * EACH
    views = {v: prepared.sample(f"view {v}", prepared.where("view", v), each) for v in counts}
    probes = prepared.sample("inverted", np.arange(prepared.rows), PROBES)
    probes = [row for row in probes if ".dc" in row["source"].lower()]  # else nothing inverts
    left_out = list(_showable(prepared))
    rows = [*(row for rows in views.values() for row in rows), *probes, *left_out]
    originals: dict[Path, Glance] = {}
    paths = {prepared.original(row["source"]) for row in rows}
    for path in (path for path in paths if path):
        with contextlib.suppress(Reject):
            originals[path] = decoder.glance(path, side=SIDE)
    return _Choice(views=views, probes=probes, left_out=left_out, originals=originals)


def _showable(prepared: PreparedSet) -> Iterator[Row]:
    room = LEFT_OUT
    for reason in SHOWABLE:
        chosen = prepared.rejected(reason, min(REASON, room))
        room -= len(chosen)
        yield from chosen


def _original(prepared: PreparedSet, row: Row, found: Mapping[Path, Glance]) -> Glance | None:
    path = prepared.original(row["source"])
    return found.get(path) if path else None


def _pair(prepared: PreparedSet, row: Row, found: Mapping[Path, Glance]) -> Tile:
    """Return a film as stored, where that can be shown, and as prepared."""
    original = _original(prepared, row, found)
    pixels_HW = read_prepared(prepared.folder / row["image"])
    after = ("prepared", "" if pixels_HW is None else small_picture(pixels_HW))
    before = (("as stored", _uri(original.jpeg) if original else ""),) if found else ()
    shape = f"{row['source_width']} × {row['source_height']} to {row['width']} × {row['height']}"
    return Tile(
        pictures=(*before, after),
        caption=(row["key"], f"{row['view'] or 'view not known'}, {row['split']}, {shape}"),
        tags=("inverted by its header",) if original and original.inverted else (),
    )


def _inverted(prepared: PreparedSet, choice: _Choice) -> Iterator[Sheet]:
    looked = [(row, _original(prepared, row, choice.originals)) for row in choice.probes]
    seen = [row for row, original in looked if original]
    rows = [row for row, original in looked if original and original.inverted]
    if rows:
        tiles = tuple(_pair(prepared, row, choice.originals) for row in rows[:EACH])
        title = f"Inverted (MONOCHROME1 or its like): {len(rows)} of {len(seen)} originals drawn"
        yield Sheet(title=title, tiles=tiles)


def _marked(prepared: PreparedSet) -> Iterator[Sheet]:
    boxes, masks = prepared.manifest["boxes"], prepared.manifest["mask"]
    with_box = pc.greater(pc.fill_null(pc.list_value_length(boxes), 0), 0)
    places = np.flatnonzero(np.asarray(pc.or_(with_box, pc.is_valid(masks))))
    if not len(places):
        return
    rows = prepared.sample("marked", places, MARKED)
    title = f"Boxes and masks on the prepared film: {len(rows)} of {len(places):,}"
    yield Sheet(title=title, tiles=tuple(_outlined(prepared, row) for row in rows))


def _outlined(prepared: PreparedSet, row: Row) -> Tile:
    pixels_HW = read_prepared(prepared.folder / row["image"])
    uri = ""
    if pixels_HW is not None:
        pixels_HWC = cv2.cvtColor(pixels_HW, cv2.COLOR_GRAY2BGR)
        thick = max(max(pixels_HW.shape) // 128, 1)
        for box in row["boxes"]:
            corner = round(box["x"]), round(box["y"])
            other = round(box["x"] + box["w"]), round(box["y"] + box["h"])
            cv2.rectangle(pixels_HWC, corner, other, INK, thick)
        mask_HW = read_prepared(prepared.folder / row["mask"]) if row["mask"] else None
        if mask_HW is not None and mask_HW.shape == pixels_HW.shape:
            outlines, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(pixels_HWC, outlines, -1, INK, thick)
        uri = small_picture(pixels_HWC)
    names = ", ".join(sorted({box["label"] for box in row["boxes"]})) or "mask"
    return Tile(pictures=(("", uri),), caption=(row["key"], f"{names}, {row['split']}"))


def _left_out(prepared: PreparedSet, choice: _Choice) -> Iterator[Tile]:
    for row in choice.left_out:
        if original := _original(prepared, row, choice.originals):
            caption = (row["image_id"] or row["source"],)
            picture = ("", _uri(original.jpeg))
            yield Tile(pictures=(picture,), caption=caption, tags=(row["reason"],))
