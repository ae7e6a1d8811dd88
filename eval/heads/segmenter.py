"""Training a U-Net on the maps of an encoder, and what it then predicts.

Axes: B pictures of a batch, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...shards.order import Ordinals
from ..encoders.maps import Films, Levels, in_batches
from .augment import Draw
from .regions import Regions
from .stock import ahead
from .training import Lesson
from .unet import UNet, focal_dice

Shares = npt.NDArray[np.float32]
TURN, ZOOM, TURNED = 10.0, 0.1, 0.5  # degrees, change of scale, share of the pictures


class Segmenting(Lesson):
    """Train a decoder, and the encoder with it as its maps say, on pictures and their regions.

    `turned` pictures are turned and scaled together with their regions: ShiftScaleRotate of
    published code, without a shift (MGCA, mgca/datasets/segmentation_dataset.py). Validation
    judges by the loss, the mean over batches of `batch`.
    """

    def __init__(
        self, films: Films, regions: Regions, *, validate: Ordinals, batch: int, turned: bool
    ) -> None:
        self.films, self.regions, self.turned = films, regions, turned
        self.validate, self.batch = validate, batch
        self.decoder = UNet(films.maps.channels, seed=films.stock.seed).to(films.device)
        # a frozen encoder need not be kept after each epoch
        frozen = films.maps.mode == "frozen"
        self.module = self.decoder if frozen else nn.ModuleList([films.maps, self.decoder])

    def losses(self, batches: Sequence[Ordinals], epoch: int) -> Iterator[Tensor]:
        """Yield the loss of each batch."""
        self._train(True)
        passes = self._turned(batches, epoch) if self.turned else self._plain(batches)
        for levels, target_BHW in passes:
            yield focal_dice(self.decoder(levels), target_BHW)

    @torch.no_grad()
    def judge(self) -> float:
        """Return the loss on validation."""
        self._train(False)
        passes = self._plain(in_batches(self.validate, self.batch))
        found = [focal_dice(self.decoder(levels), target_BHW) for levels, target_BHW in passes]
        return float(torch.stack(found).mean())

    @torch.no_grad()
    def predict(self, rows: Ordinals) -> Iterator[tuple[Ordinals, Shares]]:
        """Yield each batch of samples and the probabilities [B, H, W] of its pixels."""
        self._train(False)
        batches = in_batches(rows, self.batch)
        for batch, levels in zip(batches, self.films.levels(batches), strict=True):
            yield batch, torch.sigmoid(self.decoder(levels)).float().cpu().numpy()

    def _train(self, mode: bool) -> None:
        self.films.maps.train(mode)
        self.decoder.train(mode)

    def _plain(self, batches: Sequence[Ordinals]) -> Iterator[tuple[Levels, Tensor]]:
        for batch, levels in zip(batches, self.films.levels(batches), strict=True):
            yield levels, self._target(self.regions.of(batch))

    def _turned(self, batches: Sequence[Ordinals], epoch: int) -> Iterator[tuple[Levels, Tensor]]:
        stock = self.films.stock

        def make(batch: Ordinals) -> tuple[Tensor, npt.NDArray[np.bool_]]:
            picture_BHW, region_BHW = self.films.read(batch).numpy(), self.regions.of(batch)
            for place, ordinal in enumerate(batch.tolist()):
                pair = picture_BHW[place], region_BHW[place]
                picture_BHW[place], region_BHW[place] = turned(
                    *pair, Draw(stock.seed, epoch, ordinal)
                )
            return torch.from_numpy(picture_BHW), region_BHW

        for picture_BHW, region_BHW in ahead(make, batches, workers=stock.workers):
            yield self.films.maps(picture_BHW.to(self.films.device)), self._target(region_BHW)

    def _target(self, region_BHW: npt.NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(region_BHW).float().to(self.films.device)


def turned(
    picture_HW: Shares, region_HW: npt.NDArray[np.bool_], draw: Draw
) -> tuple[Shares, npt.NDArray[np.bool_]]:
    """Return a picture and its region turned and scaled about the centre, one time in two.

    What comes in at the borders is black, and no region.
    """
    if not draw.chance(TURNED):
        return picture_HW, region_HW
    H, W = picture_HW.shape
    angle, scale = draw(-TURN, TURN), draw(1 - ZOOM, 1 + ZOOM)
    matrix = cv2.getRotationMatrix2D(((W - 1) / 2, (H - 1) / 2), angle, scale)
    moved_HW = cv2.warpAffine(picture_HW, matrix, (W, H), flags=cv2.INTER_LINEAR)
    region = cv2.warpAffine(region_HW.astype(np.uint8), matrix, (W, H), flags=cv2.INTER_NEAREST)
    return np.asarray(moved_HW, np.float32), np.asarray(region) > 0
