"""Grey levels: from a film as it is stored to one look-up table for the whole picture.

Stored values are kept as codes, code = stored value - `lowest`, so that every film is unsigned
and every step from rescale to inversion is a table with 2**bits entries.

Axes: H rows, W columns, K codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ...contract import Reject

Resample = Callable[[np.ndarray], np.ndarray]

EXACT_COUNT = 1 << 24  # cv2 returns counts as float32, exact up to here
TAIL = 5  # of 1000 pixels left out at either end by the percentile window
LEAST = 0.01  # a window that shows less of the pixels, or of the grey scale, is not believed


@dataclass(frozen=True, kw_only=True)
class Film:
    """A gray picture as stored, before normalization, with what its header says of grey levels."""

    codes: np.ndarray  # [H, W] uint8 or uint16, each in [0, 2**bits)
    bits: int
    lowest: int = 0  # stored value of code 0
    values: np.ndarray  # [K] float64, after modality rescale or LUT
    shown: np.ndarray | None = None  # [K] float64 in 0..1 after VOI LUT or window, if any
    monochrome1: bool = False
    inverted: bool = False  # MONOCHROME1, or PresentationLUTShape INVERSE
    padding: tuple[int, int] | None = None  # first and last code that is padding
    view: str | None = None
    orientation: int = 1
    source: tuple[int, int] | None = None  # rows and columns, where `codes` may have fewer

    @property
    def stored(self) -> np.ndarray:
        """The stored values themselves [H, W], before rescale, window and inversion."""
        return self.codes.astype(np.int32) + self.lowest


def plain_film(
    gray_HW: np.ndarray,
    *,
    bits: int,
    orientation: int = 1,
    view: str | None = None,
    source: tuple[int, int] | None = None,
) -> Film:
    """Return a film of a picture without grey-level facts: what you see is what is stored."""
    return Film(
        codes=gray_HW,
        bits=bits,
        values=np.arange(1 << bits, dtype=np.float64),
        orientation=orientation,
        view=view,
        source=source,
    )


def develop(film: Film, *, norm: str, bits: int, resample: Resample) -> np.ndarray:
    """Return the film resampled and normalized to `bits`, white bone on black air.

    Without padding the table is applied after the resampling, which costs a fraction of it.
    Padding must not bleed into its neighbours, and `mimic` is defined on the whole picture:
    there the table comes first. Raises Reject blank_picture, or bad_bits for `none`.
    """
    if norm == "mimic":
        table_K = mimic_table(film, _histogram(film.codes, film.bits))
        return resample(_look_up(table_K, film.codes))
    if film.padding is not None:
        counts_K = _histogram(film.codes, film.bits)
        padding = slice(film.padding[0], film.padding[1] + 1)
        if counts_K[padding].any():
            counts_K[padding] = 0
            table_K = _table(film, _levels(film, norm, counts_K, _ends(counts_K)), bits)
            table_K[padding] = 0  # black whatever was inverted
            return resample(_look_up(table_K, film.codes))
    ends = _code_range(film.codes)
    small_HW = resample(film.codes)
    counts_K = _histogram(small_HW, film.bits)
    return _look_up(_table(film, _levels(film, norm, counts_K, ends), bits), small_HW)


def mimic_table(film: Film, counts_K: np.ndarray) -> np.ndarray:
    """Return the table of the official MIMIC-CXR to JPG conversion, before its JPEG.

    The order is the authors' (MIT-LCP/mimic-cxr issue 16): stored values without rescale and VOI,
    minus their minimum, divided by their maximum, times 255, truncated; complemented for
    MONOCHROME1; histogram equalized. Each step depends on the stored value alone, so the whole is
    one table of the histogram.
    """
    low, high = _ends(counts_K)
    scaled_K = (np.arange(counts_K.size, dtype=np.float64) - low).clip(0) / (high - low)
    bytes_K = (scaled_K * 255).clip(max=255).astype(np.uint8)
    if film.monochrome1:
        bytes_K = ~bytes_K
    counts_256 = np.bincount(bytes_K, weights=counts_K, minlength=256)
    return _equalized(counts_256.astype(np.int64))[bytes_K]


def _equalized(counts_256: np.ndarray) -> np.ndarray:
    """Return OpenCV's equalizing table: cumulative counts above the first level, in float32."""
    first = int(np.flatnonzero(counts_256)[0])
    rest = int(counts_256.sum() - counts_256[first])
    above = np.cumsum(counts_256)
    above = (above - above[first]).clip(0).astype(np.float32)
    levels = np.rint(above * (np.float32(255) / np.float32(rest))).clip(0, 255)
    return np.asarray(levels, dtype=np.uint8)


