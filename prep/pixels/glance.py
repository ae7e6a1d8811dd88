"""A file as it is stored, small: its grey levels before rescale, window and inversion.

Axes: H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...contract import Reject
from .png import PixelOptions, plan_fit, resize

QUALITY = 80  # of the JPEG


@dataclass(frozen=True, kw_only=True)
class Glance:
    """A small JPEG of the stored values, and whether the header asks for their inversion."""

    jpeg: bytes
    inverted: bool


def glance_at(path: Path, side: int) -> Glance:
    """Return a file's stored values, its longest side `side`; 8 bits as they are.

    More bits are shown from the lowest value to the highest. Raises Reject where no picture can
    be decoded, or where text may be burned into it.
    """
    from .picture import read_film

    try:
        film, _ = read_film(path, PixelOptions(size=side, any_modality=True, decode="fast"))
        inner = plan_fit(*film.codes.shape, size=side, fit="pad").inner
        small_HW = resize(film.codes, height=inner[0], width=inner[1])
    except MemoryError:
        raise Reject("decoder_memory") from None
    except cv2.error:
        raise Reject("decode_failed") from None
    if film.bits > 8:
        levels_HW = small_HW.astype(np.float64) - small_HW.min()
        small_HW = (levels_HW * (255 / max(float(levels_HW.max()), 1.0))).astype(np.uint8)
    _, jpeg = cv2.imencode(".jpg", small_HW, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return Glance(jpeg=bytes(jpeg), inverted=film.inverted)
