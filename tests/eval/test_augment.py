"""How training pictures are varied: shapes, what stays, what the draws depend on."""

import cv2
import numpy as np
import pytest

from imitate.eval.heads.augment import AUGMENTS, CHANGES, GREY, Draw, centre, crop, kad
from imitate.train.network.model import ImageConfig

IMAGE = ImageConfig(size=24, resize=32, channels=1, mean=(0.5,), std=(0.5,))


def film(height: int = 48, width: int = 64) -> np.ndarray:
    v_HW, u_HW = np.mgrid[:height, :width]
    soft = 120 + 60 * np.sin(u_HW / 6) + 40 * np.cos(v_HW / 5)
    return np.clip(soft, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(AUGMENTS))
def test_every_augmentation_gives_the_networks_size_again_and_again(name: str) -> None:
    image_HW = film()
    before = image_HW.copy()
    views = [AUGMENTS[name](image_HW, IMAGE, Draw(0, epoch, 5)) for epoch in (0, 1, 0)]
    assert all(view.shape == (24, 24) and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[0], views[2]) and np.array_equal(image_HW, before)
    assert np.array_equal(views[0], views[1]) == (name == "none")


@pytest.mark.parametrize("name", sorted(set(AUGMENTS) - {"none"}))
def test_samples_and_seeds_are_varied_each_by_itself(name: str) -> None:
    views = [
        AUGMENTS[name](film(), IMAGE, Draw(seed, 0, ordinal)).tobytes()
        for seed in (0, 1)
        for ordinal in (0, 1, 2)
    ]
    assert len(set(views)) == len(views)


def test_a_crop_is_a_part_of_the_picture() -> None:
    image_HW = film(32, 40)
    places = {image_HW[t : t + 24, x : x + 24].tobytes() for t in range(9) for x in range(17)}
    drawn = {crop(image_HW, IMAGE, Draw(0, epoch, 0)).tobytes() for epoch in range(60)}
    assert drawn <= places and len(drawn) > 30
    assert centre(image_HW, IMAGE, Draw(0, 0, 0)).tobytes() == image_HW[4:28, 8:32].tobytes()


def test_pictures_are_made_smaller_by_areas_as_opencv_does() -> None:
    image_HW = film(64, 64)
    small = cv2.resize(image_HW, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.array_equal(centre(image_HW, IMAGE, Draw(0, 0, 0)), small[4:28, 4:28])


def test_ten_changes_and_the_first_is_none() -> None:
    image_SS = film(24, 24)
    changed = [change(image_SS, Draw(0, 0, 0)) for change in CHANGES]
    assert np.array_equal(changed[0], image_SS)
    assert len({view.tobytes() for view in changed}) == len(CHANGES) == 10
    assert all(view.shape == (24, 24) and view.dtype == np.uint8 for view in changed)
    stretched, equalized = changed[1], changed[2]
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert np.array_equal(equalized, cv2.equalizeHist(image_SS))


def test_shifts_go_both_ways_and_leave_grey() -> None:
    image_SS = np.full((24, 24), 200, np.uint8)
    right = CHANGES[7]
    views = [right(image_SS, Draw(0, epoch, 0)) for epoch in range(20)]
    left_grey = {bool((view[:, :7] == GREY).all()) for view in views}
    right_grey = {bool((view[:, -7:] == GREY).all()) for view in views}
    assert left_grey == right_grey == {True, False}


def test_kad_makes_each_of_two_changes_one_time_in_two() -> None:
    """A flat picture is left flat by any crop, by some changes, and by those that are not made."""
    image_HW = np.full((32, 32), 200, np.uint8)
    left = sum((kad(image_HW, IMAGE, Draw(0, 0, i)) == 200).all() for i in range(400))
    silent = [bool((change(image_HW, Draw(0, 0, 0)) == 200).all()) for change in CHANGES]
    expected = (0.5 + 0.5 * np.mean(silent)) ** 2
    assert abs(left / 400 - expected) < 0.08
