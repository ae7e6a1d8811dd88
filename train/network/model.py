"""The vision-language model: a backbone, its two branches, and one head for text.

Axes: B images, C channels, H and W rows and columns, N texts, E width of the frozen text
embeddings, D joint embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract import ConfigError
from .backbone import BackboneConfig, build_backbone, pooled
from .branches import ChannelDraw, Channels, FindingsBranch, FindingsConfig, projection_head
from .norm import Norm, replace_norm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVALUATION_DRAWS = 8  # fixed channel draws that the Findings embedding averages


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
            "std must be positive": all(value > 0 for value in self.std),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its parts, the width of the joint space, and how batch statistics are taken.

    `norm` `grouped` takes the backbone's statistics over `norm_group` consecutive samples, `local`
    over the whole batch of a process, `frozen` uses the running ones and trains no scale.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    findings: FindingsConfig = field(default_factory=FindingsConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    embed_dim: int = 512
    text_hidden: int = 1024
    norm: Norm = "grouped"
    norm_group: int = 16

    def __post_init__(self) -> None:
        rules = {
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
        torch.tensor(values, device=images_BHW.device).expand(config.channels)[:, None, None]
        for values in (config.mean, config.std)
    )
    return (images_BHW[:, None].float() / 255 - mean_C11) / std_C11


class VisionLanguageModel(nn.Module):
    """IMITATE's two image branches and the text head they are aligned with."""

    def __init__(self, config: ModelConfig, *, text_width: int) -> None:
        super().__init__()
        self.config, self.text_width = config, text_width
        self.backbone = build_backbone(config.backbone, channels=config.image.channels)
        replace_norm(self.backbone, norm=config.norm, group=config.norm_group)
        self.channels = Channels(config.findings, self.backbone.channels)
        self.findings = FindingsBranch(config.findings, tokens=sum(self.channels.kept))
        read, wide = self.findings.width, self.backbone.width
        self.findings_head = projection_head((read, read, config.embed_dim))
        self.impression_head = projection_head((wide, wide, config.embed_dim))
        self.text_head = projection_head((text_width, config.text_hidden, config.embed_dim))

    def levels(self, view_BHW: Tensor) -> Mapping[str, Tensor]:
        """Return the backbone's maps of one uint8 view that has the network's size already."""
        maps: Mapping[str, Tensor] = self.backbone(normalise(view_BHW, self.config.image))
        return maps

    def read(self, levels: Mapping[str, Tensor], draw: ChannelDraw) -> Tensor:
        """Return the Findings branch's vector [B, grid²] of one draw, before its head."""
        vector: Tensor = self.findings(levels, draw)
        return vector

    @torch.no_grad()
    def features(self, images_BHW: Tensor) -> Tensor:
        """Return the backbone's pooled vectors [B, C] of stored uint8 images, in eval mode."""
        with _evaluating(self):
            return pooled(self._stored_levels(images_BHW))

    @torch.no_grad()
    def embed_images(self, images_BHW: Tensor) -> Tensor:
        """Return the Impression branch's embeddings [B, D] of stored images, of length 1."""
        with _evaluating(self):
            return F.normalize(self.impression_head(pooled(self._stored_levels(images_BHW))), dim=1)

    @torch.no_grad()
    def embed_findings(self, images_BHW: Tensor) -> Tensor:
        """Return the Findings branch's embeddings [B, D] of stored images, of length 1.

        They average the embeddings of eight fixed channel draws.
        """
        with _evaluating(self):
            levels = self._stored_levels(images_BHW)
            draws = [
                self.channels.draw("channels at evaluation", 0, i) for i in range(EVALUATION_DRAWS)
            ]
            parts = [F.normalize(self.findings_head(self.read(levels, d)), dim=1) for d in draws]
            return F.normalize(torch.stack(parts).mean(dim=0), dim=1)

    @torch.no_grad()
    def embed_text_vectors(self, text_NE: Tensor) -> Tensor:
        """Return the embeddings [N, D], of length 1, of frozen text embeddings."""
        with _evaluating(self):
            return F.normalize(self.text_head(text_NE), dim=1)

    def _stored_levels(self, images_BHW: Tensor) -> Mapping[str, Tensor]:
        maps: Mapping[str, Tensor] = self.backbone(prepare_images(images_BHW, self.config.image))
        return maps


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
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
