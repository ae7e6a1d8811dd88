"""How training pictures are varied: one function a name, as protocols name them.

Everything is drawn from (seed, epoch, ordinal), so a picture's views do not depend on batches,
threads or interruptions. Pictures are grey: what published code does to colours does nothing here
(saturation, hue, grayscale).

Axes: H and W rows and columns, S side of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from ...shards.order import philox
from ...train.network.model import ImageConfig

Pixels = npt.NDArray[np.uint8]


class Draw:
    """Uniform numbers in [0, 1), one after another."""

    def __init__(self, seed: int, epoch: int, ordinal: int) -> None:
        self._bits = philox("eval/augment", seed, epoch, ordinal).bit_generator

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
        # the upper 53 bits: NumPy promises the stream of a bit generator, not of its floats
        return low + (high - low) * float(self._bits.random_raw() >> 11) * 2.0**-53

    def chance(self, p: float) -> bool:
        """Return True with probability p."""
        return self() < p


Augment = Callable[[Pixels, ImageConfig, Draw], Pixels]


def centre(image_HW: Pixels, image: ImageConfig, draw: Draw) -> Pixels:
    """Return the centre, as evaluation sees it."""
    return _cut(_resized(image_HW, image.resize), image.size, 0.5, 0.5)


def crop(image_HW: Pixels, image: ImageConfig, draw: Draw) -> Pixels:
    """Return a random crop: MGCA's augmentation of RSNA and COVIDx."""
    return _cut(_resized(image_HW, image.resize), image.size, draw(), draw())


def mild(image_HW: Pixels, image: ImageConfig, draw: Draw) -> Pixels:
    """Return a random crop, turned by up to 10 degrees, brightness and contrast varied by 20 %."""
    turned_SS = _moved(crop(image_HW, image, draw), angle=draw(-10, 10))
    return _toned(turned_SS, draw(0.8, 1.2), draw(0.8, 1.2))


def mgca_chexpert(image_HW: Pixels, image: ImageConfig, draw: Draw) -> Pixels:
    """Return MGCA's augmentation of CheXpert.

    Random crop, jitter of brightness and contrast by 0.4 with p 0.8, blur of sigma 0.1 to 2 with
    p 0.5, horizontal flip (HKU-MedAI/MGCA, mgca/datasets/transforms.py).
    """
    out_SS = crop(image_HW, image, draw)
    if draw.chance(0.8):
        out_SS = _toned(out_SS, draw(0.6, 1.4), draw(0.6, 1.4))
    if draw.chance(0.5):
        out_SS = np.asarray(cv2.GaussianBlur(out_SS, (0, 0), draw(0.1, 2.0)), dtype=np.uint8)
    return np.ascontiguousarray(out_SS[:, ::-1]) if draw.chance(0.5) else out_SS


def kad(image_HW: Pixels, image: ImageConfig, draw: Draw) -> Pixels:
    """Return KAD's augmentation: a resized crop, a flip, two of ten changes at strength 7 of 10.

    RandomResizedCrop of 0.2 to 1 of the area, bicubic; horizontal flip; RandAugment(2, 7), each of
    the two made one time in two, and what comes in at the borders is grey (KAD,
    A3_CLIP/dataset/dataset.py, its randaugment.py for what a strength means).
    """
    out_SS = _resized_crop(image_HW, image.size, draw)
    if draw.chance(0.5):
        out_SS = np.ascontiguousarray(out_SS[:, ::-1])
    for _ in range(2):
        change = CHANGES[int(draw() * len(CHANGES))]
        out_SS = change(out_SS, draw) if draw.chance(0.5) else out_SS
    return out_SS


AUGMENTS: dict[str, Augment] = {
    "none": centre,
    "crop": crop,
    "mild": mild,
    "mgca-chexpert": mgca_chexpert,
    "kad": kad,
}
STRENGTH = 0.7  # 7 of 10
GREY = 128
Change = Callable[[Pixels, Draw], Pixels]


