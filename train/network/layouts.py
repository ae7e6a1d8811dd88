"""Backbones that a file of weights describes by itself, through its names and shapes.

Two layouts: torchvision's ResNets, whose names timm's ResNets share, and timm's plain vision
transformers, in which most published ViT encoders of this field come (MGCA, MRM, MAE).

Axes: D width, T tokens, P side of a patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor
from transformers import ViTConfig

from ...contract import InputError
from .backbone import Backbone, resnet_config
from .weights import TIMM_BLOCK, load_weights, plain_names

HEAD_WIDTH = 64  # of every published size of timm's vit_*; the file does not tell


def load_described(state: Mapping[str, Tensor], *, where: str = "weights") -> Backbone:
    """Return the backbone that a state dict describes, with its weights, strictly.

    Raises InputError when it is of neither layout, or when a tensor is missing, of a wrong shape or
    has no place.
    """
    names = plain_names(state)
    try:
        if "conv1.weight" in names and "layer1.0.conv1.weight" in names:
            return _resnet(names, where)
        if "patch_embed.proj.weight" in names and "blocks.0.attn.qkv.weight" in names:
            return _vit(names, where)
    except (IndexError, TypeError, ValueError):  # an axis too few or too many
        raise InputError("the weights have shapes that no such network has", where=where) from None
    raise InputError(
        "the weights are neither in torchvision's ResNet layout nor in timm's ViT layout",
        where=where,
    )


def _vit(names: Mapping[str, Tensor], where: str) -> Backbone:
    """Return a plain vision transformer of heads of 64, for the size that its positions tell."""
    patch_DCPP, position_1TD = names["patch_embed.proj.weight"], names.get("pos_embed")
    if position_1TD is None:
        raise InputError("the weights have no positions (pos_embed)", where=where)
    width, channels, side, _ = patch_DCPP.shape
    blocks = {match[1] for name in names if (match := TIMM_BLOCK.match(name))}
    hidden = names.get("blocks.0.mlp.fc1.weight")
    grid = math.isqrt(position_1TD.shape[1] - 1)
    if hidden is None or width % HEAD_WIDTH or grid**2 != position_1TD.shape[1] - 1:
        raise InputError("the weights are not of a plain vision transformer", where=where)
    backbone = Backbone(
        ViTConfig(
            hidden_size=width,
            num_hidden_layers=len(blocks),
            num_attention_heads=width // HEAD_WIDTH,
            intermediate_size=hidden.shape[0],
            layer_norm_eps=1e-6,
            image_size=grid * side,
            patch_size=side,
            num_channels=channels,
            qkv_bias="blocks.0.attn.qkv.bias" in names,
        )
    )
    load_weights(backbone.net, names, where=where)
    return backbone


def _resnet(names: Mapping[str, Tensor], where: str) -> Backbone:
    """Return a ResNet; block, depths, widths and channels are read from names and shapes."""
    bottleneck = "layer1.0.conv3.weight" in names
    last = "conv3" if bottleneck else "conv2"
    blocks = [
        {m[1] for name in names if (m := re.match(rf"layer{stage}\.(\d+)\.", name))}
        for stage in (1, 2, 3, 4)
    ]
    if not all(blocks):
        raise InputError("the weights have fewer than four stages", where=where)
    ends = [names.get(f"layer{stage}.0.{last}.weight") for stage in (1, 2, 3, 4)]
    if any(end is None for end in ends):
        raise InputError("the weights are not in torchvision's ResNet layout", where=where)
    backbone = Backbone(
        resnet_config(
            block="bottleneck" if bottleneck else "basic",
            depths=[len(found) for found in blocks],
            widths=[len(end) for end in ends if end is not None],
            stem=names["conv1.weight"].shape[0],
            channels=names["conv1.weight"].shape[1],
        )
    )
    load_weights(backbone.net, names, where=where)
    return backbone
