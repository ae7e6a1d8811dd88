"""Grey levels, the fit and its geometry, and the PNG, against plain re-statements."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import Reject, UsageError
from imitate.files import blake3_hex
from imitate.prep.pixels.dicom import read_dicom
from imitate.prep.pixels.grey import Film, plain_film
from imitate.prep.pixels.png import PixelOptions, encode_png, plan_fit, render, resize

SIZE_KEPT = PixelOptions(size=0)


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def noise(shape: tuple[int, int], bits: int, seed: int = 0) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, shape)
    return codes.astype(np.uint8 if bits <= 8 else np.uint16)


def film_of(codes: np.ndarray, bits: int, **facts: object) -> Film:
    values = np.arange(1 << bits, dtype=np.float64)
    return Film(**{"codes": codes, "bits": bits, "values": values, **facts})  # type: ignore[arg-type]


def shown(film: Film, norm: str, bits: int = 8) -> np.ndarray:
    return decoded(render(film, PixelOptions(size=0, bits=bits), norm=norm).png)


@pytest.mark.parametrize(
    "wrong",
    [
        {"norm": "mimic", "bits": 16},
        {"norm": "none", "bits": 16},
        {"norm": "equalize"},
        {"fit": "squash"},
        {"bits": 12},
        {"size": 8},
        {"size": -1},
        {"size": 1 << 20},
    ],
)
def test_options_that_cannot_be_are_usage_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PixelOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_every_bit_and_is_gray(dtype: type) -> None:
    array = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (37, 53)).astype(dtype)
    png = encode_png(array)
    assert np.array_equal(decoded(png), array)
    assert png[24:26] == bytes([array.itemsize * 8, 0])  # IHDR: bit depth, colour type gray


def test_picture_hashes_are_those_of_its_png_and_pixels() -> None:
    picture = render(plain_film(noise((40, 60), 8), bits=8), PixelOptions(size=32), norm="minmax")
    assert picture.png_blake3 == blake3_hex(picture.png)
    assert picture.pixel_blake3 == blake3_hex(decoded(picture.png).tobytes())
    assert (picture.height, picture.width, picture.bits) == (*decoded(picture.png).shape, 8)
    again = render(plain_film(noise((40, 60), 8), bits=8), PixelOptions(size=32), norm="minmax")
    assert again == picture


def official_mimic(stored: np.ndarray, monochrome1: bool) -> np.ndarray:
    """The authors' conversion as they describe it, in their order, step by step."""
    image = stored.astype(np.float64)
    image = image - image.min()
    image = image / image.max()
    image = (image * 255).astype(np.uint8)
    if monochrome1:
        image = cv2.bitwise_not(image)
    return cv2.equalizeHist(image)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 16),
    height=st.integers(1, 40),
    width=st.integers(2, 40),
    seed=st.integers(0, 99),
    skew=st.sampled_from([1, 3, 9]),
    monochrome1=st.booleans(),
)
def test_mimic_is_the_official_array(
    bits: int, height: int, width: int, seed: int, skew: int, monochrome1: bool
) -> None:
    share = np.random.default_rng(seed).random((height, width)) ** skew
    codes = (share * ((1 << bits) - 1)).astype(np.uint16)
    codes[0, 0], codes[-1, -1] = 0, 1  # never blank
    lowest = -(1 << (bits - 1)) if seed % 2 else 0
    film = film_of(codes, bits, lowest=lowest, monochrome1=monochrome1, inverted=monochrome1)
    expected = official_mimic(film.stored, monochrome1)
    if expected.min() == expected.max():
        with pytest.raises(Reject, match="blank_picture"):
            shown(film, "mimic")
    else:
        assert np.array_equal(shown(film, "mimic"), expected)


def test_mimic_ignores_rescale_window_and_padding() -> None:
    codes = noise((50, 50), 12)
    plain = film_of(codes, 12)
    values = np.arange(4096.0) * -3 + 7
    window = np.linspace(0, 1, 4096) > 0.5
    told = film_of(codes, 12, values=values, shown=window.astype(float), padding=(0, 9))
    assert np.array_equal(shown(told, "mimic"), shown(plain, "mimic"))


@pytest.mark.parametrize("bits", [8, 16])
def test_minmax_spans_the_whole_range(bits: int) -> None:
    codes = noise((30, 40), 12)
    codes[0, 0], codes[1, 1] = 100, 3000
    codes = codes.clip(100, 3000)
    top = (1 << bits) - 1
    expected = np.rint((codes - 100) / 2900 * top)
    assert np.array_equal(shown(film_of(codes, 12), "minmax", bits), expected)


def test_minmax_follows_the_rescale_not_the_code() -> None:
    codes = noise((30, 40), 8)
    falling = film_of(codes, 8, values=1000.0 - 2 * np.arange(256))
    upright = film_of(codes, 8)
    assert np.array_equal(shown(falling, "minmax"), 255 - shown(upright, "minmax"))


