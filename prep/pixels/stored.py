"""Stored pixels of a DICOM file as unsigned codes: mapped, or decoded after their checks.

Axes: H rows, W columns, C colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, get_decoder

from ...contract import Reject
from .elements import UNDEFINED, PixelPlace
from .grey import Film, plain_film
from .stream import StreamFacts, check_rle, check_stream, fragments, j2k_facts, jpeg_facts

PREFIX = "1.2.840.10008.1.2"
NATIVE = frozenset((PREFIX, f"{PREFIX}.1", f"{PREFIX}.1.99", f"{PREFIX}.2"))
BIG_ENDIAN, RLE = f"{PREFIX}.2", f"{PREFIX}.5"
# lossy decoders overshoot the stored range and are clipped to it; elsewhere bits above it are
# not part of the picture and are masked
LOSSY = frozenset(f"{PREFIX}.4.{end}" for end in ("50", "51", "81", "91", "203"))
GRAY = frozenset(("MONOCHROME1", "MONOCHROME2"))
COLORS = frozenset(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"))
PALETTE = "PALETTE COLOR"
SLACK = 1024  # bytes that native pixel data may be longer than its picture; some writers pad


@dataclass(frozen=True, kw_only=True)
class PixelHeader:
    """How the header describes the pixels."""

    syntax: str
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    planar: int

    @property
    def is_color(self) -> bool:
        """RGB, YBR or palette."""
        return self.photometric not in GRAY

    @property
    def lowest(self) -> int:
        """The smallest value the stored bits can have, which is code 0."""
        return -(1 << (self.stored - 1)) if self.signed else 0

    def code_of(self, value: int) -> int:
        """Return the code of a stored value, whatever sign its element's VR gave it."""
        value %= 1 << self.allocated
        if self.signed and value >> (self.allocated - 1):
            value -= 1 << self.allocated
        return value - self.lowest

    def check(self, *, high_bit: object, representation: int) -> None:
        """Refuse bit depths, signs and colours that are no picture of ours: Reject bad_bits."""
        if self.allocated not in (8, 16) or not 1 <= self.stored <= self.allocated:
            raise Reject("bad_bits", "bits allocated or stored")
        if representation not in (0, 1) or (self.signed and self.is_color):
            raise Reject("bad_bits", "pixel representation")
        single = self.photometric in GRAY or self.photometric == PALETTE
        if self.samples != (1 if single else 3) or not (single or self.photometric in COLORS):
            raise Reject("bad_bits", "samples a pixel or photometric interpretation")
        if self.planar not in (0, 1):
            raise Reject("bad_bits", "planar configuration")
        # left-aligned native pixels are read wrongly by every reader that takes the low bits
        if self.syntax in NATIVE and high_bit not in (None, self.stored - 1):
            raise Reject("bad_bits", "high bit")


def stored_codes(data: memoryview, pixels: PixelPlace, header: PixelHeader) -> np.ndarray:
    """Return the pixels as codes in [0, 2**stored), [H, W] or [H, W, C].

    Raises Reject truncated, stream_mismatch or multi_frame; the decoders' own errors pass through.
    """
    if header.syntax not in NATIVE:
        raw = _decode_stream(data[pixels.position :], header)
    elif header.samples == 1 and header.syntax != BIG_ENDIAN:
        raw = _mapped(_native(data, pixels, header), header)
    else:
        raw = _decode(bytes(_native(data, pixels, header)), header, pixel_vr=pixels.vr or "OW")
    return _as_codes(raw, header)


def to_gray(codes: np.ndarray, header: PixelHeader, dataset: Any, *, view: str | None) -> Film:
    """Return the film of a colour picture by its luminance (ITU-R BT.601), overlays ignored.

    A palette is applied to its indices, not to the picture. Windows and rescale are not defined
    for colour and left out.
    """
    if header.photometric == PALETTE:
        colors_KC = apply_color_lut(np.arange(1 << header.stored, dtype=np.uint16), dataset)
        gray_K = cv2.cvtColor(np.ascontiguousarray(colors_KC[:, None, :3]), cv2.COLOR_RGB2GRAY)
        gray_HW = gray_K[:, 0][codes]
        return plain_film(gray_HW, bits=gray_HW.dtype.itemsize * 8, view=view)
    gray_HW = cv2.cvtColor(np.ascontiguousarray(codes), cv2.COLOR_RGB2GRAY)
    return plain_film(gray_HW, bits=header.stored, view=view)


