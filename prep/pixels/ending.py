"""Whether a file ends where its header says, told without decoding or reading all of it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ...contract import Reject
from .codecs.stream import DELIMITER, ITEM, has_end
from .dicom import BIG, DEFLATED, IMPLICIT, SYNTAXES
from .elements import UNDEFINED, is_dicom, quietly, read_header, transfer_syntax
from .picture import JPEG_MARK, PNG_MARK

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
        _check_png(data)
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
        _check_items(data, pixels.position)
    elif end > len(data):
        raise Reject("truncated", "the pixel data is longer than the file")


def _check_items(data: memoryview, position: int) -> None:
    """Walk the fragments of encapsulated pixel data by their lengths."""
    while position + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHI", data, position)
        position += 8
        tag = group << 16 | element
        if tag == DELIMITER:
            return
        if tag != ITEM:
            raise Reject("stream_mismatch", "the compressed pixel data is not made of items")
        if length > len(data) - position:
            raise Reject("truncated", "a fragment is longer than the file")
        position += length


def _check_png(data: memoryview) -> None:
    position, kind = len(PNG_MARK), b""
    while position + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    if kind != b"IEND" or position > len(data):
        raise Reject("truncated", "the PNG has no end")