@pytest.mark.parametrize("norm", ["minmax", "window", "dicom", "none"])
def test_inversion_comes_last_and_is_exact(norm: str) -> None:
    codes = noise((64, 48), 8)
    window = np.linspace(-0.3, 1.2, 256).clip(0, 1)
    facts = {} if norm in ("minmax", "none") else {"shown": window}
    plain = shown(film_of(codes, 8, **facts), norm)
    inverse = shown(film_of(codes, 8, inverted=True, **facts), norm)
    assert np.array_equal(inverse, 255 - plain)


@pytest.mark.parametrize("norm", ["minmax", "window", "dicom"])
@pytest.mark.parametrize("inverted", [False, True])
def test_padding_is_black_and_takes_no_contrast(norm: str, inverted: bool) -> None:
    inside = noise((40, 40), 10)
    codes = np.full((60, 60), 4095, np.uint16)
    codes[10:50, 10:50] = inside
    bare = shown(film_of(inside, 12, inverted=inverted), norm)
    padded = shown(film_of(codes, 12, inverted=inverted, padding=(4095, 4095)), norm)
    assert np.array_equal(padded[10:50, 10:50], bare)
    padded[10:50, 10:50] = 0
    assert not padded.any()


def test_padding_does_not_bleed_into_its_neighbours() -> None:
    codes = np.full((64, 64), 4095, np.uint16)
    codes[:, :32] = 1000 + (np.arange(64) % 2 * 100)[:, None]
    film = film_of(codes, 12, padding=(4095, 4095))
    small = decoded(render(film, PixelOptions(size=16), norm="minmax").png)
    assert small[:, 8:].max() == 0 and small[:, :8].min() >= 127


def test_padding_that_no_pixel_has_changes_nothing() -> None:
    codes = noise((64, 64), 11)
    plain = render(film_of(codes, 12), PixelOptions(size=32), norm="window")
    padded = render(film_of(codes, 12, padding=(4000, 4095)), PixelOptions(size=32), norm="window")
    assert plain == padded


def test_window_of_the_header_is_used_when_it_shows_something() -> None:
    codes = noise((50, 50), 12)
    window = ((np.arange(4096) - 1000) / 2000).clip(0, 1)
    expected = np.rint(window[codes] * 255)
    assert np.array_equal(shown(film_of(codes, 12, shown=window), "window"), expected)


@pytest.mark.parametrize(
    "window",
    [
        ((np.arange(4096.0) - 1000) / 5).clip(0, 1),  # five of 4096 values are not saturated
        (np.arange(4096.0) - 9000).clip(0, 1),  # everything is black
        0.5 + np.arange(4096.0) / 4e6,  # the picture takes a thousandth of the scale
    ],
)
def test_absurd_window_gives_way_to_percentiles(window: np.ndarray) -> None:
    codes = noise((300, 300), 12)
    assert np.array_equal(
        shown(film_of(codes, 12, shown=window), "window"), shown(film_of(codes, 12), "window")
    )
    strict = np.rint(window[codes] * 255)
    if strict.min() < strict.max():
        assert np.array_equal(shown(film_of(codes, 12, shown=window), "dicom"), strict)


def test_percentile_window_is_not_flattened_by_a_hot_marker() -> None:
    codes = noise((201, 203), 8).astype(np.uint16) + 1000
    codes[:5, :5] = 4095
    low, high = np.percentile(codes.astype(float), (0.5, 99.5), method="inverted_cdf")
    expected = np.rint(((codes - low) / (high - low)).clip(0, 1) * 255)
    assert np.array_equal(shown(film_of(codes, 12), "window"), expected)
    assert shown(film_of(codes, 12), "minmax")[5:, 5:].max() < 30


def test_percentile_window_shows_the_few_pixels_that_differ() -> None:
    codes = np.full((100, 100), 500, np.uint16)
    codes[0, :20] = 900
    assert set(shown(film_of(codes, 12), "window").ravel()) == {0, 255}


def test_dicom_without_window_is_the_full_stored_range() -> None:
    codes = noise((20, 20), 10)
    codes[0, 0] = 17
    expected = np.rint(codes / 1023 * 255)
    assert np.array_equal(shown(film_of(codes, 10), "dicom"), expected)


def test_none_keeps_grey_levels_and_needs_eight_bits() -> None:
    codes = noise((20, 30), 8)
    assert np.array_equal(shown(film_of(codes, 8), "none"), codes)
    for film in (film_of(noise((20, 30), 12), 12), film_of(codes, 8, lowest=-128)):
        with pytest.raises(Reject, match="bad_bits"):
            shown(film, "none")


@pytest.mark.parametrize("norm", ["mimic", "window", "minmax", "dicom", "none"])
def test_blank_picture_is_rejected(norm: str) -> None:
    for film in (
        plain_film(np.full((20, 20), 77, np.uint8), bits=8),
        film_of(np.full((20, 20), 9, np.uint8), 8, padding=(0, 3)),
    ):
        with pytest.raises(Reject, match="blank_picture"):
            shown(film, norm)


