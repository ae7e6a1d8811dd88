"""The regions that segmentation is to find: stored masks, or boxes drawn as filled rectangles.

Axes: B pictures of a batch, H and W rows and columns.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ...prep.pixels.mask import draw_shapes
from ...prep.record import Shape
from ...shards.order import Ordinals
from ...shards.reader import SampleDamaged, ShardReader
from ...shards.reading.png import decode
from ..encoders.maps import sized

Pixels = npt.NDArray[np.bool_]
Kind = Literal["mask", "boxes"]


class Regions:
    """The regions of samples at one shape, held in memory as bits; most films have none.

    `damaged` are the ordinals of the samples whose mask or boxes cannot be read.
    """

    def __init__(
        self, reader: ShardReader, rows: Ordinals, *, kind: Kind, shape: tuple[int, int]
    ) -> None:
        self.reader, self.kind, self.shape = reader, kind, shape
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}
        damaged = set()
        for ordinal in rows.tolist():
            region_HW = self._read(np.array([ordinal]))
            if region_HW is None:
                damaged.add(ordinal)
            elif region_HW.any():
                self._bits[ordinal] = np.packbits(at_shape(region_HW, shape))
        self.damaged = frozenset(damaged)

    def of(self, rows: Ordinals) -> Pixels:
        """Return the regions of samples [B, H, W]."""
        region_BHW = np.zeros((len(rows), *self.shape), dtype=bool)
        for place, ordinal in enumerate(rows.tolist()):
            if ordinal in self._bits:
                bits = np.unpackbits(self._bits[ordinal], count=region_BHW[0].size)
                region_BHW[place] = bits.reshape(self.shape)
        return region_BHW

    def marked(self, rows: Ordinals) -> Pixels:
        """Tell which samples have a region.  # [B]"""
        return np.array([ordinal in self._bits for ordinal in rows.tolist()], dtype=bool)

    def _read(self, row: Ordinals) -> Pixels | None:
        """Return the region of one sample as it is stored; None when it is damaged."""
        stored_HW = np.zeros_like(self.reader.empty(row)[0], dtype=np.uint8)
        try:
            if self.kind == "boxes":
                (document,) = self.reader.texts(row)
                shapes = tuple(_rectangle(box) for box in document["boxes"])
                return np.asarray(draw_shapes(shapes, *stored_HW.shape), dtype=bool)
            (png,) = self.reader.members(row, "mask")
        except SampleDamaged:
            return None
        return stored_HW > 0 if not png or decode(png, stored_HW) else None


def _rectangle(box: dict[str, Any]) -> Shape:
    x, y = box["x"], box["y"]
    return Shape(kind="rectangle", points=(x, y, x + box["w"], y + box["h"]))


def at_shape(region_HW: Pixels, shape: tuple[int, int]) -> Pixels:
    """Return a region resized: pixels at least half of which it covers.

    Of a region too small for that, those with the largest share, so that none vanishes.
    """
    if region_HW.shape == shape:
        return region_HW
    share_HW = sized(torch.from_numpy(region_HW)[None], shape)[0].numpy()
    least = min(0.5, max(float(share_HW.max()), 1e-6))
    marked_HW: Pixels = share_HW >= least
    return marked_HW
