"""Views as the published code makes them: its sequence of transforms, each resampled by itself.

The sequence is that of arXiv 2310.07355's source (method.md A.9), with the semantics that the
documentation of torchvision gives its transforms on PIL images: RandomCrop, flips, RandomRotation
(nearest neighbour, about the centre, zeros outside), RandomPerspective (bicubic, corners moved by
whole pixels, zeros outside), RandomAutocontrast. Its RandomGrayscale changes no grey picture, and
equal channels stay equal, so that one channel is enough.

Axes: H and W rows and columns, S side of a view.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from .draw import ViewDraw, tilt
from .warp import Pixels


def render_published(image_HW: Pixels, draw: ViewDraw, *, size: int) -> Pixels:
    """Return one view [size, size] of an image that is at least as large."""
    top, left = draw.place(image_HW.shape, size)
    view = Image.fromarray(image_HW[top : top + size, left : left + size])
    if draw.flip_x:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.flip_y:
        view = view.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    view = view.rotate(draw.angle, resample=Image.Resampling.NEAREST)
    if draw.corners is not None:
        farthest = int(draw.perspective * (size // 2))
        inwards = np.floor(draw.corners * (farthest + 1))
        # PIL asks for the way back, from the view to where its pixels come from
        back = np.linalg.inv(tilt(inwards, size=size))
        numbers = (back / back[2, 2]).astype(np.float32).ravel()[:8].tolist()
        view = view.transform(
            (size, size), Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC
        )
    if draw.autocontrast:
        view = ImageOps.autocontrast(view)
    return np.asarray(view)
