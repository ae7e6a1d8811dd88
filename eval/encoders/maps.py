"""Maps of pictures by level, for heads that look at places: segmentation and detection.

Whatever the network, a level has the stride of a ResNet's: maps of other strides are resized, and
a network that gives fewer levels than four lends its first to the finer ones.

Axes: B pictures of a batch, C channels, H and W rows and columns of pictures, h and w of maps.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract import ConfigError
from ...shards.order import Ordinals
from ...shards.reader import ShardReader
from ...train.network.backbone import STAGES
from ...train.network.model import normalise
from ..heads.stock import Stock, ahead
from .encoder import Encoder
from .features import to_bytes

STEM = "stem"  # of a ResNet, before its pooling
STRIDES = {STEM: 2} | {stage: 4 << i for i, stage in enumerate(STAGES)}
COARSEST = max(STRIDES.values())
MODES = ("frozen", "statistics", "tuned")
BATCH = 8  # pictures whose maps are computed together where nothing is trained
ROOM = 2 << 30  # bytes of kept maps
Shape = tuple[int, int]
Levels = Mapping[str, Tensor]  # maps [B, C, h, w] by level, the coarsest last


class Maps(nn.Module):
    """A copy of an encoder's network, and how a protocol's setting trains it along.

    `setting["encoder"]` is `frozen`: nothing changes; `statistics`: the weights stay, but in
    training batch statistics are used and running ones move, as published code does (MGCA,
    mgca/models/mgca/mgca_segmenter.py); or `tuned`: weights are trained too. Dropout stays off.
    `levels` are those that a head looks at.
    """

    def __init__(
        self,
        encoder: Encoder,
        setting: Mapping[str, Any],
        *,
        levels: Sequence[str] = tuple(STRIDES),
    ) -> None:
        super().__init__()
        self.mode = setting["encoder"]
        if self.mode not in MODES:
            raise ConfigError([f"encoder is one of {', '.join(MODES)}, not {self.mode!r}"])
        self.image = encoder.image
        self.network = copy.deepcopy(encoder.network)
        if self.mode != "tuned":
            self.network.requires_grad_(False)
        sources = _sources(list(self.network.channels))
        self._of = {name: own for name, own in sources.items() if name in levels}
        self.channels = {name: self.network.channels[own] for name, own in self._of.items()}
        self._stem: list[Tensor] = []
        net: Any = self.network.net
        if STEM in levels and net.config.model_type == "resnet":
            net.embedder.embedder.register_forward_hook(self._see)
            self.channels = {STEM: net.config.embedding_size} | self.channels
        self.train(False)

    def _see(self, module: nn.Module, given: object, stem_BChw: Tensor) -> None:
        self._stem = [stem_BChw]

    def train(self, mode: bool = True) -> Maps:
        """Put the norms into training mode, unless the encoder is frozen; nothing else has one."""
        super().train(False)
        self.training = mode
        if mode and self.mode != "frozen":
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
        return self

    def forward(self, picture_BHW: Tensor) -> dict[str, Tensor]:
        """Return the maps of grey values 0 to 255; H and W are multiples of COARSEST."""
        with contextlib.nullcontext() if self.mode == "tuned" else torch.no_grad():
            found = self.network(normalise(picture_BHW, self.image))
            levels = {name: found[own] for name, own in self._of.items()}
            if self._stem:
                levels = {STEM: self._stem.pop()} | levels
            H, W = picture_BHW.shape[1:]
            return {
                name: _at(level, (H // STRIDES[name], W // STRIDES[name]))
                for name, level in levels.items()
            }


def _sources(own: Sequence[str]) -> dict[str, str]:
    """Return which of a network's own levels stands for each stage."""
    last = [name for name in STAGES if name in own]
    names = last if len(last) == len(STAGES) else list(own)
    missing = max(0, len(STAGES) - len(names))
    return dict(zip(STAGES, [names[0]] * missing + names[-len(STAGES) :], strict=True))


def _at(map_BChw: Tensor, shape: Shape) -> Tensor:
    if tuple(map_BChw.shape[2:]) == shape:
        return map_BChw
    return F.interpolate(map_BChw, shape, mode="bilinear", align_corners=False)


