"""A frame decoded at a half, a quarter or an eighth of its sides, for `--decode fast`.

JPEG scales in its DCT, which is the mean of blocks to a fraction of a level. JPEG 2000 leaves out
its finest wavelet bands; what remains is centred up to half an output pixel up and left, since
the low band samples every other pixel rather than the middle of each pair. Both always use the
same decoder, so that bytes never differ between machines.

Sources: ITU-T T.800 A.5.1 (SIZ) and A.6.1 (COD).

Axes: H rows, W columns, all of the reduced picture.
"""

from __future__ import annotations

import struct
from io import BytesIO

import cv2
import numpy as np

from .header import BASELINE, JPEG_2000, PixelHeader

MOST_HALVINGS = 3  # what libjpeg-turbo can
REDUCED = {
    1: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    3: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
START, COD, FIRST_TILE = b"\xff\x4f\xff\x51", 0xFF52, 0xFF90
SIGN_AND_DEPTH = 42  # where SIZ tells sign and depth of the first component
LEVELS = 9  # where COD tells the number of halvings, from its marker


def reduced_codes(stream: bytes, header: PixelHeader, *, halvings: int) -> np.ndarray | None:
    """Return a checked gray stream as codes [H, W], halved that often or, if it must, less.

    None for a stream without lower resolutions, which is then decoded whole. The decoders' own
    errors pass through.
    """
    if header.samples != 1:
        return None
    if header.syntax == BASELINE and header.allocated == 8:
        return reduced_jpeg(stream, halvings=halvings)
    if header.syntax in JPEG_2000:
        return _reduced_j2k(stream, header, halvings=halvings)
    return None


def reduced_jpeg(stream: bytes | memoryview, *, halvings: int) -> np.ndarray:
    """Return the luminance of a JPEG of 8 bits; ValueError when OpenCV cannot decode it."""
    flags = REDUCED[halvings] | cv2.IMREAD_IGNORE_ORIENTATION
    gray_HW: np.ndarray | None = cv2.imdecode(np.frombuffer(stream, np.uint8), flags)
    if gray_HW is None:
        raise ValueError("no picture")
    return gray_HW


def _reduced_j2k(stream: bytes, header: PixelHeader, *, halvings: int) -> np.ndarray | None:
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile  # only `--decode fast` pays for it

    halvings = min(halvings, _j2k_levels(stream))
    depth = (stream[SIGN_AND_DEPTH] & 0x7F) + 1
    signed = bool(stream[SIGN_AND_DEPTH] & 0x80)
    if halvings == 0 or signed != header.signed:
        return None
    image = Jpeg2KImageFile(BytesIO(stream))
    image.reduce = halvings
    # Pillow rounds the halved sides where JPEG 2000 rounds up, and then lacks a row
    image._size = (_up(header.columns, halvings), _up(header.rows, halvings))
    pixels_HW = np.asarray(image)
    if pixels_HW.ndim != 2 or pixels_HW.dtype not in (np.uint8, np.uint16):
        return None
    # Pillow shifts to the top of 8 or 16 bits, and makes signed values unsigned
    codes_HW = (pixels_HW >> (8 * pixels_HW.itemsize - depth)).astype(np.int32)
    if signed:
        codes_HW += (1 << (header.stored - 1)) - (1 << (depth - 1))
    top = (1 << header.stored) - 1
    return codes_HW.clip(0, top).astype(np.uint8 if header.stored <= 8 else np.uint16)


def _up(side: int, halvings: int) -> int:
    """Return the side as a multiple of what it is divided by."""
    return -(-side >> halvings) << halvings


def _j2k_levels(stream: bytes) -> int:
    """Return how often a bare codestream can be halved; 0 when its main header does not say."""
    position = 2
    while stream.startswith(START) and position + LEVELS < len(stream):
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == COD:
            return stream[position + LEVELS]
        if marker == FIRST_TILE:
            break
        position += 2 + length
    return 0
