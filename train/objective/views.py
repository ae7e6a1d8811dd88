"""Views of an image, drawn by the sample's key.

The published chain of crop, flips, rotation, perspective and autocontrast resamples twice; `warp`
makes its geometry one matrix and one bilinear resampling.

Axes: B samples, F films a sample, V views, H and W rows and columns, S side of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ...contract import ConfigError
from ...shards.order import philox
from ..augmentation.device import DeferredViews, defer
from ..augmentation.draw import ViewDraw
from ..augmentation.published import render_published
from ..augmentation.warp import Pixels, render
from ..network.model import ImageConfig


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How many views of a sample, and how they are drawn.

    `mode` `warp` draws crop, flips, rotation, perspective and autocontrast and resamples once;
    `paper` does them one after another, as published; `none` cuts the centre out. `device` tells
    where `warp` resamples: `cpu` by OpenCV, `device` by torch where the model is. Angles in
    degrees; `perspective` is the share of half a side by which corners may move inwards; `*_p` are
    probabilities.
    """

    mode: Literal["warp", "paper", "none"] = "warp"
    device: Literal["cpu", "device"] = "cpu"
    count: int = 2
    rotation: float = 10.0
    perspective: float = 0.5
    perspective_p: float = 0.5
    autocontrast_p: float = 0.5
    flip_p: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.perspective_p, self.autocontrast_p, self.flip_p)
        rules = {
            "count must be 1 or 2": self.count in (1, 2),
            "device must be cpu for mode paper": self.mode != "paper" or self.device == "cpu",
            "rotation must be between 0 and 180": 0 <= self.rotation <= 180,
            "perspective must be from 0 to below 1": 0 <= self.perspective < 1,
            "perspective_p, autocontrast_p and flip_p must be between 0 and 1": all(
                0 <= share <= 1 for share in shares
            ),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


def draw_views(config: ViewsConfig, *, seed: int, epoch: int, key: str) -> list[ViewDraw]:
    """Draw the views of one sample, a function of (seed, epoch, key) alone.

    The first view does not depend on how many follow.
    """
    bits = philox("views", seed, epoch, key).bit_generator
    # the upper 53 bits, as NumPy promises the stream of a bit generator but not of its floats
    shares = np.asarray((bits.random_raw(16 * config.count) >> np.uint64(11)) * 2.0**-53)
    return [_draw(config, row) for row in shares.reshape(config.count, 16)]


def _draw(config: ViewsConfig, share: NDArray[np.float64]) -> ViewDraw:
    tilted = config.perspective > 0 and share[5] < config.perspective_p
    return ViewDraw(
        top=float(share[0]),
        left=float(share[1]),
        flip_x=bool(share[2] < config.flip_p),
        flip_y=bool(share[3] < config.flip_p),
        angle=float(2 * share[4] - 1) * config.rotation,
        corners=share[8:16].reshape(4, 2) if tilted else None,
        perspective=config.perspective,
        autocontrast=bool(share[6] < config.autocontrast_p),
    )


def make_views(
    images_BHW: NDArray[Any],
    keys: Sequence[str],
    config: ViewsConfig,
    *,
    image: ImageConfig,
    seed: int,
    epoch: int,
) -> Pixels:
    """Return the views of stored uint8 or uint16 images, uint8 [B, V, S, S], S = `image.size`.

    What leaves the image is 0. Each sample depends on its own pixels and key alone, so any number
    of threads may call this for parts of a batch.
    """
    S = image.size
    draw_view = render_published if config.mode == "paper" else render
    out = np.empty((len(images_BHW), config.count, S, S), dtype=np.uint8)
    for b, key in enumerate(keys):
        stored_HW = _resized(_eight_bit(images_BHW[b]), image.resize)
        if config.mode == "none":
            top, left = ((side - S) // 2 for side in stored_HW.shape)
            out[b] = stored_HW[top : top + S, left : left + S]
            continue
        for v, draw in enumerate(draw_views(config, seed=seed, epoch=epoch, key=key)):
            out[b, v] = draw_view(stored_HW, draw, size=S)
    return out


def defer_views(
    images_BFHW: NDArray[Any],
    keys: Sequence[Sequence[str]],
    config: ViewsConfig,
    *,
    image: ImageConfig,
    seed: int,
    epoch: int,
) -> DeferredViews:
    """Return the views [B, V, S, S] of stored images, to be drawn on a device by `warp`.

    `keys` [B, F] are those of the F films of a sample: one, of which all views are, or one a view.
    The draws are those of `make_views`; a film that occurs twice is seen in two views of its own.
    """
    sources, draws = [], []
    for b, names in enumerate(keys):
        films = list(range(len(names))) * (config.count // len(names))
        shown = {name: iter(draw_views(config, seed=seed, epoch=epoch, key=name)) for name in names}
        sources.append([b * len(names) + f for f in films])
        draws.append([next(shown[names[f]]) for f in films])
    stored = [_resized(_eight_bit(film_HW), image.resize) for film_HW in _flat(images_BFHW)]
    return defer(np.stack(stored), np.array(sources), draws, size=image.size)


def _flat(images_BFHW: NDArray[Any]) -> NDArray[Any]:
    return images_BFHW.reshape(-1, *images_BFHW.shape[2:])


def _eight_bit(image_HW: NDArray[Any]) -> Pixels:
    if image_HW.dtype == np.uint16:
        return (image_HW / 257).round().astype(np.uint8)  # 65,535 is 255 times 257
    return image_HW


def _resized(image_HW: Pixels, side: int) -> Pixels:
    """Return the image with its shorter side at `side`; made smaller by areas, without aliasing."""
    H, W = image_HW.shape
    if min(H, W) == side:
        return image_HW
    scale = side / min(H, W)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized: Pixels = cv2.resize(
        image_HW, (round(W * scale), round(H * scale)), interpolation=method
    )
    return resized
