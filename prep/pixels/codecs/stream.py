"""Compressed pixel streams, looked at before a decoder is: size, depth, and whether they end.

A truncated JPEG decodes to a picture whose lower half is invented, and a stream that is larger
than its header says costs its own memory, so both are refused here from a few bytes.

Sources of the layouts: DICOM PS3.5 A.4 (items) and G (RLE), ITU-T T.81 B.2 and T.87 C.2 (JPEG,
JPEG-LS frame headers), ITU-T T.800 A.5.1 (JPEG 2000 SIZ).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ....contract import Reject

ITEM, DELIMITER = 0xFFFEE000, 0xFFFEE0DD
# start-of-frame markers: all but DHT, JPG and DAC of C0..CF, and that of JPEG-LS
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a length
RLE_HEADER = 64
RLE_GROWTH = 64  # two bytes of RLE stand for at most 128


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """What a compressed stream says of itself; bits are those of its first component."""

    rows: int
    columns: int
    samples: int
    bits: int


def fragments(data: memoryview) -> bytes:
    """Return the one frame of encapsulated pixel data, its fragments joined.

    `data` starts at the first item. Raises Reject truncated, multi_frame or stream_mismatch.
    """
    parts = list(items(data))
    if len(parts) < 2:
        raise Reject("truncated", "the pixel data has no fragment")
    if len(parts[0]) > 4:
        raise Reject("multi_frame", "the offset table lists several frames")
    return b"".join(parts[1:])


def items(data: memoryview) -> Iterator[memoryview]:
    """Yield the items of encapsulated pixel data, the offset table first; nothing is copied.

    `data` starts at the first item. Raises Reject truncated or stream_mismatch.
    """
    position = 0
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
        yield data[position : position + length]
        position += length


def jpeg_facts(stream: bytes) -> StreamFacts | None:
    """Return the frame header of a JPEG or JPEG-LS stream, None when there is none."""
    if stream[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF or marker in ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", stream, position + 4)
            return StreamFacts(rows=rows, columns=columns, samples=samples, bits=bits)
        (length,) = struct.unpack_from(">H", stream, position + 2)
        position += 2 + length
    return None


def j2k_facts(stream: bytes) -> StreamFacts | None:
    """Return the SIZ segment of a JPEG 2000 stream, bare or in a JP2 box, None without one."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(stream) < start + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
    (samples,) = struct.unpack_from(">H", stream, start + 40)
    bits = (stream[start + 42] & 0x7F) + 1
    return StreamFacts(rows=bottom - top, columns=right - left, samples=samples, bits=bits)


def has_end(stream: bytes) -> bool:
    """Tell whether a JPEG, JPEG-LS or JPEG 2000 stream ends with its end marker (and padding)."""
    return stream[-4096:].rstrip(b"\0\xff").endswith(b"\xff\xd9")


def check_stream(
    stream: bytes, facts: StreamFacts | None, *, header: StreamFacts, allocated: int
) -> None:
    """Refuse a stream without an end, or of another size, depth or colour than the header's.

    `header.bits` is BitsStored, `allocated` BitsAllocated. A lossless JPEG of 16 bits may carry
    12, so a depth between the two is no mismatch.
    """
    if facts is None:
        raise Reject("stream_mismatch", "the stream has no frame header of its syntax")
    if (facts.rows, facts.columns) != (header.rows, header.columns):
        raise Reject("stream_mismatch", "rows or columns")
    if facts.samples != header.samples:
        raise Reject("stream_mismatch", "samples a pixel")
    if not header.bits <= facts.bits <= allocated:
        raise Reject("stream_mismatch", "bit depth")
    if not has_end(stream):
        raise Reject("truncated", "the stream has no end marker")


def check_rle(stream: bytes, *, header: StreamFacts, allocated: int) -> None:
    """Refuse an RLE stream whose segments contradict the header or cannot fill the picture."""
    if len(stream) < RLE_HEADER:
        raise Reject("truncated", "the RLE header is incomplete")
    count, *offsets = struct.unpack_from("<16I", stream)
    if count != header.samples * allocated // 8:
        raise Reject("stream_mismatch", "number of RLE segments")
    starts = offsets[:count]
    ends = [*starts[1:], len(stream)]
    if starts[0] != RLE_HEADER or any(b < a for a, b in zip(starts, ends, strict=True)):
        raise Reject("stream_mismatch", "RLE offsets")
    smallest = min(end - start for start, end in zip(starts, ends, strict=True))
    if smallest * RLE_GROWTH < header.rows * header.columns:
        raise Reject("truncated", "an RLE segment is too short for the picture")
