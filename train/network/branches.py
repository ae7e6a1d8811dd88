"""The branches that turn a backbone's levels into embeddings, and the heads they end in.

Published in arXiv 2310.07355; where paper and source differ, the source is followed.

Axes: B images, C channels of a level, H and W rows and columns, K channels drawn as tokens,
W the width of a token (grid * grid), D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...contract import ConfigError
from ...shards.order import philox


@dataclass(frozen=True, kw_only=True)
class FindingsConfig:
    """The Findings branch.

    Of each level in `levels` the share `keep` of its channels become tokens, pooled to
    `grid` x `grid`. `replacement` draws channels with replacement, and `pad_to` (0: no pads) fills
    up with zero tokens that take part in the attention; both are as published, for comparison.
    """

    levels: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4")
    keep: tuple[float, ...] = (0.25, 0.15, 0.10, 0.10)
    grid: int = 16
    heads: int = 4
    replacement: bool = False
    pad_to: int = 0

    def __post_init__(self) -> None:
        rules = {
            "levels must name at least one level": bool(self.levels),
            "levels and keep must be equally long": len(self.levels) == len(self.keep),
            "keep must be shares above 0 and at most 1": all(0 < share <= 1 for share in self.keep),
            "grid must be at least 1": self.grid >= 1,
            "heads must be at least 1 and divide grid * grid": self.heads >= 1
            and self.grid**2 % max(self.heads, 1) == 0,
            "pad_to must not be negative": self.pad_to >= 0,
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


ChannelDraw = tuple[NDArray[np.int64], ...]  # the channels drawn of each level, in their order


class Channels:
    """Draws the channels of the Findings branch: which features of each level become tokens.

    One draw is shared by the whole batch, as published. Raises ConfigError when a level is not one
    of the backbone's, or when the tokens are more than `pad_to`.
    """

    def __init__(self, config: FindingsConfig, channels: Mapping[str, int]) -> None:
        unknown = [name for name in config.levels if name not in channels]
        if unknown:
            raise ConfigError(
                [f"model.findings.levels: no level {name!r}" for name in unknown],
                todo=f"the backbone's levels are {', '.join(channels)}",
            )
        self.replacement = config.replacement
        self.sizes = tuple(channels[name] for name in config.levels)
        # the published counts: 76.8 of 512 channels are 76
        self.kept = tuple(
            max(1, int(size * share)) for size, share in zip(self.sizes, config.keep, strict=True)
        )
        if config.pad_to and sum(self.kept) > config.pad_to:
            raise ConfigError(
                [f"model.findings.pad_to={config.pad_to} is below the {sum(self.kept)} tokens"]
            )

    def draw(self, purpose: str, seed: int, *rest: int) -> ChannelDraw:
        """Return a draw that is a function of its arguments alone, equal on every rank."""
        bits = philox(purpose, seed, *rest).bit_generator
        drawn = []
        for size, kept in zip(self.sizes, self.kept, strict=True):
            raw = bits.random_raw(size)
            if self.replacement:
                # the upper 32 bits as a fraction of the channels
                picked = (raw[:kept] >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)
                drawn.append(picked.astype(np.int64))
            else:
                drawn.append(np.argsort(raw, kind="stable")[:kept].astype(np.int64))
        return tuple(drawn)


class FindingsBranch(nn.Module):
    """Channels as tokens, and a CLS token that attends to them.

    The published branch attends from all tokens and reads only the CLS row; here only that row is
    computed, which is the same number.
    """

    def __init__(self, config: FindingsConfig, *, tokens: int) -> None:
        super().__init__()
        self.config = config
        width = config.grid**2
        self.pads = max(config.pad_to - tokens, 0)
        self.width = width
        self.cls_W = nn.Parameter(torch.zeros(width))
        # slot 0 belongs to CLS, the others to the tokens in their order
        self.position_KW = nn.Parameter(torch.zeros(1 + tokens + self.pads, width))
        self.attention = nn.MultiheadAttention(width, config.heads, batch_first=True)

    def forward(self, levels: Mapping[str, Tensor], draw: ChannelDraw) -> Tensor:
        """Return the branch's vector [B, W], before its head."""
        tokens_BKW = self.tokens(levels, draw)
        cls_BW = (self.cls_W + self.position_KW[0]).expand(len(tokens_BKW), -1)
        all_BKW = torch.cat([tokens_BKW, cls_BW[:, None].to(tokens_BKW.dtype)], dim=1)
        read_BW: Tensor = self.attention(all_BKW[:, -1:], all_BKW, all_BKW, need_weights=False)[0][
            :, 0
        ]
        return cls_BW + read_BW

    def tokens(self, levels: Mapping[str, Tensor], draw: ChannelDraw) -> Tensor:
        """Return the tokens with their positions, [B, K, W], without CLS."""
        pooled = []
        for name, channels in zip(self.config.levels, draw, strict=True):
            maps_BCHW = levels[name]
            index = torch.from_numpy(channels).to(maps_BCHW.device)
            kept_BCHW = maps_BCHW.index_select(1, index)
            pooled.append(F.adaptive_avg_pool2d(kept_BCHW, self.config.grid).flatten(2))
        tokens_BKW = F.pad(torch.cat(pooled, dim=1), (0, 0, 0, self.pads))
        return tokens_BKW + self.position_KW[1:]


def projection_head(widths: Sequence[int]) -> nn.Sequential:
    """Return the head of every branch: Linear, BatchNorm, ReLU, Linear, BatchNorm without affine.

    `widths` are those of input, hidden layer and output. In training its batch is the global one
    """
    width, hidden, out = widths
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
        nn.BatchNorm1d(out, affine=False),
    )
