"""Masks: what run lengths and shapes mark, and where it lies in the prepared picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import Reject
from imitate.prep.phantoms.drawing.dicom import dicom_bytes
from imitate.prep.pixels.decoder import Decoder
from imitate.prep.pixels.mask import (
    Frame,
    draw_runs,
    draw_shapes,
    file_mask_png,
    fitted_png,
    mask_png,
    runs_of,
)
from imitate.prep.pixels.picture import convert
from imitate.prep.pixels.png import PixelOptions, encode_png
from imitate.prep.record import Runs, Shape

ORIGINAL = Frame(height=40, width=56, size=0, fit="pad")


def pixels_of(png: bytes) -> np.ndarray:
    array = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert array is not None
    return array


def runs_by_loop(row: str, height: int, width: int) -> np.ndarray:
    """As the challenge's page tells it, one pixel at a time."""
    region = np.zeros((height, width), bool)
    numbers = [int(number) for number in row.split()]
    place = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        place += offset
        for _ in range(length):
            region[place % height, place // height] = True
            place += 1
    return region


def inside_by_loop(shape: Shape, height: int, width: int) -> np.ndarray:
    """Look at every pixel's centre; for a polygon, count the edges that a ray to the left meets."""
    left, top, right, bottom = shape.bounds
    region = np.zeros((height, width), bool)
    points = list(zip(shape.points[::2], shape.points[1::2], strict=True))
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            if shape.kind == "rectangle":
                inside = left <= x < right and top <= y < bottom
            elif shape.kind == "ellipse":
                across = (2 * x - left - right) / (right - left)
                down = (2 * y - top - bottom) / (bottom - top)
                inside = across**2 + down**2 <= 1
            else:
                inside = False
                for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
                    if (y1 <= y) != (y2 <= y) and x1 + (y - y1) * (x2 - x1) / (y2 - y1) <= x:
                        inside = not inside
            region[row, column] = inside
    return region


@given(data=st.binary(min_size=63, max_size=63))
def test_run_lengths_there_and_back(data: bytes) -> None:
    region = np.frombuffer(data, np.uint8).reshape(7, 9) > 127
    row = runs_of(region)
    if row:
        np.testing.assert_array_equal(runs_by_loop(row, 7, 9), region)
        np.testing.assert_array_equal(draw_runs(Runs(rows=(row,), height=7, width=9)), region)


def test_rows_of_one_picture_are_joined() -> None:
    both = draw_runs(Runs(rows=("1 2", "2 3 1 1"), height=4, width=3))
    np.testing.assert_array_equal(both, runs_by_loop("1 4 1 1", 4, 3))


@pytest.mark.parametrize(
    "row",
    [
        *("", "-1", "1", "1 2 3", "0 0", "5 8", "0 13", "9 3 0 1", "1.5 2", "a b", "-2 3"),
        *("1 1e3", "9" * 5000, "0 \u0663", "1 " * 4000 + "x"),
    ],
)
def test_damaged_run_lengths_are_refused(row: str) -> None:
    with pytest.raises(Reject) as caught:
        mask_png(
            Runs(rows=("0 1", row), height=4, width=3), Frame(height=4, width=3, size=0, fit="pad")
        )
    assert caught.value.reason == "mask_unreadable"
    assert row == "" or row not in caught.value.detail


def test_run_lengths_of_another_size_are_refused() -> None:
    with pytest.raises(Reject) as caught:
        mask_png(Runs(rows=("0 1",), height=40, width=40), ORIGINAL)
    assert (caught.value.reason, caught.value.detail) == (
        "mask_unreadable",
        "drawn on 40 x 40 pixels",
    )


SIDES = st.floats(-8, 64, allow_nan=False).map(lambda value: round(value, 2))


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["rectangle", "ellipse", "polygon"]),
    points=st.lists(SIDES, min_size=6, max_size=14).filter(lambda points: len(points) % 2 == 0),
)
def test_shapes_are_those_of_a_naive_loop(kind: str, points: list[float]) -> None:
    points = points if kind == "polygon" else points[:4]
    shape = Shape(kind=kind, points=tuple(points))
    left, top, right, bottom = shape.bounds
    if min(right - left, bottom - top) > 0.01:
        found = draw_shapes((shape,), 24, 30)
        np.testing.assert_array_equal(found, inside_by_loop(shape, 24, 30))


