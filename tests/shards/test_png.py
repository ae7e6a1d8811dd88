"""The fast decoder gives what OpenCV gives, whatever the picture; damage never passes."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.prep.pixels.png import encode_png
from imitate.shards.reading import png as fast

FILTERS = ("NONE", "SUB", "UP", "AVG", "PAETH")


def film(height: int, width: int, kind: str, seed: int) -> np.ndarray:
    """Smooth noise with the full range of its type, black at the left as after padding."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((max(height // 8, 2), max(width // 8, 2)))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(smooth + rng.normal(0, 0.01, (height, width)), 0, 1)
    noisy[:, : width // 5] = 0
    return np.asarray(noisy * np.iinfo(kind).max).astype(kind)


def decoded(data: bytes, like: np.ndarray) -> np.ndarray | None:
    picture = np.full_like(like, 7)
    return picture if fast.decode(data, picture) else None


@given(
    height=st.integers(2, 70),
    width=st.integers(1, 70),
    kind=st.sampled_from(["uint8", "uint16"]),
    seed=st.integers(0, 2**16),
)
def test_what_prep_writes_is_read_without_opencv(
    height: int, width: int, kind: str, seed: int
) -> None:
    picture = film(height, width, kind, seed)
    data = encode_png(picture)
    assert fast._rows_of_ours(data, picture) is not None
    found = decoded(data, picture)
    assert found is not None and np.array_equal(found, picture)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_every_filter_of_png_is_read(name: str, kind: str) -> None:
    picture = film(96, 80, kind, 1)
    flags = [cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{name}")]
    data = bytes(cv2.imencode(".png", picture, flags)[1])
    found = decoded(data, picture)
    assert found is not None and np.array_equal(found, picture)
    assert (fast._rows_of_ours(data, picture) is not None) == (name == "UP")


def test_filters_that_change_from_row_to_row_are_read() -> None:
    picture = film(200, 120, "uint8", 2)
    data = bytes(
        cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS])[1]
    )
    found = decoded(data, picture)
    assert found is not None and np.array_equal(found, picture)


def test_jpeg_is_read_as_opencv_reads_it() -> None:
    picture = film(64, 64, "uint8", 3)
    data = bytes(cv2.imencode(".jpg", picture)[1])
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded(data, picture), expected)


@pytest.mark.parametrize("shape", [(65, 64), (64, 65), (64, 64, 3)])
def test_another_size_is_refused(shape: tuple[int, ...]) -> None:
    data = encode_png(film(64, 64, "uint8", 4))
    wanted = np.zeros(shape[:2], np.uint8 if len(shape) == 2 else np.uint16)
    assert not fast.decode(data, wanted)


def test_chunks_between_header_and_data_are_left_to_opencv() -> None:
    picture = film(64, 64, "uint8", 5)
    data = encode_png(picture)
    body = b"tEXtTitle\0phantom"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    found = decoded(data[:33] + chunk + data[33:], picture)
    assert found is not None and np.array_equal(found, picture)


@settings(max_examples=300)
@given(place=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.booleans())
def test_damage_is_refused_or_harmless(place: int, value: int, cut: bool) -> None:
    picture = film(48, 48, "uint8", 6)
    data = bytearray(encode_png(picture))
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= value
    found = decoded(bytes(data), picture)
    if found is not None:  # a checksum of a chunk, or the end mark behind the data
        assert np.array_equal(found, picture)
