"""Views by OpenCV: one homography, one bilinear resampling and one grey-level table a view.

Axes: H and W rows and columns, S side of a view.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .draw import ViewDraw, homography

Pixels = NDArray[np.uint8]


def render(image_HW: Pixels, draw: ViewDraw, *, size: int) -> Pixels:
    """Return one view [size, size] of an image that is at least as large; 0 outside the crop."""
    top, left = draw.place(image_HW.shape, size)
    crop_SS = np.ascontiguousarray(image_HW[top : top + size, left : left + size])
    view_SS: Pixels = cv2.warpPerspective(
        crop_SS, homography(draw, size=size), (size, size), flags=cv2.INTER_LINEAR
    )
    return autocontrast(view_SS) if draw.autocontrast else view_SS


def autocontrast(view_SS: Pixels) -> Pixels:
    """Return the view with its darkest grey at 0 and its brightest at 255."""
    low, high = int(view_SS.min()), int(view_SS.max())
    if high <= low:
        return view_SS
    table = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    stretched: Pixels = cv2.LUT(view_SS, table)
    return stretched
