"""Pictures whose grey levels are brought, on reading, to the norm of those a run was trained on.

What `imitate prep --norm` did cannot be undone, so only two ways are open, both on stored grey
levels: to `mimic`, by equalizing the histogram as MIMIC-CXR-JPG's authors did (MIT-LCP/mimic-cxr,
issue 16), and to `minmax`, by stretching it. It is near to preparing the set anew with that norm,
not the same: the levels were rounded to 8 bits, and the picture resized, before.

Axes: B pictures, H and W rows and columns.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ...contract import UsageError
from ...shards.manifest import ShardSet
from ...shards.order import Ordinals
from ...shards.reader import ShardReader
from ...shards.reading.source import Pictures as Stored

Pixels = npt.NDArray[np.uint8]


class MatchedReader(ShardReader):
    """A reader that brings every picture to `norm`, mimic or minmax."""

    def __init__(self, shards: ShardSet, norm: str) -> None:
        super().__init__(shards)
        self.norm = norm

    def fill(self, pictures: Stored, ordinals: Ordinals) -> None:
        """Decode pictures into an array made by `empty`, and match them."""
        super().fill(pictures, ordinals)
        for picture_HW in pictures:
            if picture_HW.dtype == np.uint16:
                picture_HW[:] = matched((picture_HW >> 8).astype(np.uint8), self.norm)
                picture_HW *= 257
            else:
                picture_HW[:] = matched(picture_HW, self.norm)


def matched(image_HW: Pixels, norm: str) -> Pixels:
    """Return the picture with its grey levels as `norm` makes them; black borders stay black."""
    rows, columns = (np.flatnonzero(image_HW.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return image_HW
    out_HW = image_HW.copy()
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    film_HW = np.ascontiguousarray(image_HW[inside])
    if norm == "mimic":
        out_HW[inside] = cv2.equalizeHist(film_HW)
        return out_HW
    low, high = int(film_HW.min()), int(film_HW.max())
    if high > low:
        level_HW = (film_HW.astype(np.float32) - low) * (255 / (high - low))
        out_HW[inside] = np.rint(level_HW).astype(np.uint8)
    return out_HW


def check_matchable(trained: str, tested: str) -> None:
    """Raise UsageError unless pictures of one norm can be brought to the other."""
    if trained == "mimic" or (trained == "minmax" and tested in ("none", "dicom", "window")):
        return
    raise UsageError(
        f"--match-norm cannot bring pictures prepared with --norm {tested} to {trained}",
        todo=f"prepare the set again: imitate prep … --norm {trained}",
    )
