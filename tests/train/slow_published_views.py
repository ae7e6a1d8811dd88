"""The published views once more, pixel by pixel, from the documentation of their transforms.

Independent of the package and of any imaging library. Run as a script it writes the frozen arrays
of `test_augmentation.py`.

A pixel is a square; its centre lies at (column + 1/2, row + 1/2). A rotation takes the pixel that
holds the turned centre. A perspective interpolates 4 x 4 pixels by cubics of slope 1 at the end of
a step (a = -1), edges repeated; both give 0 where they come from outside. Greys are cut off to
whole numbers.
"""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
FROZEN = Path(__file__).with_suffix(".json")
STORED, SIZE = 36, 30
# top, left, flip_x, flip_y, angle, corners moved inwards by pixels (or none), autocontrast
CASES = [
    (0, 0, False, False, 0.0, None, False),
    (3, 6, True, False, 17.25, None, True),
    (6, 1, False, True, -28.5, [[3, 1], [0, 7], [2, 2], [5, 0]], False),
    (2, 2, True, True, 5.5, [[7, 7], [1, 4], [0, 3], [6, 2]], True),
    (1, 5, False, False, -11.0, [[0, 0], [0, 0], [7, 1], [0, 5]], False),
]


def picture() -> Grey:
    """Rows and columns of several frequencies, so that every mistake shows; not full range."""
    y, x = np.mgrid[:STORED, :STORED]
    wave = np.sin(x * 0.9) + np.cos(y * 0.6 + x * 0.2) + ((x // 5 + y // 7) % 2)
    return (30 + 150 * (wave + 2) / 5).astype(np.uint8)


def rotated(image: Grey, angle: float) -> Grey:
    """Counter-clockwise about the centre."""
    size = len(image)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    out = np.zeros_like(image)
    for row in range(size):
        for column in range(size):
            dx, dy = column + 0.5 - size / 2, row + 0.5 - size / 2
            x = math.floor(cos * dx - sin * dy + size / 2)
            y = math.floor(sin * dx + cos * dy + size / 2)
            if 0 <= x < size and 0 <= y < size:
                out[row, column] = image[y, x]
    return out


def way_back(inwards: list[list[int]], size: int) -> NDArray[np.float64]:
    """The eight numbers that lead from the moved corners to the corners."""
    last = size - 1
    corners = [(0, 0), (last, 0), (last, last), (0, last)]
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    rows, wanted = [], []
    for (x, y), (sx, sy), (ix, iy) in zip(corners, signs, inwards, strict=True):
        mx, my = x + sx * ix, y + sy * iy
        rows.append([mx, my, 1, 0, 0, 0, -x * mx, -x * my])
        rows.append([0, 0, 0, mx, my, 1, -y * mx, -y * my])
        wanted += [x, y]
    return np.linalg.solve(np.array(rows, float), np.array(wanted, float)).astype(np.float32)


def cubic(values: list[float], at: float) -> float:
    """The value at a share of the way from the second to the third of four."""
    total = 0.0
    for k, value in enumerate(values):
        d = abs(at + 1 - k)
        weight = d**3 - 2 * d**2 + 1 if d < 1 else -(d**3) + 5 * d**2 - 8 * d + 4 if d < 2 else 0
        total += weight * value
    return total


def tilted(image: Grey, inwards: list[list[int]]) -> Grey:
    size = len(image)
    a, b, c, d, e, f, g, h = (float(number) for number in way_back(inwards, size))
    out = np.zeros_like(image)
    for row in range(size):
        for column in range(size):
            x, y = column + 0.5, row + 0.5
            depth = g * x + h * y + 1
            sx, sy = (a * x + b * y + c) / depth, (d * x + e * y + f) / depth
            if not (0 <= sx < size and 0 <= sy < size):
                continue
            left, top = math.floor(sx - 0.5), math.floor(sy - 0.5)
            lines = []
            for j in range(top - 1, top + 3):
                line = image[min(max(j, 0), size - 1)]
                near = [float(line[min(max(i, 0), size - 1)]) for i in range(left - 1, left + 3)]
                lines.append(cubic(near, sx - 0.5 - left))
            out[row, column] = int(min(max(cubic(lines, sy - 0.5 - top), 0), 255))
    return out


def stretched(image: Grey) -> Grey:
    low, high = int(image.min()), int(image.max())
    scale = 255.0 / (high - low)
    greys = [min(max(int(grey * scale - low * scale), 0), 255) for grey in range(256)]
    return np.array(greys, dtype=np.uint8)[image]


def views() -> list[Grey]:
    image = picture()
    made = []
    for top, left, flip_x, flip_y, angle, inwards, contrast in CASES:
        view = image[top : top + SIZE, left : left + SIZE]
        view = view[:, ::-1] if flip_x else view
        view = view[::-1] if flip_y else view
        view = rotated(view, angle)
        view = tilted(view, inwards) if inwards else view
        made.append(stretched(view) if contrast else view)
    return made


if __name__ == "__main__":
    FROZEN.write_text(json.dumps([[bytes(row).hex() for row in view] for view in views()]) + "\n")