def shape_of(setting: Mapping[str, Any], reader: ShardReader, rows: Ordinals) -> Shape:
    """Return the rows and columns that pictures are brought to.

    Those of `setting["size"]`, or without one those of the stored pictures, each the nearest
    multiple of COARSEST.
    """
    size = setting.get("size")
    return in_strides(*((size, size) if size else reader.empty(rows[:1]).shape[1:]))


def in_strides(*sides: float) -> Shape:
    """Return rows and columns as the nearest multiples of COARSEST, once at least."""
    height, width = (max(1, round(side / COARSEST)) * COARSEST for side in sides)
    return height, width


def sized(image_BHW: Tensor, shape: Shape) -> Tensor:
    """Return pictures resized directly to a shape (bilinear, anti-aliased), in float32."""
    x_B1HW = image_BHW[:, None].float()
    if tuple(image_BHW.shape[1:]) != shape:
        x_B1HW = F.interpolate(x_B1HW, shape, mode="bilinear", align_corners=False, antialias=True)
    return x_B1HW[:, 0]


def read_films(reader: ShardReader, rows: Ordinals, shape: Shape) -> Tensor:
    """Return stored pictures [B, H, W] at a shape, grey values 0 to 255."""
    return sized(torch.from_numpy(to_bytes(reader.images(rows))), shape)


class Films:
    """Pictures of a set at one shape, and their maps: computed, or kept where nothing varies.

    Samples must be sound, see `Stock.sound`.
    """

    def __init__(self, stock: Stock, maps: Maps, shape: Shape, *, room: int = ROOM) -> None:
        self.stock, self.maps, self.shape, self.room = stock, maps, shape, room
        self._rows = np.empty(0, dtype=np.int64)
        self._kept: Levels = {}

    @property
    def device(self) -> torch.device:
        """Where maps are computed."""
        return next(self.maps.parameters()).device

    def pictures(self, batches: Sequence[Ordinals]) -> Iterator[Tensor]:
        """Yield the pictures of each batch, see `read`, read ahead and brought to the device."""
        for picture_BHW in ahead(self.read, batches, workers=self.stock.workers):
            yield picture_BHW.to(self.device)

    def read(self, rows: Ordinals) -> Tensor:
        """Return pictures [B, H, W] at the shape, grey values 0 to 255."""
        return read_films(self.stock.reader, rows, self.shape)

    def levels(self, batches: Sequence[Ordinals]) -> Iterator[Levels]:
        """Yield the maps of each batch; those of kept samples do not depend on its other ones."""
        if all(np.isin(rows, self._rows).all() for rows in batches):
            for rows in batches:
                place = torch.from_numpy(np.searchsorted(self._rows, rows)).to(self.device)
                yield {name: level[place] for name, level in self._kept.items()}
            return
        for picture_BHW in self.pictures(batches):
            yield self.maps(picture_BHW)

    def keep(self, rows: Ordinals) -> bool:
        """Compute the maps of these samples once, if they cannot change and fit the room."""
        if self.maps.mode != "frozen" or not len(rows) or self._bytes(len(rows)) > self.room:
            return False
        ordered = np.unique(rows)
        kept: dict[str, Tensor] = {}
        batches = in_batches(ordered, BATCH)
        for number, levels in enumerate(self.levels(batches)):
            for name, level in levels.items():
                if name not in kept:
                    kept[name] = level.new_empty((len(ordered), *level.shape[1:]))
                kept[name][number * BATCH : number * BATCH + len(level)] = level
        self._kept, self._rows = kept, ordered
        return True

    def _bytes(self, count: int) -> int:
        H, W = self.shape
        areas = {name: (H // stride) * (W // stride) for name, stride in STRIDES.items()}
        return 4 * count * sum(C * areas[name] for name, C in self.maps.channels.items())


def films_of(make: Callable[[], Films]) -> Callable[[], Films]:
    """Return what makes films for each lesson: anew, or once where the encoder is frozen."""
    made: list[Films] = []

    def films() -> Films:
        if not made or made[0].maps.mode != "frozen":
            made[:] = [make()]
        return made[0]

    return films


def in_batches(rows: Ordinals, batch: int) -> list[Ordinals]:
    """Return the samples in their order, a batch at a time; the last may be smaller."""
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]
