"""The decoder and its loss, the regions it learns from, and pictures that are turned with them."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from imitate.contract import Folders
from imitate.eval.heads.augment import Draw
from imitate.eval.heads.regions import Regions, at_shape
from imitate.eval.heads.segmenter import turned
from imitate.eval.heads.unet import UNet, focal_dice
from imitate.files import read_rows
from imitate.schema import MANIFEST
from imitate.shards.manifest import ShardSet
from imitate.shards.reader import ShardReader

CHANNELS = {"stem": 4, "stage1": 4, "stage2": 6, "stage3": 8, "stage4": 10}


def levels(height: int, width: int, *names: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    strides = {"stem": 2, "stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
    return {
        name: torch.randn(2, CHANNELS[name], height // strides[name], width // strides[name])
        for name in names
    }


@pytest.mark.parametrize("names", [tuple(CHANNELS), tuple(CHANNELS)[1:]])
def test_logits_have_the_size_of_the_picture(names: tuple[str, ...]) -> None:
    net = UNet({name: CHANNELS[name] for name in names}, seed=0)
    found = levels(64, 96, *names)
    logit = net(found)
    assert logit.shape == (2, 64, 96)
    for name in names:  # every level counts
        other = net(found | {name: found[name] + 1})
        assert not torch.allclose(other, logit), name


def test_the_seed_decides_the_weights() -> None:
    one, again, other = (UNet(CHANNELS, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["out.weight"], other["out.weight"])


def test_loss_is_focal_and_dice_by_their_formulas() -> None:
    rng = np.random.default_rng(0)
    logit, target = rng.normal(0, 2, (2, 3, 4)), (rng.random((2, 3, 4)) < 0.4).astype(float)
    focal = common = total = 0.0
    for x, t in zip(logit.ravel(), target.ravel(), strict=True):
        p = 1 / (1 + math.exp(-x))
        right = p if t else 1 - p
        focal += -((1 - right) ** 2) * math.log(right) / logit.size
        common += p * t
        total += p + t
    expected = 10 * focal - math.log((2 * common + 1) / (total + 1))
    assert float(focal_dice(torch.tensor(logit), torch.tensor(target))) == pytest.approx(expected)


def test_loss_of_certain_answers_is_finite() -> None:
    logit = torch.full((1, 4, 4), 200.0, requires_grad=True)
    loss = focal_dice(logit, torch.zeros(1, 4, 4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss) and torch.isfinite(logit.grad).all()  # type: ignore[arg-type]
    assert float(focal_dice(torch.full((1, 4, 4), -200.0), torch.zeros(1, 4, 4))) == 0.0


@pytest.fixture(scope="module")
def reader(siim: Path) -> ShardReader:
    return ShardReader(ShardSet.open(Folders(siim).shards("phantom-siim")))


def everyone(reader: ShardReader) -> np.ndarray:
    return np.arange(len(reader.shards.column("key")))


def test_regions_are_the_masks_of_the_prepared_set(siim: Path, reader: ShardReader) -> None:
    regions = Regions(reader, everyone(reader), kind="mask", shape=(64, 64))
    folder = Folders(siim).prepared("phantom-siim")
    masks = {row["key"]: row["mask"] for row in read_rows(folder / "manifest.parquet", MANIFEST)}
    seen = 0
    for ordinal, key in enumerate(reader.shards.column("key")):
        row = np.array([ordinal])
        expected = np.zeros((64, 64), bool)
        if masks[key]:
            seen += 1
            expected = cv2.imread(str(folder / masks[key]), cv2.IMREAD_GRAYSCALE) > 0
        assert (regions.of(row)[0] == expected).all()
        assert regions.marked(row)[0] == bool(masks[key])
    assert 10 < seen < 60 and not regions.damaged


def test_a_region_never_vanishes_and_keeps_its_area() -> None:
    region = np.zeros((64, 64), bool)
    region[40, 21] = True
    small = at_shape(region, (32, 32))
    assert small[20, 10] and small.sum() <= 4
    region[8:40, 16:48] = True
    assert at_shape(region, (32, 32)).sum() == pytest.approx(region.sum() / 4, rel=0.03)
    assert at_shape(region, (96, 96)).sum() == pytest.approx(region.sum() * 2.25, rel=0.03)
    assert not at_shape(np.zeros((64, 64), bool), (32, 32)).any()


def test_a_picture_and_its_region_turn_together() -> None:
    region = np.zeros((64, 96), bool)
    region[10:30, 60:80] = True
    picture = 200 * region.astype(np.float32)
    overlaps, moved = [], 0
    for ordinal in range(40):
        new_picture, new_region = turned(picture, region, Draw(0, 0, ordinal))
        seen = new_picture > 100
        overlaps.append(2 * (seen & new_region).sum() / (seen.sum() + new_region.sum()))
        moved += not (new_region == region).all()
        assert 0.75 < new_region.sum() / region.sum() < 1.3
    assert min(overlaps) > 0.95 and 10 < moved < 30


def test_what_comes_in_at_the_borders_is_black_and_no_region() -> None:
    region, picture = np.ones((64, 64), bool), np.full((64, 64), 200, np.float32)
    views = [turned(picture, region, Draw(0, 0, ordinal)) for ordinal in range(20)]
    outside = [view for view in views if not view[1].all()]
    assert len(outside) > 3
    for new_picture, new_region in outside:
        assert new_picture[~new_region].max() < 200 and new_picture.min() == 0
