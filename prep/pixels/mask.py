"""Masks: a marked region drawn at the size of the original, then fitted as its picture was.

A pixel of the original belongs to a shape when its centre lies inside. A pixel of the result is
255 when at least half of its area is marked, else 0: averaging keeps the area of a region, where
taking the nearest pixel would fray its edge and lose thin parts by chance. Of a region too small
for that, the pixels with the largest share are kept, so that no region vanishes by shrinking.

Axes: H rows, W columns; P rows of a shape's box, Q its columns.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...contract import Reject
from ..record import Runs, Shape
from .png import PixelOptions, encode_png, place, plan_fit, resize

MARKED = 255
JPEG_ENDINGS = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The picture that a mask belongs to: rows and columns of the original, and its fitting."""

    height: int
    width: int
    size: int
    fit: str


def mask_png(mask: Runs | tuple[Shape, ...], frame: Frame) -> bytes:
    """Return the PNG of a described region; Reject mask_unreadable when it is damaged."""
    if not isinstance(mask, Runs):
        return fitted_png(draw_shapes(mask, frame.height, frame.width), frame)
    if (mask.height, mask.width) != (frame.height, frame.width):
        raise Reject("mask_unreadable", f"drawn on {mask.width} x {mask.height} pixels")
    return fitted_png(draw_runs(mask), frame)


def file_mask_png(path: Path, frame: Frame) -> bytes:
    """Return the PNG of a region that a PNG or JPEG shows: pixels that are not 0.

    A JPEG blurs its edges, so there it is those above 127. Raises Reject, mask_unreadable for a
    file of another kind or size.
    """
    from .picture import read_film  # with pydicom, which only the decoding process needs

    try:
        film, raster = read_film(path, PixelOptions())
    except MemoryError:
        raise Reject("decoder_memory") from None
    except cv2.error:
        raise Reject("decode_failed") from None
    if not raster:
        raise Reject("mask_unreadable", "neither PNG nor JPEG")
    rows, columns = film.codes.shape
    if (rows, columns) != (frame.height, frame.width):
        raise Reject("mask_unreadable", f"{columns} x {rows} pixels, unlike its picture")
    highest = 127 if path.suffix.lower() in JPEG_ENDINGS else 0
    return fitted_png(film.codes > highest, frame)


def fitted_png(region_HW: np.ndarray, frame: Frame) -> bytes:
    """Return a region [H, W] of the original as a PNG of 0 and 255 that covers its picture."""
    fit = plan_fit(frame.height, frame.width, size=frame.size, fit=frame.fit)
    marked_HW = region_HW.astype(np.uint8) * np.uint8(MARKED)
    share_HW = resize(marked_HW, height=fit.inner[0], width=fit.inner[1])
    least = max(1, min(int(share_HW.max()), MARKED // 2 + 1))
    inner_HW = np.where(share_HW >= least, np.uint8(MARKED), np.uint8(0))
    return encode_png(np.ascontiguousarray(place(inner_HW, fit)))


def draw_runs(mask: Runs) -> np.ndarray:
    """Return the region of run lengths, bool [H, W].

    Raises Reject for a row that is not pairs of an offset and a length above 0, or that leaves
    the picture. Encoding: the challenge's page, SIIM-ACR Pneumothorax Segmentation, Evaluation.
    """
    pixels = np.zeros(mask.height * mask.width, bool)
    for row in mask.rows:
        if not re.fullmatch(r"\s*\d{1,9}(\s+\d{1,9})*\s*", row, re.ASCII):
            raise Reject("mask_unreadable", "run lengths are not whole numbers")
        numbers = [int(text) for text in row.split()]
        if len(numbers) % 2:
            raise Reject("mask_unreadable", "an odd count of run lengths")
        end = 0
        for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
            begin, end = end + offset, end + offset + length
            if length == 0 or end > pixels.size:
                raise Reject("mask_unreadable", "a run is empty or beyond the picture")
            pixels[begin:end] = True
    return pixels.reshape(mask.width, mask.height).T


def runs_of(region_HW: np.ndarray) -> str:
    """Return a region as SIIM-ACR writes it: pairs of offset and length, down the columns."""
    flat = np.concatenate([[False], region_HW.T.reshape(-1), [False]])
    begins, ends = np.flatnonzero(flat[1:] & ~flat[:-1]), np.flatnonzero(~flat[1:] & flat[:-1])
    offsets = begins - np.concatenate([[0], ends[:-1]])
    return " ".join(f"{a} {b}" for a, b in zip(offsets, ends - begins, strict=True))


def draw_shapes(shapes: tuple[Shape, ...], height: int, width: int) -> np.ndarray:
    """Return the joined region of shapes, bool [H, W], cut at the picture's borders.

    Where the outline of a polygon crosses itself, what lies inside twice is outside.
    """
    region_HW = np.zeros((height, width), bool)
    for shape in shapes:
        left, top, right, bottom = shape.bounds
        columns = slice(_clamp(math.floor(left), width), _clamp(math.ceil(right), width))
        rows = slice(_clamp(math.floor(top), height), _clamp(math.ceil(bottom), height))
        x_Q = np.arange(columns.start, columns.stop) + 0.5
        y_P = np.arange(rows.start, rows.stop) + 0.5
        region_HW[rows, columns] |= _inside(shape, x_Q, y_P)
    return region_HW


def _clamp(value: int, side: int) -> int:
    return min(max(value, 0), side)


def _inside(shape: Shape, x_Q: np.ndarray, y_P: np.ndarray) -> np.ndarray:
    """Return which points of a grid lie inside a shape, bool [P, Q]."""
    if shape.kind == "polygon":
        return _inside_polygon(shape, x_Q, y_P)
    left, top, right, bottom = shape.bounds
    if shape.kind == "rectangle":
        return ((y_P >= top) & (y_P < bottom))[:, None] & ((x_Q >= left) & (x_Q < right))[None]
    across_Q = (2 * x_Q - left - right) / max(right - left, 1e-9)
    down_P = (2 * y_P - top - bottom) / max(bottom - top, 1e-9)
    return np.asarray(across_Q[None] ** 2 + down_P[:, None] ** 2 <= 1)


def _inside_polygon(shape: Shape, x_Q: np.ndarray, y_P: np.ndarray) -> np.ndarray:
    """Count, for each point of the grid, the edges to the left of it: an odd count is inside."""
    odd_PQ = np.zeros((len(y_P), len(x_Q) + 1), bool)
    corners = list(zip(shape.points[::2], shape.points[1::2], strict=True))
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        low, high = min(y1, y2), max(y1, y2)
        rows = np.arange(*np.searchsorted(y_P, [low, high]))
        if not len(rows):
            continue
        x_edge = x1 + (y_P[rows] - y1) * (x2 - x1) / (y2 - y1)
        odd_PQ[rows, np.searchsorted(x_Q, x_edge)] ^= True
    return np.logical_xor.accumulate(odd_PQ[:, :-1], axis=1)
