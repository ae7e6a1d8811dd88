"""A U-Net decoder on an encoder's maps, and the loss that it is trained with.

Ronneberger et al., 2015, in the form of segmentation_models_pytorch, which published code uses
(MGCA, mgca_segmenter.py): nearest upsampling by two, the level of that stride beside it, two
convolutions, at widths 256, 128, 64, 32, 16.

Axes: B pictures, C channels, H and W rows and columns of pictures, h and w of maps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.maps import STRIDES, Levels

WIDTHS = (256, 128, 64, 32, 16)
GAMMA = 2.0  # of the focal loss
FOCAL = 10.0  # its weight
SMOOTH = 1.0  # pixels added above and below in the soft Dice


class UNet(nn.Module):
    """Maps by level to one logit a pixel; its weights are drawn by `seed`."""

    def __init__(self, channels: Mapping[str, int], *, seed: int) -> None:
        super().__init__()
        self.levels = sorted(channels, key=STRIDES.__getitem__, reverse=True)
        beside = [channels[name] for name in self.levels[1:]]
        beside += [0] * (len(WIDTHS) - len(beside))
        inside = (channels[self.levels[0]], *WIDTHS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.steps = nn.ModuleList(
                nn.Sequential(_layer(below + skip, out), _layer(out, out))
                for below, skip, out in zip(inside, beside, WIDTHS, strict=False)
            )
            self.out = nn.Conv2d(WIDTHS[-1], 1, 3, padding=1)
            nn.init.xavier_uniform_(self.out.weight)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, levels: Levels) -> Tensor:
        """Return logits [B, H, W]."""
        x_BChw = levels[self.levels[0]]
        beside = [levels[name] for name in self.levels[1:]]
        for number, step in enumerate(self.steps):
            x_BChw = F.interpolate(x_BChw, scale_factor=2, mode="nearest")
            if number < len(beside):
                x_BChw = torch.cat([x_BChw, beside[number]], dim=1)
            x_BChw = step(x_BChw)
        logit_B1HW: Tensor = self.out(x_BChw)
        return logit_B1HW[:, 0]


def _layer(inside: int, out: int) -> nn.Sequential:
    conv = nn.Conv2d(inside, out, 3, padding=1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def focal_dice(logit_BHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return 10 · focal − log(soft Dice) of targets 0 and 1.

    The focal loss (Lin et al., 2017; no class weight) is the mean over pixels; the Dice is one
    over all pixels of the batch (MGCA, mgca/utils/segmentation_loss.py).
    """
    cross_BHW = F.binary_cross_entropy_with_logits(logit_BHW, target_BHW, reduction="none")
    missed_BHW = 1 - torch.exp(-cross_BHW)  # the probability of the wrong answer
    focal = (missed_BHW**GAMMA * cross_BHW).mean()
    share_BHW = torch.sigmoid(logit_BHW)
    common = (share_BHW * target_BHW).sum()
    dice = (2 * common + SMOOTH) / (share_BHW.sum() + target_BHW.sum() + SMOOTH)
    return FOCAL * focal - torch.log(dice)
