"""What is drawn for a view, and its geometry as one matrix.

Axes: S side of a view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
    """What is drawn for one view; shares are uniform in [0, 1), the angle is in degrees.

    `corners` [4, 2] are shares of `perspective` of half a side, by which the corners move inwards
    in x and y, clockwise from the top left; None leaves them.
    """

    top: float
    left: float
    flip_x: bool
    flip_y: bool
    angle: float
    corners: NDArray[np.float64] | None
    perspective: float
    autocontrast: bool

    def place(self, sides: tuple[int, ...], size: int) -> tuple[int, int]:
        """Return the row and the column at which the crop of an image of these sides begins."""
        height, width = sides
        return int(self.top * (height - size + 1)), int(self.left * (width - size + 1))


def homography(draw: ViewDraw, *, size: int) -> Matrix:
    """Return the 3x3 matrix from pixel centres of the crop to those of the view.

    First the flips, then the rotation about the centre, counter-clockwise, then the perspective.
    """
    middle = (size - 1) / 2
    to_centre = np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1.0]])
    back = np.array([[1, 0, middle], [0, 1, middle], [0, 0, 1.0]])
    flip = np.diag([-1.0 if draw.flip_x else 1.0, -1.0 if draw.flip_y else 1.0, 1.0])
    cos, sin = math.cos(math.radians(draw.angle)), math.sin(math.radians(draw.angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
    matrix: Matrix = back @ turn @ flip @ to_centre
    if draw.corners is None:
        return matrix
    return tilt(draw.perspective * draw.corners * (size // 2), size=size) @ matrix


def tilt(inwards: NDArray[np.float64], *, size: int) -> Matrix:
    """Return the 3x3 perspective that moves the corners of a view inwards by pixels.  # [4, 2]"""
    last = size - 1
    before = np.array([[0, 0], [last, 0], [last, last], [0, last]], dtype=np.float32)
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    matrix: Matrix = cv2.getPerspectiveTransform(
        before, (before + signs * inwards).astype(np.float32)
    )
    return matrix
