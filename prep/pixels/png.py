"""From a film to a PNG: normalized, fitted to the size, encoded, with its geometry.

Axes: H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from ...contract import Reject, UsageError
from ...files import blake3_hex
from .codecs.reduced import MOST_HALVINGS
from .grey import Film, develop

FITS = ("pad", "crop", "stretch")
NORMS = ("auto", "mimic", "window", "minmax", "dicom", "none")
DECODES = ("exact", "fast")
SIZES = (16, 8192)  # smallest and largest side of an output picture
ENOUGH = 1.4  # pixels for each output pixel after the first of two shrinking steps
LARGEST = 1 << 28  # pixels of a picture after resampling, before a crop

# rows as differences from the row above: 1 to 3 % larger than filter AVG on radiographs of 256 and
# 512 px, but shards/reading/png.py reads them in a third of the time
PNG = (
    (cv2.IMWRITE_PNG_COMPRESSION, 1),
    (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
PNG_SETTINGS = [number for pair in PNG for number in pair]


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """How pictures are made; UsageError for a combination that cannot be.

    `norm` auto is minmax, but none for 8-bit PNG and JPG written with 8 bits.
    """

    size: int = 256  # longest side (pad), shortest side (crop), both sides (stretch); 0 keeps it
    fit: str = "pad"
    norm: str = "auto"
    bits: int = 8
    decode: str = "exact"  # fast: at a lower resolution where that is well above the size
    any_modality: bool = False
    allow_burned_in: bool = False
    deidentified: bool = True  # else every DICOM file must be marked as such

    def __post_init__(self) -> None:
        if self.size and not SIZES[0] <= self.size <= SIZES[1]:
            raise UsageError(
                f"--size {self.size} is neither 0 nor in {SIZES[0]}..{SIZES[1]}",
                todo="0 keeps each picture's own size",
            )
        if self.fit not in FITS:
            raise UsageError(f"--fit {self.fit!r} is not one of {', '.join(FITS)}")
        if self.norm not in NORMS:
            raise UsageError(f"--norm {self.norm!r} is not one of {', '.join(NORMS)}")
        if self.decode not in DECODES:
            raise UsageError(f"--decode {self.decode!r} is not one of {', '.join(DECODES)}")
        if self.bits not in (8, 16):
            raise UsageError(f"--bits {self.bits} is not 8 or 16")
        if self.bits == 16 and self.norm in ("mimic", "none"):
            raise UsageError(
                f"--norm {self.norm} is defined on 8 bits, not on --bits 16",
                todo="take --bits 8, or --norm minmax, window or dicom",
            )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished PNG with its geometry: x_out = x_src * scale_x + offset_x, and so for y.

    Source coordinates are those after the EXIF orientation; negative offsets are crops.
    """

    png: bytes
    height: int
    width: int
    bits: int
    source_height: int
    source_width: int
    orientation: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    norm: str
    png_blake3: str
    pixel_blake3: str
    view: str | None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Where a resampled picture of `inner` rows and columns lies in one of `outer`."""

    inner: tuple[int, int]
    outer: tuple[int, int]

    @property
    def offset(self) -> tuple[int, int]:
        """Rows above and columns left of the picture; negative where it is cropped."""
        (height, width), (rows, columns) = self.inner, self.outer
        return _half(rows - height), _half(columns - width)


def plan_fit(height: int, width: int, *, size: int, fit: str) -> Fit:
    """Return how a picture of that size is resampled and placed; Reject when it grows too large."""
    if size == 0:
        return Fit(inner=(height, width), outer=(height, width))
    if fit == "stretch":
        return Fit(inner=(size, size), outer=(size, size))
    side = max(height, width) if fit == "pad" else min(height, width)
    inner = _rounded(height * size, side), _rounded(width * size, side)
    if inner[0] * inner[1] > LARGEST:
        raise Reject("bad_dimensions", "too elongated for fit `crop` at this size")
    return Fit(inner=inner, outer=(size, size))


def halvings(height: int, width: int, *, options: PixelOptions) -> int:
    """Return how often a picture of that size may be halved while it is decoded: 0 if `exact`."""
    if options.decode == "exact":
        return 0
    inner = plan_fit(height, width, size=options.size, fit=options.fit).inner
    needed = max(inner[0] / height, inner[1] / width) * ENOUGH
    return max(n for n in range(MOST_HALVINGS + 1) if n == 0 or needed <= 1 / (1 << n))


def render(film: Film, options: PixelOptions, *, norm: str) -> Picture:
    """Return the film as a PNG, normalized by `norm` (never `auto`); Reject when it is blank."""
    height, width = film.source or film.codes.shape
    fit = plan_fit(height, width, size=options.size, fit=options.fit)
    resample = partial(resize, height=fit.inner[0], width=fit.inner[1])
    inner_HW = develop(film, norm=norm, bits=options.bits, resample=resample)
    picture_HW = place(inner_HW, fit)
    if any(part.min() == part.max() for part in (inner_HW, picture_HW)):
        raise Reject("blank_picture", "after normalization")
    png = encode_png(picture_HW)
    return Picture(
        png=png,
        height=picture_HW.shape[0],
        width=picture_HW.shape[1],
        bits=options.bits,
        source_height=height,
        source_width=width,
        orientation=film.orientation,
        scale_x=fit.inner[1] / width,
        scale_y=fit.inner[0] / height,
        offset_x=float(fit.offset[1]),
        offset_y=float(fit.offset[0]),
        norm=norm,
        png_blake3=blake3_hex(png),
        pixel_blake3=blake3_hex(np.ascontiguousarray(picture_HW).tobytes()),
        view=film.view,
    )


def resize(gray_HW: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Return the picture resampled by area where it shrinks and linearly where it grows.

    Shrinking goes in two steps, first by an integer that divides the side exactly, which costs a
    third of a fractional step over the whole picture. The two differ by 0.1 to 0.7 of the 255
    levels (root mean square, on radiographs of 1 to 7 megapixels to 224..512).
    """
    rows, columns = gray_HW.shape
    first = rows // _divisor(rows, height), columns // _divisor(columns, width)
    second = min(rows, height), min(columns, width)
    gray_HW = _scale(gray_HW, first, cv2.INTER_AREA)
    gray_HW = _scale(gray_HW, second, cv2.INTER_AREA)
    return _scale(gray_HW, (height, width), cv2.INTER_LINEAR)


