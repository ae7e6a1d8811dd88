"""The branches that turn a backbone's levels into embeddings, and the heads they end in.

Published in arXiv 2310.07355; where paper and source differ, the source is followed.

Axes: B images, C channels of a level, H and W rows and columns, K channels drawn as tokens,
W the width of a token (grid * grid), D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...contract import ConfigError
from ...shards.order import philox

Shares = Mapping[str, float]  # level -> share of its channels that become tokens
Use = Literal["language", "vision"]  # the kind of terms that a draw is for
Masking = Literal["channel", "scale", "mixed"]


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """How levels become tokens, in every branch that reads tokens.

    A token is a channel, pooled to `grid` x `grid`. `masking` `channel` draws the share of each
    level's channels that the branch names; `scale` draws one level and takes all of its channels;
    `mixed` does the first for the vision-language terms and the second for the vision-vision
    terms. `replacement` draws channels with replacement, and `pad_to` (0: as they are) crops the
    tokens or fills them up with zeros that take part in the attention; both are as published, for
    comparison.
    """

    grid: int = 16
    heads: int = 4
    masking: Masking = "channel"
    replacement: bool = False
    pad_to: int = 0

    def __post_init__(self) -> None:
        rules = {
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
    """Draws which features of each level become the tokens of a branch.

    One draw is shared by the whole batch, as published. `levels` are those of the branch, in the
    order of the backbone. Raises ConfigError when one is not the backbone's, or when more tokens
    are drawn by channel than `pad_to`.
    """

    def __init__(
        self, branch: str, shares: Shares, config: TokensConfig, *, channels: Mapping[str, int]
    ) -> None:
        unknown = [level for level in shares if level not in channels]
        if unknown:
            raise ConfigError(
                [f"model.branches.{branch}: no level {level!r}" for level in unknown],
                todo=f"the backbone's levels are {', '.join(channels)}",
            )
        self.branch, self.config = branch, config
        self.levels = tuple(level for level in channels if level in shares)
        self.sizes = tuple(channels[level] for level in self.levels)
        # the published counts: 76.8 of 512 channels are 76
        self.kept = tuple(max(1, int(channels[level] * shares[level])) for level in self.levels)
        if config.pad_to and config.masking != "scale" and sum(self.kept) > config.pad_to:
            raise ConfigError(
                [
                    f"model.tokens.pad_to={config.pad_to} is below the {sum(self.kept)} tokens of "
                    f"the branch {branch!r}"
                ]
            )

    @property
    def slots(self) -> int:
        """The most tokens of a draw, pads among them."""
        most = {"channel": sum(self.kept), "scale": max(self.sizes)}
        drawn = max(most.values()) if self.config.masking == "mixed" else most[self.config.masking]
        return self.config.pad_to or drawn

    def draw(self, purpose: str, seed: int, *rest: int, use: Use = "language") -> ChannelDraw:
        """Return a draw that is a function of the branch and the arguments, equal on every rank."""
        bits = philox(purpose, seed, self.branch, use, *rest).bit_generator
        masking = self.config.masking
        if masking == "scale" or (masking == "mixed" and use == "vision"):
            chosen = int(_fractions(bits.random_raw(1), len(self.sizes))[0])
            return tuple(
                np.arange(size if level == chosen else 0) for level, size in enumerate(self.sizes)
            )
        drawn = []
        for size, kept in zip(self.sizes, self.kept, strict=True):
            raw = bits.random_raw(size)
            if self.config.replacement:
                drawn.append(_fractions(raw[:kept], size))
            else:
                drawn.append(np.argsort(raw, kind="stable")[:kept].astype(np.int64))
        return tuple(drawn)


def _fractions(raw: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Return whole numbers below `count`: the upper 32 bits as a fraction of it."""
    return ((raw >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


class TokenBranch(nn.Module):
    """Channels as tokens, and a CLS token that attends to them.

    The published branch attends from all tokens and reads only the CLS row; here only that row is
    computed, which is the same number.
    """

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        self.channels, self.config = channels, channels.config
        self.width = self.config.grid**2
        self.cls_W = nn.Parameter(torch.zeros(self.width))
        # slot 0 belongs to CLS, the others to the tokens in their order
        self.position_KW = nn.Parameter(torch.zeros(1 + channels.slots, self.width))
        self.attention = nn.MultiheadAttention(self.width, self.config.heads, batch_first=True)

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
        for name, channels in zip(self.channels.levels, draw, strict=True):
            if not len(channels):
                continue
            maps_BCHW = levels[name]
            index = torch.from_numpy(channels).to(maps_BCHW.device, non_blocking=True)
            kept_BCHW = maps_BCHW.index_select(1, index)
            pooled.append(F.adaptive_avg_pool2d(kept_BCHW, self.config.grid).flatten(2))
        tokens_BKW = torch.cat(pooled, dim=1)
        if self.config.pad_to:  # a negative number of pads crops, as the published code does
            tokens_BKW = F.pad(tokens_BKW, (0, 0, 0, self.config.pad_to - tokens_BKW.shape[1]))
        return tokens_BKW + self.position_KW[1 : 1 + tokens_BKW.shape[1]]


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
