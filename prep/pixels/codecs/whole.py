"""One frame decoded as it is stored: which decoder each transfer syntax gets.

Gray JPEG baseline is read by the libjpeg-turbo inside OpenCV, the inverse DCT of which is the one
of the Independent JPEG Group that DCMTK and Pillow have too. Lossless JPEG, JPEG-LS and lossless
HTJ2K define every bit, so there imagecodecs (extra `fast`), when it is installed, returns the
same pixels in a quarter to a half of the time. All else is pydicom with pylibjpeg; for JPEG 2000
imagecodecs is no faster, being OpenJPEG too.

Axes: H rows, W columns, C colours.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable

import cv2
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from ....contract import Reject
from .header import (
    BASELINE,
    HTJ2K_LOSSLESS,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_LS_NEAR,
    NATIVE,
    PixelHeader,
)

# syntax to the name of imagecodecs' codec and of its function
FASTER = {
    **dict.fromkeys(JPEG_LOSSLESS, ("JPEG8", "jpeg8_decode")),
    **dict.fromkeys((JPEG_LS, JPEG_LS_NEAR), ("JPEGLS", "jpegls_decode")),
    **dict.fromkeys(HTJ2K_LOSSLESS, ("HTJ2K", "htj2k_decode")),
}


def decode_stream(stream: bytes, header: PixelHeader) -> np.ndarray:
    """Return the pixels of a stream that was checked, [H, W] or [H, W, C].

    Raises Reject stream_mismatch; the decoders' own errors pass through.
    """
    pixels: np.ndarray | None = None
    if header.samples == 1 and header.syntax == BASELINE and header.allocated == 8:
        pixels = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise Reject("decode_failed")
    elif header.samples == 1:
        pixels = _by_imagecodecs(stream, header)
    if pixels is None:
        return decode_by_pydicom(encapsulate([stream], has_bot=False), header)
    if pixels.shape != (header.rows, header.columns):
        raise Reject("stream_mismatch", "the decoded picture has another size")
    return pixels


def decode_by_pydicom(source: bytes, header: PixelHeader, **more: str) -> np.ndarray:
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


def _by_imagecodecs(stream: bytes, header: PixelHeader) -> np.ndarray | None:
    """Return the pixels [H, W], or None where this is pydicom's: not installed, or not alike."""
    decode = _faster(header.syntax)
    if decode is None or (header.syntax == JPEG_LS_NEAR and header.signed):
        return None
    pixels = decode(stream)
    # pydicom mends a sign that header and stream do not agree on
    if header.syntax in HTJ2K_LOSSLESS and (pixels.dtype.kind == "i") != header.signed:
        return None
    return pixels


@functools.cache
def _faster(syntax: str) -> Callable[[bytes], np.ndarray] | None:
    if syntax not in FASTER or importlib.util.find_spec("imagecodecs") is None:
        return None
    import imagecodecs

    codec, function = FASTER[syntax]
    if not getattr(imagecodecs, codec).available:  # some builds leave codecs out
        return None
    decode: Callable[[bytes], np.ndarray] = getattr(imagecodecs, function)
    return decode
