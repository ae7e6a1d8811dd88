import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imitate.contract import ConfigError
from imitate.train.augmentation.draw import ViewDraw, homography
from imitate.train.augmentation.warp import autocontrast, render
from imitate.train.network.model import ImageConfig
from imitate.train.objective.views import ViewsConfig, draw_views, make_views

IMAGE = ImageConfig(size=48, resize=56)
PAPER = ViewsConfig(rotation=30, flip_p=0.5)
STILL = ViewDraw(
    top=0.0,
    left=0.0,
    flip_x=False,
    flip_y=False,
    angle=0.0,
    corners=None,
    perspective=1.0,
    autocontrast=False,
)


def film(seed: int, side: int = 56) -> NDArray[np.uint8]:
    """A smooth synthetic picture, so that resampling changes it little."""
    noise = np.random.default_rng(seed).random((side, side))
    smooth = cv2.GaussianBlur(noise, (0, 0), side / 14)
    return cv2.normalize(smooth, None, 10, 240, cv2.NORM_MINMAX).astype(np.uint8)


FILMS = np.stack([film(i) for i in range(4)])
KEYS = ["a", "b", "c", "d"]


def views(
    config: ViewsConfig, *, rows: slice = slice(None), seed: int = 0, epoch: int = 0
) -> NDArray[np.uint8]:
    return make_views(FILMS[rows], KEYS[rows], config, image=IMAGE, seed=seed, epoch=epoch)


def test_a_view_is_a_function_of_seed_epoch_and_key() -> None:
    whole = views(PAPER)
    assert whole.shape == (4, 2, 48, 48) and whole.dtype == np.uint8
    assert np.array_equal(whole, views(PAPER))
    assert np.array_equal(whole[2:3], views(PAPER, rows=slice(2, 3)))  # whatever batch it is in
    for other in (views(PAPER, epoch=1), views(PAPER, seed=1)):
        assert not np.array_equal(whole, other)
    assert not np.array_equal(whole[:, 0], whole[:, 1])


def test_the_first_view_does_not_depend_on_how_many_follow() -> None:
    assert np.array_equal(views(ViewsConfig(count=1))[:, 0], views(ViewsConfig())[:, 0])


def test_samples_of_equal_pixels_have_views_of_their_own() -> None:
    same = np.stack([FILMS[0]] * 2)
    out = make_views(same, ["a", "b"], PAPER, image=IMAGE, seed=0, epoch=0)
    assert not np.array_equal(out[0], out[1])


def test_none_cuts_the_centre() -> None:
    assert np.array_equal(
        views(ViewsConfig(mode="none")), np.stack([FILMS[:, 4:52, 4:52]] * 2, axis=1)
    )


def test_a_still_draw_is_the_crop_itself() -> None:
    image = FILMS[0]
    assert np.array_equal(render(image, STILL, size=48), image[:48, :48])
    corner = ViewDraw(**{**vars(STILL), "top": 0.999, "left": 0.5})
    assert np.array_equal(render(image, corner, size=48), image[8:, 4:52])


def test_flips_and_a_quarter_turn_move_pixels_exactly() -> None:
    image = FILMS[0][:48, :48]
    moved = {
        name: render(image, ViewDraw(**{**vars(STILL), name: value}), size=48)
        for name, value in (("flip_x", True), ("flip_y", True), ("angle", 90.0))
    }
    assert np.array_equal(moved["flip_x"], image[:, ::-1])
    assert np.array_equal(moved["flip_y"], image[::-1])
    assert np.abs(moved["angle"].astype(int) - np.rot90(image)).max() <= 1


def test_one_warp_is_the_chain_of_its_parts() -> None:
    """One resampling against rotation, then perspective, each resampled by itself."""
    corners = np.array([[0.2, 0.1], [0.0, 0.3], [0.25, 0.2], [0.1, 0.0]])
    draw = ViewDraw(**{**vars(STILL), "angle": 8.0, "corners": corners, "flip_x": True})
    image = FILMS[1][:48, :48]
    turned = ViewDraw(**{**vars(STILL), "angle": 8.0, "flip_x": True})
    tilted = ViewDraw(**{**vars(STILL), "corners": corners})
    chain = render(render(image, turned, size=48), tilted, size=48)
    difference = np.abs(render(image, draw, size=48).astype(int) - chain)
    assert np.median(difference) <= 1 and (difference > 8).mean() < 0.1


