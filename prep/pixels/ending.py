"""Whether a file ends where its header says, told without decoding or reading all of it."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from ...contract import Reject
from .codecs.stream import has_end, items
from .dicom import BIG, DEFLATED, IMPLICIT, SYNTAXES
from .elements import UNDEFINED, is_dicom, quietly, read_header, transfer_syntax
from .picture import JPEG_MARK, PNG_MARK, png_orientation

ROWS = 0x00280010  # any tag of the header, which is read as far as the pixel data
TAIL = 4096  # bytes that are looked at for a JPEG's end marker


def check_ending(path: Path) -> None:
    """Reject a DICOM, PNG or JPEG file whose header cannot be walked, or that is cut off.

    Packed and deflated files are not opened up, nor are compressed streams looked into: what is
    wrong inside them shows when they are decoded. Raises Reject; an empty file passes.
    """
    if path.stat().st_size == 0:
        return
    data = np.memmap(path, np.uint8, "r").data
    if is_dicom(data):
        _check_dicom(data)
    elif data[: len(PNG_MARK)] == PNG_MARK:
        png_orientation(data)  # which walks all chunks
    elif data[: len(JPEG_MARK)] == JPEG_MARK and not has_end(bytes(data[-TAIL:])):
        raise Reject("truncated", "the JPEG has no end marker")


def _check_dicom(data: memoryview) -> None:
    syntax, start = transfer_syntax(data)
    if syntax not in SYNTAXES:
        raise Reject("syntax_unsupported")
    if syntax == DEFLATED:
        return
    with quietly("header_unreadable"):
        _, pixels = read_header(
            data, start, implicit=syntax == IMPLICIT, little=syntax != BIG, wanted=[ROWS]
        )
    if pixels is None:
        raise Reject("no_pixels")
    end = pixels.position + pixels.length
    if pixels.length == UNDEFINED:
        deque(items(data[pixels.position :]), maxlen=0)  # walked, not kept
    elif end > len(data):
        raise Reject("truncated", "the pixel data is longer than the file")
