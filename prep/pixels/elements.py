"""The elements of a DICOM file, read within bounds: magic, syntax, inflation, header.

Written for files that are made to hurt: endless elements, bombs, lengths beyond the file. pydicom
reads the elements; what bounds them is here. It and its decoders quote header values in messages,
warnings and logs, so all three are shut off.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.filereader import read_dataset

from ...contract import Reject

for _name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "rle"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

MAGIC = 128  # where `DICM` stands
INFLATE_CAP = 256 << 20  # bytes a deflated data set or a gzipped file may grow to
RAW, GZIP = -zlib.MAX_WBITS, zlib.MAX_WBITS | 16  # zlib's names for the two containers
LONGEST = 4 << 20  # bytes of a header element we read; the largest is a VOI LUT
MOST_READS = 200_000  # of pydicom in one header; a film's has a few hundred elements
MOST_META = 256  # elements of the file meta group; a film has about ten
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))


@dataclass(frozen=True, kw_only=True)
class PixelPlace:
    """Where the value of the pixel data starts, its length in bytes and its VR if it has one."""

    position: int
    length: int
    vr: str | None


def is_dicom(data: memoryview) -> bool:
    """Tell whether the mark of DICOM stands at byte 128."""
    return bytes(data[MAGIC : MAGIC + 4]) == b"DICM"


@contextlib.contextmanager
def quietly(reason: str) -> Iterator[None]:
    """Turn any failure of pydicom or a decoder into `reason`, and let none of its words out."""
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except (Reject, MemoryError):
        raise
    except Exception:
        raise Reject(reason) from None
    except BaseException as error:
        # the RLE decoder is Rust, whose panics are no Exception and cannot be imported
        if type(error).__name__ != "PanicException":
            raise
        raise Reject(reason) from None


def transfer_syntax(data: memoryview) -> tuple[str, int]:
    """Return the transfer syntax and where the data set starts; explicit little endian always."""
    position, syntax = MAGIC + 4, ""
    for _ in range(MOST_META):
        if position + 8 > len(data):
            break
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 2:
            break
        position += 8
        if vr in LONG_VRS:
            if position + 4 > len(data):
                raise Reject("truncated", "the file meta information")
            (length,) = struct.unpack_from("<I", data, position)
            position += 4
        if length > len(data) - position:
            raise Reject("truncated", "the file meta information")
        if element == 0x0010:
            syntax = bytes(data[position : position + length]).decode("latin-1").strip("\0 ")
        position += length
    if not syntax:
        raise Reject("header_unreadable", "no transfer syntax")
    return syntax, position


def inflate(data: memoryview, *, window: int, what: str) -> memoryview:
    """Return inflated bytes, under a cap: pydicom itself has none. `window` is RAW or GZIP."""
    inflater = zlib.decompressobj(window)
    try:
        inflated = inflater.decompress(data, INFLATE_CAP)
    except zlib.error:
        raise Reject("header_unreadable", what) from None
    if inflater.unconsumed_tail:
        raise Reject("inflate_too_large", what)
    if not inflater.eof:
        raise Reject("truncated", what)
    return memoryview(inflated)


def read_header(
    data: memoryview, start: int, *, implicit: bool, little: bool, wanted: Sequence[int]
) -> tuple[Any, PixelPlace | None]:
    """Return a pydicom data set of the `wanted` tags, and where the pixels are, if anywhere.

    Raises Reject truncated or header_unreadable, and whatever pydicom raises on broken elements.
    """
    elements = _Elements(data, start)
    guard = _Guard(elements, frozenset(wanted))
    dataset = read_dataset(elements, implicit, little, stop_when=guard, specific_tags=list(wanted))
    return dataset, guard.pixels


class _Elements:
    """The data set as a file for pydicom, which ends a header of endless elements."""

    def __init__(self, data: memoryview, start: int) -> None:
        self.data, self.position, self.reads = data, start, 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise Reject("header_unreadable", "too many elements")
        chunk = bytes(self.data[self.position : self.position + size])
        self.position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, len(self.data))[whence]
        return self.position

    def tell(self) -> int:
        return self.position


class _Guard:
    """Asked by pydicom before it reads an element: stops at the pixels, refuses the impossible."""

    def __init__(self, elements: _Elements, wanted: frozenset[int]) -> None:
        self.elements, self.wanted = elements, wanted
        self.pixels: PixelPlace | None = None

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        position = self.elements.position
        if tag == PIXEL_DATA:
            self.pixels = PixelPlace(position=position, length=length, vr=vr)
            return True
        if length == UNDEFINED:
            return False
        if length > len(self.elements.data) - position:
            raise Reject("truncated", "an element of the header is longer than the file")
        if tag in self.wanted and length > LONGEST:
            raise Reject("header_unreadable", "an element is too long")
        return False