def test_shapes_are_joined_and_cut_at_the_border() -> None:
    outside = Shape(kind="rectangle", points=(70.0, 5.0, 90.0, 9.0))
    corner = Shape(kind="rectangle", points=(50.0, 30.0, 90.0, 90.0))
    middle = Shape(kind="ellipse", points=(20.0, 10.0, 30.0, 20.0))
    region = draw_shapes((outside, corner, middle), 40, 56)
    expected = inside_by_loop(corner, 40, 56) | inside_by_loop(middle, 40, 56)
    np.testing.assert_array_equal(region, expected)
    assert not draw_shapes((outside,), 40, 56).any()
    flat = Shape(kind="polygon", points=(1.0, 1.0, 9.0, 1.0, 5.0, 1.0))
    assert not draw_shapes((flat,), 40, 56).any()


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [0, 16, 32, 90])
@pytest.mark.parametrize("shape", [(64, 64), (40, 56), (61, 37)])
def test_a_mask_lies_where_its_picture_does(
    tmp_path: Path, shape: tuple[int, int], size: int, fit: str
) -> None:
    """A picture of a region and the region's mask, fitted alike, agree up to half a level."""
    region = inside_by_loop(Shape(kind="ellipse", points=(8.0, 6.0, 30.0, 34.0)), *shape)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode_png(np.where(region, 200, 20).astype(np.uint8)))
    prepared = convert(picture, PixelOptions(size=size, fit=fit))
    frame = Frame(height=shape[0], width=shape[1], size=size, fit=fit)
    mask, shown = pixels_of(fitted_png(region, frame)), pixels_of(prepared.png)
    assert mask.shape == shown.shape == (prepared.height, prepared.width)
    assert set(np.unique(mask)) == {0, 255}
    middle = (shown >= 110).astype(np.uint8) * 255
    clear = np.abs(shown.astype(int) - 110) > 2
    np.testing.assert_array_equal(mask[clear], middle[clear])


def test_half_a_pixel_counts_and_a_small_region_stays() -> None:
    region = np.zeros((64, 64), bool)
    region[8:12, 8:10] = True  # half of a pixel of the result
    region[20:22, 20:22] = True  # a quarter of one
    frame = Frame(height=64, width=64, size=16, fit="pad")
    mask = pixels_of(fitted_png(region, frame))
    assert mask[2, 2] == 255 and np.count_nonzero(mask) == 1
    region[:] = False
    region[33, 33] = True
    mask = pixels_of(fitted_png(region, frame))
    assert mask[8, 8] == 255 and np.count_nonzero(mask) == 1
    assert not pixels_of(fitted_png(region & False, frame)).any()


def test_the_mask_of_a_file(tmp_path: Path) -> None:
    region = inside_by_loop(Shape(kind="ellipse", points=(8.0, 6.0, 30.0, 34.0)), 40, 56)
    levels = region.astype(np.uint8) * 255
    files = {
        "byte.png": (levels, ".png"),
        "ones.png": (region.astype(np.uint8), ".png"),
        "deep.png": (levels.astype(np.uint16) * 7, ".png"),
        "colour.png": (np.dstack([levels] * 3), ".png"),
        "blurred.jpg": (levels, ".jpg"),
        "none.png": (levels * 0, ".png"),
    }
    with Decoder() as decoder:
        for name, (array, ending) in files.items():
            (tmp_path / name).write_bytes(bytes(cv2.imencode(ending, array)[1]))
            found = decoder.mask(tmp_path / name, ORIGINAL)
            assert found == file_mask_png(tmp_path / name, ORIGINAL)
            np.testing.assert_array_equal(pixels_of(found), levels * (name != "none.png"))


def test_files_that_are_no_mask_of_this_picture(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(encode_png(np.eye(20, dtype=np.uint8)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:-20])
    (tmp_path / "text.png").write_text("no picture")
    levels = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56)
    tags = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "SOPInstanceUID": "2.25.1"}
    film = dicom_bytes(levels, {**tags, "Modality": "CR"}, bits=12)
    (tmp_path / "film.dcm").write_bytes(film)
    expected = {
        tmp_path / "small.png": "20 x 20 pixels, unlike its picture",
        tmp_path / "cut.png": "truncated",
        tmp_path / "text.png": "header_unreadable",
        tmp_path / "absent.png": "file_missing",
        tmp_path / "film.dcm": "neither PNG nor JPEG",
    }
    with Decoder() as decoder:
        for path, detail in expected.items():
            with pytest.raises(Reject) as caught:
                decoder.mask(path, ORIGINAL)
            assert (caught.value.reason, caught.value.detail) == ("mask_unreadable", detail)