def _levels(film: Film, norm: str, counts_K: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    """Return the level of each code in 0..1, before inversion; it may exceed that range."""
    if norm == "minmax":
        present = film.values[ends[0] : ends[1] + 1]
        return _stretch(film.values, present.min(), present.max())
    if norm == "window":
        if film.shown is not None and _believable(film.shown, counts_K):
            return film.shown
        return _percentile_window(film.values, counts_K)
    if norm == "dicom":
        if film.shown is not None:
            return film.shown
        return _stretch(film.values, film.values.min(), film.values.max())
    if film.bits != 8 or film.lowest:
        raise Reject("bad_bits", "norm `none` keeps grey levels, so it needs 8 unsigned bits")
    return np.arange(256) / 255


def _believable(shown_K: np.ndarray, counts_K: np.ndarray) -> bool:
    """Tell whether a window shows at least 1 % of the pixels unclipped, on 1 % of the scale."""
    inside = counts_K[(shown_K > 0) & (shown_K < 1)].sum()
    present = shown_K[counts_K > 0]
    return bool(inside >= LEAST * counts_K.sum() and np.ptp(present) >= LEAST)


def _percentile_window(values_K: np.ndarray, counts_K: np.ndarray) -> np.ndarray:
    order = np.argsort(values_K, kind="stable")
    below = np.cumsum(counts_K[order])  # whole numbers, so that no rounding moves the ends
    ends = np.searchsorted(1000 * below, (TAIL * below[-1], (1000 - TAIL) * below[-1]))
    low, high = values_K[order[ends]]
    if low == high:  # all but a few pixels are one value: show those few
        present = values_K[counts_K > 0]
        low, high = present.min(), present.max()
    return _stretch(values_K, low, high)


def _stretch(values_K: np.ndarray, low: float, high: float) -> np.ndarray:
    if not high > low:
        raise Reject("blank_picture", "the rescale of the header makes every pixel equal")
    return (values_K - low) / (high - low)


def _table(film: Film, levels_K: np.ndarray, bits: int) -> np.ndarray:
    """Return the output level of each code; the inversion comes after all else."""
    top = (1 << bits) - 1
    table_K = np.rint(levels_K.clip(0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
    return np.asarray(top - table_K if film.inverted else table_K)


def _look_up(table_K: np.ndarray, codes_HW: np.ndarray) -> np.ndarray:
    size = 256 if codes_HW.dtype == np.uint8 else 65536
    full_K = np.zeros(size, table_K.dtype)
    full_K[: table_K.size] = table_K
    shown_HW: np.ndarray = cv2.LUT(codes_HW, full_K)
    return shown_HW


def _code_range(codes_HW: np.ndarray) -> tuple[int, int]:
    """Return the smallest and largest code; Reject blank_picture when they are one."""
    low, high, _, _ = cv2.minMaxLoc(codes_HW)
    if low == high:
        raise Reject("blank_picture")
    return int(low), int(high)


def _ends(counts_K: np.ndarray) -> tuple[int, int]:
    """Return the first and last code that is there; Reject blank_picture when they are one."""
    present = np.flatnonzero(counts_K)
    if present.size < 2:
        raise Reject("blank_picture")
    return int(present[0]), int(present[-1])


def _histogram(codes_HW: np.ndarray, bits: int) -> np.ndarray:
    """Return the count of every code, as exact float64."""
    rows = max(EXACT_COUNT // codes_HW.shape[1], 1)
    size = 1 << bits
    counts_K = np.zeros(size)
    for top in range(0, codes_HW.shape[0], rows):
        band = codes_HW[top : top + rows]
        counts_K += cv2.calcHist([band], [0], None, [size], [0, size]).ravel()
    return counts_K
