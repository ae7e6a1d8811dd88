"""How near each place of a film lies to the prompts of a label, and a drawing of it.

The head that reads an encoder's pooled vector reads the vector of each place instead, as BioViL
does (Boecking et al., 2022). The picture is seen whole, its shorter side at the encoder's `resize`.

Axes: B films of a batch, L labels, H and W rows and columns of pictures, h and w of places, D joint
embedding, N films.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ...shards.order import Ordinals
from ...shards.reader import ShardReader
from ..encoders.encoder import Encoder
from ..encoders.features import to_bytes
from ..encoders.maps import BATCH, Shape, in_batches, in_strides, read_films
from ..heads.stock import ahead
from ..metrics import Floats

TINT = (167, 121, 204)  # blue, green, red where a place lies nearest
DEPTH = 0.65  # share of the tint there

Ensembles = tuple[Floats, Floats]  # prompts for presence and for absence [L, D], unit rows
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Films of a set as an encoder with a text side sees their places."""

    encoder: Encoder
    reader: ShardReader
    ensembles: Ensembles
    workers: int

    def margins(self, rows: Ordinals) -> Iterator[tuple[Ordinals, Floats]]:
        """Yield each batch of samples, and by how much presence lies nearer [B, L, h, w].

        The difference of the two cosine similarities. Samples must be sound.
        """
        embed = self.encoder.embed_places
        assert embed is not None  # planned only for encoders that have it
        shape = self._shape(rows)
        present_LD, absent_LD = self.ensembles
        batches = in_batches(rows, BATCH)
        pictures = ahead(lambda b: read_films(self.reader, b, shape), batches, workers=self.workers)
        for batch, picture_BHW in zip(batches, pictures, strict=True):
            place_BhwD = np.asarray(embed(picture_BHW), dtype=np.float64)
            yield batch, np.einsum("bhwd,ld->blhw", place_BhwD, present_LD - absent_LD)

    def _shape(self, rows: Ordinals) -> Shape:
        stored = self.reader.empty(rows[:1]).shape[1:]
        scale = self.encoder.image.resize / min(stored)
        return in_strides(*(side * scale for side in stored))


def spread(margin_Bhw: Floats, shape: Shape) -> Floats:
    """Return values of places as values of pixels [B, H, W], bilinearly."""
    margin_B1hw = torch.from_numpy(margin_Bhw)[:, None]
    pixels_B1HW = F.interpolate(margin_B1hw, shape, mode="bilinear", align_corners=False)
    return np.asarray(pixels_B1HW[:, 0].numpy(), dtype=np.float64)


def stored_picture(reader: ShardReader, ordinal: int) -> Picture:
    """Return a sample's stored picture [H, W] in 8 bits."""
    picture_HW: Picture = to_bytes(reader.images(np.array([ordinal])))[0]
    return picture_HW


def tinted(picture_HW: Picture, share_HW: Floats) -> Picture:
    """Return a film [H, W, 3], tinted where the share of 0 to 1 is high."""
    grey_HWC = cv2.cvtColor(picture_HW, cv2.COLOR_GRAY2BGR).astype(np.float64)
    depth_HW1 = DEPTH * np.clip(share_HW, 0, 1)[..., None]
    mixed_HWC: Picture = (grey_HWC * (1 - depth_HW1) + np.array(TINT) * depth_HW1).astype(np.uint8)
    return mixed_HWC


def to_png(picture: Picture) -> bytes:
    """Return a picture as a PNG."""
    return cv2.imencode(".png", picture)[1].tobytes()


def share_of(margin: Floats, low: float, high: float) -> Floats:
    """Return where values lie between two bounds, 0 to 1; 0 where the bounds are equal."""
    share: Floats = np.clip((margin - low) / (high - low), 0, 1) if high > low else 0 * margin
    return share