def test_perspective_moves_the_corners_inwards() -> None:
    corners = np.array([[0.5, 0.25], [0.25, 0.5], [0.1, 0.2], [0.0, 0.3]])
    matrix = homography(ViewDraw(**{**vars(STILL), "corners": corners}), size=48)
    square = np.array([[[0, 0]], [[47, 0]], [[47, 47]], [[0, 47]]], dtype=np.float64)
    moved = cv2.perspectiveTransform(square, matrix)[:, 0]
    expected = [[12, 6], [47 - 6, 12], [47 - 2.4, 47 - 4.8], [0, 47 - 7.2]]
    np.testing.assert_allclose(moved, expected, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.text(min_size=1, max_size=8))
def test_draws_stay_inside_their_limits(seed: int, key: str) -> None:
    for draw in draw_views(ViewsConfig(), seed=seed, epoch=0, key=key):
        assert 0 <= draw.top < 1 and 0 <= draw.left < 1
        assert -10 <= draw.angle <= 10
        assert not draw.flip_x and not draw.flip_y
        if draw.corners is not None:
            assert draw.corners.shape == (4, 2)
            assert (draw.corners >= 0).all() and (draw.corners < 1).all()
            assert draw.perspective == 0.5


def test_draws_have_their_probabilities() -> None:
    draws = [
        draw for i in range(400) for draw in draw_views(PAPER, seed=0, epoch=0, key=f"key {i}")
    ]
    for share in (
        np.mean([draw.corners is not None for draw in draws]),
        np.mean([draw.autocontrast for draw in draws]),
        np.mean([draw.flip_x for draw in draws]),
        np.mean([draw.flip_y for draw in draws]),
        np.mean([draw.angle > 0 for draw in draws]),
        np.mean([draw.left for draw in draws]),
    ):
        assert abs(share - 0.5) < 0.09  # 5 standard deviations of 800 draws
    assert max(abs(draw.angle) for draw in draws) > 29


def test_autocontrast_fills_the_range_and_keeps_the_order() -> None:
    image = FILMS[0] // 2 + 40
    out = autocontrast(image)
    assert (out.min(), out.max()) == (0, 255)
    exact = (image.astype(float) - image.min()) * 255 / (int(image.max()) - int(image.min()))
    assert np.abs(out - exact).max() <= 0.5
    flat = np.full((4, 4), 7, dtype=np.uint8)
    assert np.array_equal(autocontrast(flat), flat)


@pytest.mark.parametrize("side", [112, 28])
def test_images_of_another_size_are_brought_to_it_first(side: int) -> None:
    scaled = np.stack([cv2.resize(i, (side, side), interpolation=cv2.INTER_CUBIC) for i in FILMS])
    config = ViewsConfig(mode="none", count=1)
    out = make_views(scaled, KEYS, config, image=IMAGE, seed=0, epoch=0)[:, 0]
    assert np.abs(out.astype(int) - FILMS[:, 4:52, 4:52]).mean() < 6


def test_images_that_are_not_square_keep_their_shape() -> None:
    wide = np.zeros((1, 56, 80), dtype=np.uint8)
    wide[:, :, 40] = 255  # the middle column
    config = ViewsConfig(mode="none", count=1)
    out = make_views(wide, ["a"], config, image=IMAGE, seed=0, epoch=0)[0, 0]
    assert (out[:, 24] == 255).all() and out.sum() == 255 * 48


def test_sixteen_bits_are_brought_to_eight() -> None:
    wide = FILMS.astype(np.uint16) * 257
    out = make_views(wide, KEYS, PAPER, image=IMAGE, seed=0, epoch=0)
    assert np.array_equal(out, views(PAPER))


def test_settings_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        ViewsConfig(count=3, rotation=-1, perspective=1, flip_p=2)
    assert len(caught.value.problems) == 4
