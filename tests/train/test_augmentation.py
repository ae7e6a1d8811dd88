import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imitate.contract import ConfigError
from imitate.train.augmentation.device import DeferredViews
from imitate.train.augmentation.draw import ViewDraw
from imitate.train.augmentation.published import render_published
from imitate.train.bound import TrainOptions
from imitate.train.network.model import ImageConfig
from imitate.train.objective.films import film_views, sample_views
from imitate.train.objective.views import ViewsConfig, defer_views, draw_views, make_views
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

IMAGE = ImageConfig(size=48, resize=56)
CPU = torch.device("cpu")
KEYS = [f"key {i}" for i in range(12)]
STRONG = ViewsConfig(rotation=30, flip_p=0.5, device="device")


def films(count: int = len(KEYS), *, smooth: float = 1.0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(count).random((count, 56, 56)).astype(np.float32)
    made = [cv2.GaussianBlur(film, (0, 0), smooth) if smooth else film for film in noise]
    return np.stack([cv2.normalize(f, None, 5, 250, cv2.NORM_MINMAX) for f in made]).astype("u1")


def slow_module() -> ModuleType:
    path = Path(__file__).with_name("slow_published_views.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published_draw(case: tuple, whole: int, farthest: int) -> ViewDraw:
    """The draw whose whole numbers are those of a case."""
    top, left, flip_x, flip_y, angle, inwards, autocontrast = case
    return ViewDraw(
        top=(top + 0.5) / whole,
        left=(left + 0.5) / whole,
        flip_x=flip_x,
        flip_y=flip_y,
        angle=angle,
        corners=None if inwards is None else (np.array(inwards) + 0.5) / (farthest + 1),
        perspective=0.5,
        autocontrast=autocontrast,
    )


def test_the_published_sequence_equals_its_slow_restatement_and_the_frozen_arrays() -> None:
    slow = slow_module()
    frozen = [
        np.array([list(bytes.fromhex(row)) for row in view], dtype=np.uint8)
        for view in json.loads(slow.FROZEN.read_text())
    ]
    for case, restated, kept in zip(slow.CASES, slow.views(), frozen, strict=True):
        draw = published_draw(case, slow.STORED - slow.SIZE + 1, slow.SIZE // 4)
        ours = render_published(slow.picture(), draw, size=slow.SIZE)
        assert np.array_equal(restated, kept)
        assert np.array_equal(ours, kept)
    assert len({view.tobytes() for view in frozen}) == len(slow.CASES)


def test_published_corners_move_by_every_whole_number() -> None:
    """As published: from 0 to half of half a side, both ends included."""
    ramp = np.repeat(np.arange(40, dtype=np.uint8)[None], 40, axis=0) * 6
    seen = set()
    for share in np.linspace(0, 0.999, 60):
        corners = np.zeros((4, 2))
        corners[[0, 3], 0] = share  # both left corners, to the right
        draw = ViewDraw(
            **dict.fromkeys(("top", "left", "angle"), 0.0),
            **dict.fromkeys(("flip_x", "flip_y", "autocontrast"), False),
            corners=corners,
            perspective=0.5,
        )
        seen.add(int((render_published(ramp + 1, draw, size=40)[20] == 0).sum()))
    assert seen == set(range(11))


def test_mode_paper_is_a_mode_of_views() -> None:
    stored = films()
    paper = ViewsConfig(mode="paper", rotation=30, flip_p=0.5)
    warp = ViewsConfig(rotation=30, flip_p=0.5)
    one, other = (
        make_views(stored, KEYS, config, image=IMAGE, seed=3, epoch=1) for config in (paper, warp)
    )
    assert one.shape == other.shape and one.dtype == np.uint8
    draw = draw_views(paper, seed=3, epoch=1, key=KEYS[2])[1]
    assert np.array_equal(one[2, 1], render_published(stored[2], draw, size=48))
    # the same draws resampled twice: alike, but not the same
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    assert np.median(alike) > 0.9 and not np.array_equal(one, other)


@pytest.mark.parametrize("smooth", [0.0, 1.5])
@pytest.mark.parametrize("config", [ViewsConfig(device="device"), STRONG])
def test_device_views_agree_with_opencv(smooth: float, config: ViewsConfig) -> None:
    """To 2 grey values everywhere, and exactly for 99 of 100 pixels, even on bare noise."""
    stored = films(smooth=smooth)
    keys = [[key] for key in KEYS]
    deferred = defer_views(stored[:, None], keys, config, image=IMAGE, seed=1, epoch=2)
    drawn = deferred.to(CPU)
    expected = make_views(stored, KEYS, config, image=IMAGE, seed=1, epoch=2)
    assert drawn.dtype == torch.uint8 and drawn.shape == deferred.shape == expected.shape
    difference = np.abs(drawn.numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


def test_device_views_do_not_depend_on_the_batch_they_are_in() -> None:
    stored = films()
    keys = [[key] for key in KEYS]
    whole = defer_views(stored[:, None], keys, STRONG, image=IMAGE, seed=1, epoch=0)
    parts = [
        defer_views(stored[part, None], keys[part], STRONG, image=IMAGE, seed=1, epoch=0).to(CPU)
        for part in (slice(0, 5), slice(5, 12))
    ]
    drawn = whole.to(CPU)
    assert torch.equal(torch.cat(parts), drawn)
    assert torch.equal(torch.cat([whole[:3].to(CPU), whole[3:12].to(CPU)]), drawn)
    assert len(whole[3:12]) == 9 and whole[3:12].shape == (9, 2, 48, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as a step draws them
        assert torch.equal(whole.to(CPU), drawn)


def test_device_views_of_two_films_are_those_of_opencv() -> None:
    """One film a view; a film that is alone in its study is seen in two views of its own."""
    stored = films(6).reshape(3, 2, 56, 56)
    stored[1, 1] = stored[1, 0]
    keys = [["a", "b"], ["c", "c"], ["d", "e"]]
    expected = film_views(stored, keys, STRONG, image=IMAGE, seed=0, epoch=0)
    drawn = defer_views(stored, keys, STRONG, image=IMAGE, seed=0, epoch=0).to(CPU).numpy()
    assert np.abs(drawn.astype(int) - expected).max() <= 2
    assert not np.array_equal(drawn[1, 0], drawn[1, 1])


def test_device_views_of_larger_films_of_sixteen_bits() -> None:
    wide = (
        np.stack([cv2.resize(f, (90, 112), interpolation=cv2.INTER_CUBIC) for f in films()])
    ).astype(np.uint16) * 257
    keys = [[key] for key in KEYS]
    drawn = defer_views(wide[:, None], keys, STRONG, image=IMAGE, seed=1, epoch=0).to(CPU)
    expected = make_views(wide, KEYS, STRONG, image=IMAGE, seed=1, epoch=0)
    assert np.abs(drawn.numpy().astype(int) - expected).max() <= 2


def test_a_run_draws_its_views_on_the_device(
    tiny_root: Path, tiny_settings: tuple[str, ...]
) -> None:
    """The same bits whatever the threads."""
    recipe = load_recipe("demo", (*tiny_settings, "views.device=device", "optim.epochs=1"))
    one, other = (
        train(
            tiny_root,
            recipe,
            TrainOptions(quiet=True, device="cpu", workers=workers, name=f"run-{workers}"),
        )
        for workers in (1, 2)
    )
    name = "model/model.safetensors"
    assert one.steps == 5
    assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_the_configuration_says_where_views_are_drawn() -> None:
    stored, keys = films(), [[key] for key in KEYS]
    here, there = (
        sample_views(stored[:, None], keys, config, image=IMAGE, seed=1, epoch=0)
        for config in (dataclasses.replace(STRONG, device="cpu"), STRONG)
    )
    assert isinstance(here, torch.Tensor) and isinstance(there, DeferredViews)
    assert (here.int() - there.to(CPU).int()).abs().max() <= 2
    centre = dataclasses.replace(STRONG, mode="none")
    cut = sample_views(stored[:, None], keys, centre, image=IMAGE, seed=1, epoch=0)
    assert isinstance(cut, torch.Tensor)  # nothing to draw


@pytest.mark.gpu
def test_device_views_on_a_gpu_agree_with_opencv() -> None:
    stored = films(smooth=0.0)
    keys = [[key] for key in KEYS]
    deferred = defer_views(stored[:, None], keys, STRONG, image=IMAGE, seed=1, epoch=2)
    drawn = deferred.to(torch.device("cuda")).cpu().numpy().astype(int)
    expected = make_views(stored, KEYS, STRONG, image=IMAGE, seed=1, epoch=2)
    assert np.abs(drawn - expected).max() <= 2


def test_the_published_sequence_runs_on_the_cpu_only() -> None:
    with pytest.raises(ConfigError, match="device must be cpu"):
        ViewsConfig(mode="paper", device="device")