def _signed(draw: Draw, value: float) -> float:
    return value if draw.chance(0.5) else -value


def _sharper(image_SS: Pixels, draw: Draw) -> Pixels:
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
    smooth_SS = cv2.filter2D(image_SS, -1, kernel).astype(np.float32)
    factor = 0.1 + 1.8 * STRENGTH
    return _bytes(factor * image_SS + (1 - factor) * smooth_SS)


def _stretched(image_SS: Pixels, draw: Draw) -> Pixels:
    low, high = int(image_SS.min()), int(image_SS.max())
    return _bytes((image_SS.astype(np.float32) - low) * (255 / max(high - low, 1)))


CHANGES: tuple[Change, ...] = (
    lambda image, draw: image,
    _stretched,
    lambda image, draw: np.asarray(cv2.equalizeHist(image), dtype=np.uint8),
    lambda image, draw: _toned(image, 0.1 + 1.8 * STRENGTH, 1.0),
    _sharper,
    lambda image, draw: _moved(image, shear_x=_signed(draw, 0.3 * STRENGTH), outside=GREY),
    lambda image, draw: _moved(image, shear_y=_signed(draw, 0.3 * STRENGTH), outside=GREY),
    lambda image, draw: _moved(image, right=_signed(draw, 10 * STRENGTH), outside=GREY),
    lambda image, draw: _moved(image, down=_signed(draw, 10 * STRENGTH), outside=GREY),
    lambda image, draw: _moved(image, angle=_signed(draw, 30 * STRENGTH), outside=GREY),
)


def _toned(image_SS: Pixels, brightness: float, contrast: float) -> Pixels:
    value_SS = np.clip(image_SS.astype(np.float32) * brightness, 0, 255)
    mean = float(value_SS.mean())
    return _bytes(contrast * value_SS + (1 - contrast) * mean)


def _moved(
    image_SS: Pixels,
    *,
    angle: float = 0.0,
    shear_x: float = 0.0,
    shear_y: float = 0.0,
    right: float = 0.0,
    down: float = 0.0,
    outside: int = 0,
) -> Pixels:
    """Return the picture turned about its centre by degrees, sheared and shifted."""
    middle = (image_SS.shape[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), angle, 1.0)
    matrix += np.array([[0, shear_x, right], [shear_y, 0, down]])
    size = (image_SS.shape[1], image_SS.shape[0])
    moved_SS = cv2.warpAffine(
        image_SS, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(outside,)
    )
    return np.asarray(moved_SS, np.uint8)


def _resized_crop(image_HW: Pixels, size: int, draw: Draw) -> Pixels:
    """Return a crop of 0.2 to 1 of the area and a ratio of 3/4 to 4/3, brought to size."""
    H, W = image_HW.shape
    rows, columns = H, W
    for _ in range(10):
        area, ratio = draw(0.2, 1.0) * H * W, float(np.exp(draw(np.log(3 / 4), np.log(4 / 3))))
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= W and 0 < high <= H:
            rows, columns = high, wide
            break
    top, left = int(draw() * (H - rows + 1)), int(draw() * (W - columns + 1))
    cut = image_HW[top : top + rows, left : left + columns]
    return np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def _resized(image_HW: Pixels, side: int) -> Pixels:
    """Return the picture with its shorter side at `side`; made smaller by areas."""
    H, W = image_HW.shape
    if min(H, W) == side:
        return image_HW
    scale = side / min(H, W)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    size = (round(W * scale), round(H * scale))
    return np.asarray(cv2.resize(image_HW, size, interpolation=method), np.uint8)


def _cut(image_HW: Pixels, size: int, down: float, right: float) -> Pixels:
    """Return a square of the picture, at shares of the room there is."""
    H, W = image_HW.shape
    top = min(int(down * (H - size + 1)), H - size)
    left = min(int(right * (W - size + 1)), W - size)
    return np.ascontiguousarray(image_HW[top : top + size, left : left + size])


def _bytes(value_SS: npt.NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(np.rint(value_SS), 0, 255), dtype=np.uint8)
