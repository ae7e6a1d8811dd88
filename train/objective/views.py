"""Views of an image: one homography and one grey-level table a view, drawn by the sample's key.

The published chain of crop, flips, rotation, perspective and autocontrast resamples twice; here
its geometry is one matrix and one bilinear resampling.

Axes: B samples, V views, H and W rows and columns, S side of a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ...contract import ConfigError
from ...shards.order import philox
from ..network.model import ImageConfig

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How many views of a sample, and how they are drawn.

    `mode` `warp` draws crop, flips, rotation, perspective and autocontrast; `none` cuts the centre
    out. Angles in degrees; `perspective` is the share of half a side by which corners may move
    inwards; `*_p` are probabilities.
    """

    mode: Literal["warp", "none"] = "warp"
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
            "rotation must be between 0 and 180": 0 <= self.rotation <= 180,
            "perspective must be from 0 to below 1": 0 <= self.perspective < 1,
            "perspective_p, autocontrast_p and flip_p must be between 0 and 1": all(
                0 <= share <= 1 for share in shares
            ),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
    """What is drawn for one view; shares are uniform in [0, 1)."""

    top: float
    left: float
    flip_x: bool
    flip_y: bool
    angle: float
    corners: NDArray[np.float64] | None
    autocontrast: bool


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
        corners=config.perspective * share[8:16].reshape(4, 2) if tilted else None,
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
    out = np.empty((len(images_BHW), config.count, S, S), dtype=np.uint8)
    for b, key in enumerate(keys):
        stored_HW = _resized(_eight_bit(images_BHW[b]), image.resize)
        if config.mode == "none":
            top, left = ((side - S) // 2 for side in stored_HW.shape)
            out[b] = stored_HW[top : top + S, left : left + S]
            continue
        for v, draw in enumerate(draw_views(config, seed=seed, epoch=epoch, key=key)):
            out[b, v] = render(stored_HW, draw, size=S)
    return out


def render(image_HW: Pixels, draw: ViewDraw, *, size: int) -> Pixels:
    """Return one view [size, size] of an image that is at least as large."""
    H, W = image_HW.shape
    top, left = int(draw.top * (H - size + 1)), int(draw.left * (W - size + 1))
    crop_SS = np.ascontiguousarray(image_HW[top : top + size, left : left + size])
    view_SS: Pixels = cv2.warpPerspective(
        crop_SS, homography(draw, size=size), (size, size), flags=cv2.INTER_LINEAR
    )
    return autocontrast(view_SS) if draw.autocontrast else view_SS


def homography(draw: ViewDraw, *, size: int) -> Matrix:
    """Return the 3x3 matrix from pixel centres of the crop to those of the view.

    First the flips, then the rotation about the centre, then the perspective, whose corners move
    inwards by shares of half a side, clockwise from the top left.
    """
    last = size - 1
    middle = last / 2
    to_centre = np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1.0]])
    back = np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1.0]])
    flip = np.diag([-1.0 if draw.flip_x else 1.0, -1.0 if draw.flip_y else 1.0, 1.0])
    cos, sin = math.cos(math.radians(draw.angle)), math.sin(math.radians(draw.angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
    matrix: Matrix = back @ turn @ flip @ to_centre
    if draw.corners is None:
        return matrix
    before = np.array([[0, 0], [last, 0], [last, last], [0, last]], dtype=np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (size // 2)
    after = (before + inwards * draw.corners).astype(np.float32)
    tilt: Matrix = cv2.getPerspectiveTransform(before, after)
    return tilt @ matrix


def autocontrast(view_SS: Pixels) -> Pixels:
    """Return the view with its darkest grey at 0 and its brightest at 255."""
    low, high = int(view_SS.min()), int(view_SS.max())
    if high <= low:
        return view_SS
    table = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    stretched: Pixels = cv2.LUT(view_SS, table)
    return stretched


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
