"""A phantom of Object-CXR, in the layout of its download: bright objects on films without finding.

Layout and column names: the challenge's page and the csv files of its download. The shapes that
the tables name are exactly those that are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .drawing.dicom import jpeg_bytes
from .drawing.film import draw_film, draws
from .drawing.packing import csv_bytes, write_file

POSITIVE_SHARE = 0.5
MOST = 3  # objects of one film
LEVEL = 250  # grey of metal, of 255
FINER = 8  # pixels of the grid on which objects are drawn, for one of the film
Drawing = tuple[int, tuple[int, ...]]  # kind (0 rectangle, 1 ellipse, 2 polygon), coordinates


def write_object_cxr(folder: Path, *, pictures: int, seed: int, size: int = 128) -> None:
    """Write a phantom of `pictures` below `folder`: 80 % train, 10 % dev, 10 % test.

    Pictures are `size` pixels high and a sixth narrower; half of them show one to three objects.
    The test list names paths, the others names, as in the download. Equal arguments give equal
    bytes.
    """
    held_out = max(1, pictures // 10)
    numbers = {
        "train": range(1, pictures - 2 * held_out + 1),
        "dev": range(pictures - 2 * held_out + 1, pictures - held_out + 1),
        "test": range(pictures - held_out + 1, pictures + 1),
    }
    for part, ordinals in numbers.items():
        rows: list[tuple[str, str]] = []
        for ordinal in ordinals:
            name = f"{ordinal:05d}.jpg"
            drawings = _draw_objects(draws(seed, "object-cxr", name), size)
            write_file(folder / part / name, _picture(name, drawings, seed, size))
            rows.append((f"{part}/{name}" if part == "test" else name, annotation_of(drawings)))
        column = "image_path" if part == "test" else "image_name"
        write_file(folder / f"{part}.csv", csv_bytes((column, "annotation"), rows))


def annotation_of(drawings: Iterable[Drawing]) -> str:
    """Return objects as the tables write them."""
    return ";".join(" ".join(map(str, (kind, *points))) for kind, points in drawings)


def _draw_objects(rng: np.random.Generator, size: int) -> tuple[Drawing, ...]:
    """Draw where objects lie, each in its own third of the film's height."""
    if rng.random() >= POSITIVE_SHARE:
        return ()
    count = int(rng.integers(1, MOST + 1))
    return tuple(_draw_object(rng, size, third) for third in range(count))


def _draw_object(rng: np.random.Generator, size: int, third: int) -> Drawing:
    kind = int(rng.integers(0, 3))
    half_w, half_h = (int(side) for side in rng.integers(size // 24, size // 10, 2))
    x = int(rng.integers(size // 5, size * 5 // 6 - size // 5))
    y = size * (2 * third + 1) // (2 * MOST) + int(rng.integers(-size // 20, size // 20))
    if kind < 2:
        return kind, (x - half_w, y - half_h, x + half_w, y + half_h)
    corners = int(rng.integers(5, 9))
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    reach = rng.uniform(0.6, 1.0, corners)
    points = np.stack([x + half_w * reach * np.cos(angles), y + half_h * reach * np.sin(angles)])
    return kind, tuple(int(value) for value in np.rint(points.T).reshape(-1))


def _picture(name: str, drawings: Iterable[Drawing], seed: int, size: int) -> bytes:
    film = draw_film((), height=size, width=size * 5 // 6, view="PA", seed=seed, name=name)
    levels_HW = (film.pixels >> 4).astype(np.uint8)
    for kind, points in drawings:
        levels_HW[_region(kind, points, levels_HW.shape)] = LEVEL
    return jpeg_bytes(levels_HW)


def _region(kind: int, points: tuple[int, ...], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return which pixels [H, W] an object covers by half or more, drawn on a finer grid."""
    rows, columns = shape
    fine_HW = np.zeros((rows * FINER, columns * FINER), np.uint8)
    corners = np.array(points).reshape(-1, 2) * FINER
    if kind == 0:
        (left, top), (right, bottom) = corners
        fine_HW[top:bottom, left:right] = 255
    elif kind == 1:
        middle, reach = corners.mean(axis=0), (corners[1] - corners[0]) // 2
        cv2.ellipse(fine_HW, middle.astype(int).tolist(), reach.tolist(), 0, 0, 360, 255, -1)
    else:
        cv2.fillPoly(fine_HW, [corners], 255)
    covered_HW = cv2.resize(fine_HW, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(covered_HW >= 128)
