"""The vision-language model: a backbone, its branches, and one head for text.

Axes: B images, C channels, H and W rows and columns, h and w those of the last level, P places of
all images, N texts, E width of the frozen text embeddings, D joint embedding.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract import ConfigError
from .backbone import STAGES, BackboneConfig, build_backbone, pooled
from .branches import (
    ChannelDraw,
    Channels,
    Shares,
    TokenBranch,
    TokensConfig,
    Use,
    projection_head,
)
from .language.live import LiveText
from .norm import Norm, replace_norm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVALUATION_DRAWS = 8  # fixed channel draws that the embedding of a token branch averages


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What the network sees: the shorter side is brought to `resize`, then `size` is cut out.

    Views cut at random, evaluation cuts the centre. Grey values are divided by 255, copied to
    every channel, and normalised by `mean` and `std` (one number, or one a channel).
    """

    size: int = 224
    resize: int = 256
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        lengths = (1, self.channels)
        rules = {
            "size must be at least 8": self.size >= 8,
            "resize must be at least size": self.resize >= self.size,
            "channels must be 1 or 3": self.channels in (1, 3),
            "mean must be one number, or one a channel": len(self.mean) in lengths,
            "std must be one number, or one a channel": len(self.std) in lengths,
            "mean must be finite": all(map(math.isfinite, self.mean)),
            "std must be positive and finite": all(0 < value < math.inf for value in self.std),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


def published_branches() -> dict[str, dict[str, float]]:
    """Return the two branches of the paper and their levels (method.md A.2, A.3)."""
    keep = {"stage1": 0.25, "stage2": 0.15, "stage3": 0.10, "stage4": 0.10}
    return {"impression": {}, "findings": keep}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its parts, the width of the joint space, and how batch statistics are taken.

    `branches` names the image branches, each with the levels it reads: a share of each one's
    channels become tokens; a branch without levels reads the pooled vector. `embedding` is the
    branch whose output is the image embedding at evaluation. `view_embedding` learns what lateral
    films differ by, a vector a branch. `norm` `grouped` takes the backbone's statistics over
    `norm_group` consecutive samples, `local` over the whole batch of a process, `frozen` uses the
    running ones and trains no scale.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    branches: Mapping[str, Shares] = field(default_factory=published_branches)
    embedding: str = "impression"
    tokens: TokensConfig = field(default_factory=TokensConfig)
    view_embedding: bool = False
    image: ImageConfig = field(default_factory=ImageConfig)
    embed_dim: int = 512
    text_hidden: int = 1024
    norm: Norm = "grouped"
    norm_group: int = 16

    def __post_init__(self) -> None:
        shares = [share for levels in self.branches.values() for share in levels.values()]
        rules = {
            "branches must have names of small letters, digits and _": all(
                re.fullmatch(r"(?!vision_)[a-z][a-z0-9_]*", name) for name in self.branches
            ),
            "branches must keep shares above 0 and at most 1": all(0 < s <= 1 for s in shares),
            f"embedding must be a branch, not {self.embedding!r}": (
                self.embedding in (self.branches or ("",))
            ),
            "embed_dim must be at least 1": self.embed_dim >= 1,
            "text_hidden must be at least 1": self.text_hidden >= 1,
            "norm_group must be at least 2": self.norm_group >= 2,
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


def prepare_images(images_BHW: Tensor, config: ImageConfig) -> Tensor:
    """Return stored uint8 images as the network's input, [B, C, size, size].

    The shorter side is resized to `config.resize` (bilinear, anti-aliased), the centre is cut out.
    """
    x_B1HW = images_BHW[:, None].float()
    H, W = images_BHW.shape[1:]
    if min(H, W) != config.resize:
        scale = config.resize / min(H, W)
        size = (round(H * scale), round(W * scale))
        x_B1HW = F.interpolate(x_B1HW, size, mode="bilinear", align_corners=False, antialias=True)
    top, left = ((side - config.size) // 2 for side in x_B1HW.shape[2:])
    cut_B1HW = x_B1HW[:, :, top : top + config.size, left : left + config.size]
    return normalise(cut_B1HW[:, 0], config)


def normalise(images_BHW: Tensor, config: ImageConfig) -> Tensor:
    """Return grey values of 0 to 255 as normalised channels, [B, C, H, W] float32."""
    mean_C11, std_C11 = (
        torch.tensor(values)
        .to(images_BHW.device, non_blocking=True)
        .expand(config.channels)[:, None, None]
        for values in (config.mean, config.std)
    )
    return (images_BHW[:, None].float() / 255 - mean_C11) / std_C11


class VisionLanguageModel(nn.Module):
    """IMITATE's image branches, any number of them, and the text head they are aligned with.

    `training_parts` are what a task trains beside the model; they are not part of it when it is
    saved. `live_text` is the text encoder where its last layers are trained too.
    """

    def __init__(self, config: ModelConfig, *, text_width: int) -> None:
        super().__init__()
        self.config, self.text_width = config, text_width
        self.backbone = build_backbone(
            config.backbone,
            channels=config.image.channels,
            levels=[level for shares in config.branches.values() for level in shares],
        )
        replace_norm(self.backbone, norm=config.norm, group=config.norm_group)
        levels = self.backbone.channels
        # by name, since the order of a mapping is no part of a recipe
        branches = sorted(config.branches.items())
        self.branches = nn.ModuleDict(
            {
                name: TokenBranch(Channels(name, shares, config.tokens, channels=levels))
                for name, shares in branches
                if shares
            }
        )
        widths = {name: config.tokens.grid**2 if s else self.backbone.width for name, s in branches}
        self.heads = nn.ModuleDict(
            {name: projection_head((w, w, config.embed_dim)) for name, w in widths.items()}
        )
        learned = widths if config.view_embedding else {}
        self.lateral = nn.ParameterDict({n: nn.Parameter(torch.zeros(learned[n])) for n in learned})
        if branches:
            self.text_head = projection_head((text_width, config.text_hidden, config.embed_dim))
        self.training_parts = nn.ModuleDict()
        self.live_text: LiveText | None = None

    def levels(self, view_BHW: Tensor) -> Mapping[str, Tensor]:
        """Return the backbone's maps of one uint8 view that has the network's size already."""
        maps: Mapping[str, Tensor] = self.backbone(normalise(view_BHW, self.config.image))
        return maps

    def draw(
        self, branch: str, purpose: str, seed: int, *rest: int, use: Use = "language"
    ) -> ChannelDraw:
        """Return the channels that a token branch reads, a function of the arguments alone."""
        reader = self.branches[branch]
        assert isinstance(reader, TokenBranch)
        return reader.channels.draw(purpose, seed, *rest, use=use)

    def read(self, branch: str, levels: Mapping[str, Tensor], draw: ChannelDraw) -> Tensor:
        """Return a token branch's vector [B, grid²] of one draw, before its head."""
        vector: Tensor = self.branches[branch](levels, draw)
        return vector

    def project(self, branch: str, x_BW: Tensor, lateral_B: Tensor | None = None) -> Tensor:
        """Return a branch's embeddings [B, D] of its vectors; `lateral_B` is 1 for such films."""
        if lateral_B is not None and branch in self.lateral:
            x_BW = x_BW + lateral_B[:, None] * self.lateral[branch]
        embedded: Tensor = self.heads[branch](x_BW)
        return embedded

    @torch.no_grad()
    def features(self, images_BHW: Tensor) -> Tensor:
        """Return the backbone's pooled vectors [B, C] of stored uint8 images, in eval mode."""
        with evaluating(self):
            return pooled(self._stored_levels(images_BHW))

    def embed_images(self, images_BHW: Tensor) -> Tensor:
        """Return the image embeddings [B, D] of stored images, of length 1: those of `embedding`.

        Evaluation is of frontal films, which have no view embedding.
        """
        return self.embed_branch(self.config.embedding, images_BHW)

    @torch.no_grad()
    def embed_branch(self, branch: str, images_BHW: Tensor) -> Tensor:
        """Return a branch's embeddings [B, D] of stored images, of length 1."""
        with evaluating(self):
            return self.embed_levels(self._stored_levels(images_BHW), branch=branch)

    def embed_levels(self, levels: Mapping[str, Tensor], *, branch: str) -> Tensor:
        """Return a branch's embeddings [B, D] of an image's maps, as evaluation takes them.

        Those of a token branch average the embeddings of eight fixed channel draws.
        """
        if branch not in self.branches:
            return F.normalize(self.project(branch, pooled(levels)), dim=1)
        draws = [self.draw(branch, "evaluation", 0, i) for i in range(EVALUATION_DRAWS)]
        parts = [self.project(branch, self.read(branch, levels, draw)) for draw in draws]
        return F.normalize(torch.stack([F.normalize(p, dim=1) for p in parts]).mean(0), dim=1)

    @property
    def embeds_places(self) -> bool:
        """Whether the branch of the image embedding reads the pooled vector, hence places too."""
        name = self.config.embedding
        return name in self.config.branches and not self.config.branches[name]

    @torch.no_grad()
    def embed_places(self, picture_BHW: Tensor) -> Tensor:
        """Return embeddings of the places of the last level [B, h, w, D], of length 1.

        The pictures are grey values of 0 to 255 that are seen whole, of any size. The head of
        `embedding`, which must read the pooled vector, reads the vector of each place instead.
        """
        with evaluating(self):
            map_BChw = self.backbone(normalise(picture_BHW, self.config.image))[STAGES[-1]]
            place_PC = map_BChw.permute(0, 2, 3, 1).flatten(0, 2)
            place_PD = F.normalize(self.project(self.config.embedding, place_PC), dim=1)
            return place_PD.reshape(len(picture_BHW), *map_BChw.shape[2:], -1)

    @torch.no_grad()
    def embed_text_vectors(self, text_NE: Tensor) -> Tensor:
        """Return the embeddings [N, D], of length 1, of frozen text embeddings."""
        with evaluating(self):
            return F.normalize(self.text_head(text_NE), dim=1)

    def _stored_levels(self, images_BHW: Tensor) -> Mapping[str, Tensor]:
        maps: Mapping[str, Tensor] = self.backbone(prepare_images(images_BHW, self.config.image))
        return maps


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and back into the mode it was in."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def build_model(config: ModelConfig, *, text_width: int, seed: int) -> VisionLanguageModel:
    """Return the model with weights drawn by `seed`, the same on any machine.

    The backbone's weights are read from `config.backbone.weights` where that is set; InputError
    when they do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionLanguageModel(config, text_width=text_width)