def place(inner_HW: np.ndarray, fit: Fit) -> np.ndarray:
    """Return the picture centred in black, or cut to the middle, as `fit` says."""
    if fit.inner == fit.outer:
        return inner_HW
    (rows, columns), (top, left) = fit.outer, fit.offset
    inner_HW = inner_HW[max(-top, 0) :, max(-left, 0) :][:rows, :columns]
    outer_HW = np.zeros(fit.outer, inner_HW.dtype)
    top, left = max(top, 0), max(left, 0)
    outer_HW[top : top + inner_HW.shape[0], left : left + inner_HW.shape[1]] = inner_HW
    return outer_HW


def encode_png(array_HW: np.ndarray) -> bytes:
    """Return a gray uint8 or uint16 array [H, W] as PNG: level 1, RLE, filter UP."""
    done, data = cv2.imencode(".png", array_HW, PNG_SETTINGS)
    if not done:
        raise ValueError("OpenCV cannot encode this array as PNG")
    return bytes(data)


def _scale(gray_HW: np.ndarray, shape: tuple[int, int], filter_: int) -> np.ndarray:
    if gray_HW.shape == shape:
        return gray_HW
    scaled_HW: np.ndarray = cv2.resize(gray_HW, shape[::-1], interpolation=filter_)
    return scaled_HW


def _divisor(side: int, target: int) -> int:
    """Return the largest integer that divides `side` exactly into `target`, or well above it."""
    for n in range(side // target, 1, -1):
        if side % n == 0 and (side == n * target or side >= n * target * ENOUGH):
            return n
    return 1


def _rounded(product: int, side: int) -> int:
    return max((2 * product + side) // (2 * side), 1)


def _half(difference: int) -> int:
    """Return half a difference, rounded towards zero, so that pad and crop are alike."""
    return difference // 2 if difference >= 0 else -(-difference // 2)
