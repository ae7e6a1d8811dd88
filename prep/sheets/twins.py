"""Films that are there more than once: equal to the pixel, or nearly so by a perceptual hash.

Axes: N films, H rows, W columns, P pixels of a small picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc

from ...page import Prose, Sheet, Tile
from .films import read_prepared, small_picture
from .prepared import PreparedSet

COMPARED = 1000  # films whose hashes are compared; a larger set is sampled
SMALL = 32  # side of the picture that is hashed
LOW = 8  # lowest frequencies each way that make the hash
# Of 1,765 Open-i films these two find the two that are there twice and no other pair (the next
# correlates by 0.972); they find every copy of another size, and about half of those with
# another contrast.
BITS, ALIKE = 8, 0.98
SHOWN = 6
BLOCK = 512  # films compared at once with all others


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Pairs of films: positions of rows in the manifest, and how many were compared."""

    pairs: tuple[tuple[int, int], ...]
    compared: int


def picture_hash(gray_HW: np.ndarray) -> tuple[int, np.ndarray]:
    """Return a picture's 64-bit hash, and itself at 32 × 32 with mean 0 and length 1 [P].

    A bit is set where one of the 8 × 8 lowest frequencies of the cosine transform is above their
    median, the constant left out of it (Zauner, Implementation and benchmarking of perceptual
    image hash functions, 2010).
    """
    small_HW = cv2.resize(gray_HW, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small_HW)[:LOW, :LOW].ravel()
    bits = np.packbits(low > np.median(low[1:]))
    flat_P = (small_HW - small_HW.mean()).ravel()
    return int(bits.view(">u8")[0]), flat_P / max(float(np.linalg.norm(flat_P)), 1e-6)


def near_pairs(hashes_N: np.ndarray, pictures_NP: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs whose hashes differ in at most BITS bits and whose pictures correlate."""
    pairs = []
    for start in range(0, len(hashes_N), BLOCK):
        apart = np.bitwise_count(hashes_N[start : start + BLOCK, None] ^ hashes_N[None, :])
        for row, column in np.argwhere(apart <= BITS).tolist():
            first = start + row
            if first < column and float(pictures_NP[first] @ pictures_NP[column]) >= ALIKE:
                pairs.append((first, column))
    return pairs


def find_twins(prepared: PreparedSet) -> Twins:
    """Return the near pairs among a seeded sample of films, their padding cut away."""
    kept, hashes, pictures = [], [], []
    rows = prepared.sample("twins", np.arange(prepared.rows), COMPARED)
    for row in rows:
        pixels_HW = read_prepared(prepared.folder / row["image"])
        if pixels_HW is not None:
            number, flat_P = picture_hash(_without_padding(pixels_HW, row))
            kept.append(row["key"])
            hashes.append(number)
            pictures.append(flat_P)
    if not kept:
        return Twins(pairs=(), compared=0)
    pairs = near_pairs(np.array(hashes, dtype=np.uint64), np.array(pictures))
    places = pc.index_in(np.array(kept), prepared.manifest["key"]).to_pylist()
    found = tuple((places[one], places[other]) for one, other in pairs)
    return Twins(pairs=found, compared=len(kept))


def twin_blocks(prepared: PreparedSet, twins: Twins) -> Iterator[Prose | Sheet]:
    """Yield what is said and shown of films that are there more than once."""
    films, pictures = _equal_films(prepared)
    if films:
        text = "Equal to the pixel: {} films, which show {} pictures."
        yield Prose(text=text, counts=(films, pictures))
    else:
        yield Prose(text="No two films are equal to the pixel.")
    text = "Nearly equal (a perceptual hash), among {} films: {} pairs."
    yield Prose(text=text, counts=(twins.compared, len(twins.pairs)))
    tiles = []
    for pair in twins.pairs[:SHOWN]:
        one, other = prepared.manifest.take(list(pair)).to_pylist()
        caption = (f"{one['key']} | {other['key']}", f"{one['split']} | {other['split']}")
        tiles.append(
            Tile(
                pictures=(("", _small(prepared, one)), ("", _small(prepared, other))),
                caption=caption,
                tags=_relation(one, other),
            )
        )
    if tiles:
        title = f"Nearly equal films: {len(tiles)} of {len(twins.pairs):,} pairs"
        yield Sheet(title=title, tiles=tuple(tiles))


def twin_remarks(prepared: PreparedSet, twins: Twins) -> Iterator[Prose]:
    """Yield what deserves a look: near pairs that lie in two splits."""
    splits = prepared.manifest["split"]
    crossing = sum(splits[one].as_py() != splits[other].as_py() for one, other in twins.pairs)
    if crossing:
        text = "Nearly equal pairs of films that lie in two splits: {} of {}."
        yield Prose(text=text, counts=(crossing, len(twins.pairs)), tone="note")


def _equal_films(prepared: PreparedSet) -> tuple[int, int]:
    counts = pc.value_counts(prepared.manifest["pixel_blake3"].combine_chunks()).field("counts")
    several = np.asarray(counts)
    several = several[several > 1]
    return int(several.sum()), len(several)


def _without_padding(pixels_HW: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """Return the film itself: equal padding would make all films of one shape alike."""
    top, left = (max(round(row[name]), 0) for name in ("offset_y", "offset_x"))
    height = round(row["source_height"] * row["scale_y"])
    width = round(row["source_width"] * row["scale_x"])
    return pixels_HW[top : top + height, left : left + width]


def _small(prepared: PreparedSet, row: Mapping[str, Any]) -> str:
    pixels_HW = read_prepared(prepared.folder / row["image"])
    return "" if pixels_HW is None else small_picture(pixels_HW)


def _relation(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    tags = []
    if one["pixel_blake3"] == other["pixel_blake3"]:
        tags.append("equal to the pixel")
    for name, word in (("study_id", "one study"), ("subject_id", "one patient")):
        if one[name] is not None and one[name] == other[name]:
            tags.append(word)
            break
    return (*tags, *(("two splits",) if one["split"] != other["split"] else ()))
