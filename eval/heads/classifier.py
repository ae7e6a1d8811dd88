"""A linear layer on an image network, for labels: trained alone, or with the network.

Axes: B images, S side of the network's input, C channels of the last level, L labels, N samples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...shards.order import Ordinals
from ...train.network.model import ImageConfig, normalise
from ..encoders.encoder import Encoder
from ..metrics import Floats, auroc, ones
from ..testset import Samples
from .augment import Augment
from .stock import Stock
from .training import Lesson


class Classifier(nn.Module):
    """A network, the mean of its last level, and a linear layer drawn by `seed`.

    A frozen network stays in eval mode and has no gradient.
    """

    def __init__(self, encoder: Encoder, *, labels: int, seed: int, frozen: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(encoder.network)  # all cells share the encoder
        self.frozen = frozen
        self.last = list(encoder.network.channels)[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(encoder.network.channels[self.last], labels)
        self.network.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; a frozen network stays as it is."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self

    def pooled(self, x_BCSS: Tensor) -> Tensor:
        """Return the mean of the last level [B, C]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled_BC: Tensor = self.network(x_BCSS)[self.last].mean(dim=(2, 3))
        return pooled_BC

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """Return logits [B, L]."""
        logit_BL: Tensor = self.head(self.pooled(x_BCSS))
        return logit_BL


@dataclass(kw_only=True)
class Labelling(Lesson):
    """Train a classifier on labelled samples; NaN targets do not count.

    With `exclusive`, each sample has exactly one label that is present, and the head is a softmax.
    `monitor` is what is judged on validation: the mean `loss` over all labels, or the macro
    `auroc`. Without validation samples every epoch is judged 0, so the first would be best:
    the number of epochs cannot be chosen, and the last one is taken.
    """

    module: Classifier
    stock: Stock
    image: ImageConfig
    augment: Augment
    train: Samples
    validate: Samples
    monitor: str
    device: torch.device
    exclusive: bool = False

    def __post_init__(self) -> None:
        self.module.to(self.device)
        self._judged = 0

    def losses(self, batches: Sequence[Ordinals], epoch: int) -> Iterator[Tensor]:
        """Yield the mean cross-entropy of each batch, over its known labels or its films."""
        self.module.train()
        varied = self.stock.varied(batches, self.image, self.augment, epoch=epoch)
        for taken, image_BSS in varied:
            place_B = np.searchsorted(self.train.ordinals, taken)
            target_BL = torch.from_numpy(self.train.targets[place_B]).float().to(self.device)
            with self._precision():
                logit_BL = self.module(self._input(image_BSS))
            yield self._loss(logit_BL.float(), target_BL)

    @torch.no_grad()
    def judge(self) -> float:
        """Return the monitored value on validation, the least the best."""
        if not len(self.validate.ordinals):
            self._judged -= 1
            return float(self._judged)
        logit_NL = self._logits(self.validate.ordinals)
        if self.monitor == "auroc":
            return -macro_auroc(self.validate.targets, self._shares(logit_NL).numpy())
        return float(self._loss(logit_NL, torch.from_numpy(self.validate.targets)))

    def scores(self, ordinals: Ordinals) -> Floats:
        """Return the probabilities [N, L] of sound samples, by their centres."""
        score_NL: Floats = self._shares(self._logits(ordinals)).numpy()
        return score_NL

    @torch.no_grad()
    def _logits(self, ordinals: Ordinals) -> Tensor:
        """Return the logits [N, L] in float64."""
        self.module.eval()
        parts = []
        for image_BSS in self.stock.plain(ordinals, self.image):
            with self._precision():
                parts.append(self.module(self._input(image_BSS)).double().cpu())
        return torch.cat(parts)

    def _shares(self, logit_NL: Tensor) -> Tensor:
        return logit_NL.softmax(dim=1) if self.exclusive else logit_NL.sigmoid()

    def _loss(self, logit_NL: Tensor, target_NL: Tensor) -> Tensor:
        if self.exclusive:
            return F.cross_entropy(logit_NL, target_NL)
        return cross_entropy(logit_NL, target_NL)

    def _input(self, image_BSS: npt.NDArray[np.uint8]) -> Tensor:
        return normalise(torch.from_numpy(image_BSS).to(self.device), self.image)

    def _precision(self) -> torch.autocast:
        on = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)


def cross_entropy(logit_NL: Tensor, target_NL: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over all known targets; 0 where none is known."""
    known_NL = ~target_NL.isnan()
    loss_NL = F.binary_cross_entropy_with_logits(logit_NL, target_NL.nan_to_num(), reduction="none")
    return torch.where(known_NL, loss_NL, 0.0).sum() / known_NL.sum().clamp(min=1)


def macro_auroc(target_NL: Floats, score_NL: Floats) -> float:
    """Return the mean AUROC of the labels that have both classes; one half where none has."""
    found = []
    for target_N, score_N in zip(target_NL.T, score_NL.T, strict=True):
        known_N = ~np.isnan(target_N)
        found.append(auroc(target_N[known_N], score_N[known_N], ones(int(known_N.sum())))[0])
    return float(np.nanmean(found)) if not np.isnan(found).all() else 0.5