def test_a_crop_without_anything_in_it_is_blank() -> None:
    codes = np.full((400, 40), 50, np.uint8)
    codes[:20] = 90
    with pytest.raises(Reject, match="blank_picture"):
        render(plain_film(codes, bits=8), PixelOptions(size=40, fit="crop"), norm="none")


def test_nothing_but_padding_is_blank() -> None:
    codes = noise((20, 20), 8)
    with pytest.raises(Reject, match="blank_picture"):
        shown(film_of(codes, 8, padding=(0, 255)), "minmax")


def naive_block_means(gray: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = gray.shape[0] // factor, gray.shape[1] // factor
    out = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            top, left = row * factor, column * factor
            out[row, column] = gray[top : top + factor, left : left + factor].mean()
    return out


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_shrinking_by_an_integer_is_the_mean_of_blocks(factor: int) -> None:
    gray = noise((12 * factor, 9 * factor), 12)
    expected = naive_block_means(gray, factor)
    assert np.abs(resize(gray, height=12, width=9) - expected).max() <= 0.5


@settings(max_examples=40, deadline=None)
@given(height=st.integers(40, 300), width=st.integers(40, 300), target=st.integers(16, 40))
def test_shrinking_keeps_the_mean(height: int, width: int, target: int) -> None:
    gray = noise((height, width), 12)
    small = resize(gray, height=target, width=target)
    assert small.mean() == pytest.approx(gray.mean(), abs=1)


@pytest.mark.real
def test_two_steps_differ_from_one_by_less_than_a_level(shared_data: Path) -> None:
    for name in ("nih_dx_implicit_le", "rg1_deflated", "siim_cr_jpeg_baseline"):
        path = shared_data / "dicom" / "chest" / f"{name}.dcm"
        gray = read_dicom(memoryview(path.read_bytes())).codes
        for target in (224, 320):
            once = cv2.resize(gray, (target, target), interpolation=cv2.INTER_AREA)
            error = once.astype(float) - resize(gray, height=target, width=target)
            assert np.sqrt((error**2).mean()) < np.ptp(gray) / 255


def centroid(picture: np.ndarray) -> tuple[float, float]:
    """Centre of mass in continuous coordinates, where pixel i spans i..i+1."""
    weight = picture.astype(np.float64)
    rows, columns = np.indices(picture.shape) + 0.5
    return float((weight * columns).sum() / weight.sum()), float(
        (weight * rows).sum() / weight.sum()
    )


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(60, 400),
    width=st.integers(60, 400),
    size=st.sampled_from([0, 32, 64, 97, 256]),
    fit=st.sampled_from(["pad", "crop", "stretch"]),
    place=st.tuples(st.floats(0.45, 0.55), st.floats(0.45, 0.55)),
)
def test_geometry_finds_a_marker(
    height: int, width: int, size: int, fit: str, place: tuple[float, float]
) -> None:
    codes = np.zeros((height, width), np.uint8)
    top, left = int(place[0] * height) - 8, int(place[1] * width) - 8
    codes[top : top + 16, left : left + 16] = 255
    picture = render(plain_film(codes, bits=8), PixelOptions(size=size, fit=fit), norm="none")
    x, y = centroid(decoded(picture.png))
    assert x == pytest.approx((left + 8) * picture.scale_x + picture.offset_x, abs=0.35)
    assert y == pytest.approx((top + 8) * picture.scale_y + picture.offset_y, abs=0.35)
    assert (picture.source_height, picture.source_width) == (height, width)
    if size:
        assert (picture.height, picture.width) == (size, size)
    else:
        assert np.array_equal(decoded(picture.png), codes)


def test_pad_is_centred_and_keeps_the_aspect_and_crop_fills_the_square() -> None:
    codes = noise((400, 300), 8) | 1
    pad = render(plain_film(codes, bits=8), PixelOptions(size=64), norm="none")
    assert (pad.offset_x, pad.offset_y) == (8.0, 0.0)
    assert pad.scale_x == pad.scale_y == 64 / 400
    picture = decoded(pad.png)
    assert not picture[:, :8].any() and not picture[:, 56:].any() and picture[:, 8:56].all()
    crop = render(plain_film(codes, bits=8), PixelOptions(size=60, fit="crop"), norm="none")
    assert (crop.offset_x, crop.offset_y) == (0.0, -10.0)
    assert decoded(crop.png).all()


def test_small_pictures_grow() -> None:
    picture = render(plain_film(noise((16, 20), 8), bits=8), PixelOptions(size=256), norm="none")
    assert (picture.height, picture.width) == (256, 256)
    assert picture.scale_x == 256 / 20


def test_an_elongated_picture_is_not_blown_up_for_a_crop() -> None:
    with pytest.raises(Reject, match="bad_dimensions"):
        plan_fit(16, 16384, size=8192, fit="crop")
    assert plan_fit(16, 16384, size=256, fit="pad").inner == (1, 256)
