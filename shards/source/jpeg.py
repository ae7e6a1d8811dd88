"""Pictures written as JPEG: lossy, so that bytes and pixels are no longer those of prep."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...contract import Reject
from ..sample import hash16

QUALITY = 95


def to_jpeg(png: bytes) -> bytes:
    """Return a gray PNG of 8 bits as JPEG; the same bytes with the same version of OpenCV.

    Raises Reject when the picture does not decode.
    """
    return bytes(cv2.imencode(".jpg", _decoded(png), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def picture_columns(jpeg: bytes) -> dict[str, bytes]:
    """Return the columns of the manifest that identify this picture: of its bytes and pixels."""
    return {"png_blake3": hash16(jpeg), "pixel_blake3": hash16(_decoded(jpeg).tobytes())}


def _decoded(data: bytes) -> NDArray[Any]:
    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Reject("sample_damaged", "the picture does not decode")
    return pixels