def _native(data: memoryview, pixels: PixelPlace, header: PixelHeader) -> memoryview:
    """Return the bytes of uncompressed pixel data; Reject when too few or far too many."""
    samples = 2 if header.photometric == "YBR_FULL_422" else header.samples
    expected = header.rows * header.columns * samples * header.allocated // 8
    position, length = pixels.position, pixels.length
    if length == UNDEFINED:
        raise Reject("stream_mismatch", "uncompressed pixel data of undefined length")
    if min(length, len(data) - position) < expected:
        raise Reject("truncated", "the pixel data is shorter than rows and columns say")
    if length > expected + max(SLACK, expected // 100):
        raise Reject("stream_mismatch", "the pixel data is longer than rows and columns say")
    return data[position : position + length]


def _mapped(native: memoryview, header: PixelHeader) -> np.ndarray:
    """Return little-endian gray pixels without copying them."""
    dtype = np.dtype("<u2" if header.allocated == 16 else "u1")
    raw = np.frombuffer(native, dtype, count=header.rows * header.columns)
    raw_HW = raw.reshape(header.rows, header.columns)
    return raw_HW if raw_HW.flags.aligned else raw_HW.copy()


def _decode_stream(data: memoryview, header: PixelHeader) -> np.ndarray:
    """Check the compressed stream against the header, then decode it."""
    stream = fragments(data)
    facts = StreamFacts(
        rows=header.rows, columns=header.columns, samples=header.samples, bits=header.stored
    )
    if header.syntax == RLE:
        check_rle(stream, header=facts, allocated=header.allocated)
    else:
        found = (j2k_facts if _is_j2k(header.syntax) else jpeg_facts)(stream)
        check_stream(stream, found, header=facts, allocated=header.allocated)
    return _decode(encapsulate([stream], has_bot=False), header)


def _is_j2k(syntax: str) -> bool:
    return syntax.removeprefix(f"{PREFIX}.4.") in ("90", "91", "201", "202", "203")


def _decode(source: bytes, header: PixelHeader, **more: str) -> np.ndarray:
    """Return what pydicom decodes; always the same plugin, so that bytes never differ."""
    array, _ = get_decoder(header.syntax).as_array(
        source,
        decoding_plugin="" if header.syntax in NATIVE else "pylibjpeg",
        rows=header.rows,
        columns=header.columns,
        number_of_frames=1,
        samples_per_pixel=header.samples,
        bits_allocated=header.allocated,
        bits_stored=header.stored,
        pixel_representation=int(header.signed),
        photometric_interpretation=header.photometric,
        planar_configuration=header.planar,
        pixel_keyword="PixelData",
        allow_excess_frames=False,
        correct_unused_bits=False,
        **more,
    )
    shape = (header.rows, header.columns, 3)[: 2 if header.samples == 1 else 3]
    if math.prod(array.shape) != math.prod(shape):
        raise Reject("stream_mismatch", "the decoded picture has another size")
    native: np.ndarray = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.reshape(shape)


def _as_codes(raw: np.ndarray, header: PixelHeader) -> np.ndarray:
    """Return codes: bits above those stored are masked (clipped if lossy), the sign is folded."""
    top = (1 << header.stored) - 1
    if header.syntax in LOSSY:
        codes = (raw.astype(np.int32) - header.lowest).clip(0, top)
    elif header.signed or (header.stored < header.allocated and raw.max() > top):
        unsigned: np.ndarray = raw.view(np.uint8 if raw.itemsize == 1 else np.uint16)
        codes = (unsigned & top) ^ -header.lowest
    else:
        codes = raw
    return np.ascontiguousarray(codes, np.uint8 if header.stored <= 8 else np.uint16)
