"""Any supported file as a picture, known by its first bytes: DICOM, PNG, JPEG, or one gzipped."""

from __future__ import annotations

import mmap
import stat
import struct
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ...contract import Reject
from .codecs.reduced import reduced_jpeg
from .codecs.stream import has_end, jpeg_facts
from .dicom import SIDES, read_dicom
from .elements import GZIP, inflate, is_dicom
from .grey import Film, plain_film
from .png import Picture, PixelOptions, halvings, render

__all__ = ["Picture", "PixelOptions", "convert", "read_film"]

LARGEST = 256 << 20  # bytes of a file
PNG_MARK, JPEG_MARK, GZIP_MARK = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b"
EXIF_MARK = b"Exif\0\0"
ORIENTATION = 0x0112  # tag of the EXIF orientation
DICOM_ENDINGS = (".dcm", ".dicom", ".dic")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")


def convert(path: Path, options: PixelOptions) -> Picture:
    """Return the picture of a file: read, checked, normalized, fitted, encoded.

    Raises Reject with a reason code, and nothing else, whatever the file holds.
    """
    try:
        film, raster = read_film(path, options)
        norm = options.norm
        if norm == "auto":
            norm = "none" if raster and film.bits == options.bits == 8 else "minmax"
        return render(film, options, norm=norm)
    except MemoryError:
        raise Reject("decoder_memory") from None
    except cv2.error as error:
        memory = error.code == cv2.Error.StsNoMem
        raise Reject("decoder_memory" if memory else "decode_failed") from None


def read_film(path: Path, options: PixelOptions) -> tuple[Film, bool]:
    """Return a file's film before normalization, and whether it is a PNG or JPEG; or Reject."""
    data = _bytes_of(path)
    if bytes(data[:2]) == GZIP_MARK:
        data = inflate(data, window=GZIP, what="the gzip stream")
    if is_dicom(data):
        film = read_dicom(
            data,
            any_modality=options.any_modality,
            allow_burned_in=options.allow_burned_in,
            deidentified=options.deidentified,
            halvings=partial(halvings, options=options),
        )
        return film, False
    if bytes(data[:8]) == PNG_MARK:
        return _raster(data, png_orientation(data)), True
    if bytes(data[:3]) == JPEG_MARK:
        return _jpeg(data, options), True
    raise _unknown(path, data)


def _bytes_of(path: Path) -> memoryview:
    """Return a regular file's bytes, mapped; nothing is opened that could block."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Reject("not_a_picture", "not a regular file")
        if status.st_size == 0:
            raise Reject("file_empty")
        if status.st_size > LARGEST:
            raise Reject("file_too_large")
        with path.open("rb") as handle:
            return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):
        raise Reject("file_missing", "not there, or not readable") from None


def _unknown(path: Path, data: memoryview) -> Reject:
    """Return why a file without a known mark is left out: damaged, or of another kind.

    A file without an ending is DICOM without its preamble if it is binary, and text otherwise.
    """
    endings = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    if any(ending in DICOM_ENDINGS for ending in endings):
        return Reject("not_dicom")
    if any(ending in PICTURE_ENDINGS for ending in endings):
        return Reject("header_unreadable", "neither PNG nor JPEG by its first bytes")
    if not endings and b"\0" in bytes(data[:1024]):
        return Reject("not_dicom")
    return Reject("not_a_picture")


def _raster(data: memoryview, orientation: int) -> Film:
    """Return the film of a checked PNG or JPEG; colour becomes gray, alpha is dropped."""
    flags = cv2.IMREAD_UNCHANGED  # keeps 16 bits and leaves the orientation to us
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise Reject("decode_failed")
    if image.ndim == 3:
        codes = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
        image = cv2.cvtColor(image, codes[image.shape[2]])
    gray_HW = np.ascontiguousarray(upright(image, orientation))
    return plain_film(gray_HW, bits=gray_HW.itemsize * 8, orientation=orientation)


def upright(gray_HW: np.ndarray, orientation: int) -> np.ndarray:
    """Return a picture turned as its EXIF orientation 1-8 says (CIPA DC-008, 4.6.4)."""
    if orientation >= 5:
        gray_HW = gray_HW.T
    if orientation in (3, 4, 7, 8):
        gray_HW = gray_HW[::-1]
    return gray_HW[:, ::-1] if orientation in (2, 3, 6, 7) else gray_HW


def png_orientation(data: memoryview) -> int:
    """Walk a PNG's chunks: check size and end, return the EXIF orientation."""
    position, orientation, kind = 8, 1, b""
    while position + 12 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        if length > len(data) - position - 12:
            raise Reject("truncated", "a PNG chunk is longer than the file")
        if kind == b"IHDR" and length == 13:
            _check_sides(*struct.unpack_from(">II", data, position + 8))
        if kind == b"eXIf":
            orientation = _orientation(bytes(data[position + 8 : position + 8 + length]))
        position += 12 + length
    if kind != b"IEND":
        raise Reject("truncated", "the PNG has no end")
    return orientation


def _jpeg(data: memoryview, options: PixelOptions) -> Film:
    """Return the film of a JPEG, its size and end checked before it is decoded."""
    stream = bytes(data)
    facts = jpeg_facts(stream)
    if facts is None:
        raise Reject("header_unreadable", "the JPEG has no frame header")
    _check_sides(facts.columns, facts.rows)
    if not has_end(stream):
        raise Reject("truncated", "the JPEG has no end marker")
    orientation = _jpeg_orientation(stream)
    sides = (facts.rows, facts.columns) if orientation < 5 else (facts.columns, facts.rows)
    times = halvings(*sides, options=options)
    if times == 0:
        return _raster(data, orientation)
    try:
        gray_HW = upright(reduced_jpeg(stream, halvings=times), orientation)
    except ValueError:
        raise Reject("decode_failed") from None
    gray_HW = np.ascontiguousarray(gray_HW)
    return plain_film(gray_HW, bits=8, orientation=orientation, source=sides)


def _jpeg_orientation(stream: bytes) -> int:
    """Return the orientation of a JPEG's first EXIF segment."""
    position = 2
    while position + 10 <= len(stream) and stream[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", stream, position + 1)
        if marker == 0xE1 and stream.startswith(EXIF_MARK, position + 4):
            return _orientation(stream[position + 10 : position + 2 + length])
        if marker == 0xDA:
            break
        position += 2 + length
    return 1


def _orientation(exif: bytes) -> int:
    """Return the orientation in a TIFF block's first directory, 1 when it has no valid one."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * entries, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
        if tag == ORIENTATION and 1 <= value <= 8:
            return int(value)
    return 1


def _check_sides(width: int, height: int) -> None:
    if not all(SIDES[0] <= side <= SIDES[1] for side in (width, height)):
        raise Reject("bad_dimensions")
