"""Stored pixels of a DICOM file as unsigned codes: mapped, or decoded after their checks.

Axes: H rows, W columns, C colours.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pydicom.pixels import apply_color_lut

from ...contract import Reject
from .codecs.header import (
    BIG_ENDIAN,
    JPEG_2000,
    LOSSY,
    NATIVE,
    PALETTE,
    RLE,
    PixelHeader,
)
from .codecs.reduced import reduced_codes
from .codecs.stream import (
    StreamFacts,
    check_rle,
    check_stream,
    fragments,
    j2k_facts,
    jpeg_facts,
)
from .codecs.whole import decode_by_pydicom, decode_stream
from .elements import UNDEFINED, PixelPlace
from .grey import Film, plain_film

SLACK = 1024  # bytes that native pixel data may be longer than its picture; some writers pad


def stored_codes(
    data: memoryview, pixels: PixelPlace, header: PixelHeader, *, halvings: int = 0
) -> np.ndarray:
    """Return the pixels as codes in [0, 2**stored), [H, W] or [H, W, C].

    With `halvings` a compressed picture may be that often halved. Raises Reject truncated,
    stream_mismatch or multi_frame; the decoders' own errors pass through.
    """
    if header.syntax not in NATIVE:
        stream = _checked_stream(data[pixels.position :], header)
        codes = reduced_codes(stream, header, halvings=halvings) if halvings else None
        return _as_codes(decode_stream(stream, header), header) if codes is None else codes
    native = _native(data, pixels, header)
    if header.samples == 1 and header.syntax != BIG_ENDIAN:
        return _as_codes(_mapped(native, header), header)
    raw = decode_by_pydicom(bytes(native), header, pixel_vr=pixels.vr or "OW")
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


def _checked_stream(data: memoryview, header: PixelHeader) -> bytes:
    """Return the compressed stream, which agrees with the header and has an end."""
    stream = fragments(data)
    facts = StreamFacts(
        rows=header.rows, columns=header.columns, samples=header.samples, bits=header.stored
    )
    if header.syntax == RLE:
        check_rle(stream, header=facts, allocated=header.allocated)
    else:
        found = (j2k_facts if header.syntax in JPEG_2000 else jpeg_facts)(stream)
        check_stream(stream, found, header=facts, allocated=header.allocated)
    return stream


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
