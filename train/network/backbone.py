"""The image backbone: a network of `transformers`, its levels by name, and its initial weights.

Axes: B images, C channels, H and W rows and columns, T tokens.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    ConvNextConfig,
    Dinov2Config,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from ...contract import ConfigError, InputError
from ...files import read_json
from .weights import load_folder, load_weights, quiet, read_weights

STAGES = ("stage1", "stage2", "stage3", "stage4")
MODEL_TYPE = "imitate"  # of our own model folders, as their config.json says it


def resnet_config(
    *,
    block: Literal["basic", "bottleneck"],
    depths: Sequence[int],
    widths: Sequence[int],
    stem: int = 64,
    channels: int = 3,
) -> ResNetConfig:
    """Return a ResNet by its numbers (He et al., 2016); a bottleneck's stride lies on its 3x3."""
    return ResNetConfig(
        num_channels=channels,
        embedding_size=stem,
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type=block,
    )


def _vit(width: int, heads: int) -> ViTConfig:
    return ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)


def _dinov2(width: int, heads: int) -> Dinov2Config:
    return Dinov2Config(hidden_size=width, num_attention_heads=heads, image_size=518)


# `tiny` is a bottleneck ResNet of small widths for CPUs; the others have their published sizes
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "resnet50": lambda: resnet_config(
        block="bottleneck", depths=(3, 4, 6, 3), widths=(256, 512, 1024, 2048)
    ),
    "resnet18": lambda: resnet_config(
        block="basic", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512)
    ),
    "tiny": lambda: resnet_config(
        block="bottleneck", depths=(1, 1, 1, 1), widths=(32, 64, 128, 256), stem=16
    ),
    "vit_small": lambda: _vit(384, 6),
    "vit_base": lambda: _vit(768, 12),
    "dinov2_small": lambda: _dinov2(384, 6),
    "dinov2_base": lambda: _dinov2(768, 12),
    "swin_tiny": SwinConfig,
    "convnext_tiny": lambda: ConvNextConfig(hidden_sizes=[96, 192, 384, 768]),
}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, and where its initial weights come from.

    `name` is one of `ARCHITECTURES`, or a folder with the config.json of a network of
    `transformers`. `weights` is empty (drawn by seed), or a file (.pth, .pt, .bin, .safetensors)
    in torchvision's ResNet layout or the network's own names, or a Hugging Face folder, or a model
    folder of ours.
    """

    name: str = "resnet50"
    weights: str = ""

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES and "/" not in self.name:
            raise ConfigError(
                [
                    f"name must be one of {', '.join(ARCHITECTURES)}, or a folder as ./NAME, "
                    f"not {self.name!r}"
                ]
            )


def level_places(config: Any) -> dict[str, int]:
    """Return the levels of a network by name: after how many of its stages or blocks they lie.

    `stage1` to `stage4` are the stages of a network that has four, such as a ResNet; of a plain
    transformer they lie after each quarter of its blocks, which are `block1`, `block2`, … too.
    Raises InputError for a network of fewer than four.
    """
    names = getattr(config, "stage_names", None)
    depth = len(names) - 1 if names else config.num_hidden_layers
    if depth < len(STAGES):
        raise InputError(f"a backbone needs {len(STAGES)} levels at least, this one has {depth}")
    places = {stage: math.ceil(depth * i / len(STAGES)) for i, stage in enumerate(STAGES, 1)}
    if depth > len(STAGES):
        places |= {f"block{i}": i for i in range(1, depth + 1)}
    return places


class Backbone(nn.Module):
    """A network of `transformers` that gives the maps of its four stages and of further `levels`.

    The tokens of a plain transformer are normalised and laid out as maps, without its class token.
    Whatever is drawn at random in training (dropout, stochastic depth) is switched off: a step is
    a function of the batch alone. Raises ConfigError for a level that the network has not.
    """

    def __init__(self, config: Any, *, levels: Iterable[str] = ()) -> None:
        super().__init__()
        places = level_places(config)
        unknown = [name for name in levels if name not in places]
        if unknown:
            raise ConfigError(
                [f"model.branches: no level {name!r}" for name in unknown],
                todo=f"the backbone's levels are {', '.join(places)}",
            )
        # the last stage last, where it may be a block too
        given = sorted({*STAGES, *levels}, key=lambda name: (places[name], name))
        self.places = {name: places[name] for name in given}
        self.net = _network(config, sorted(set(self.places.values())))

    @property
    def config(self) -> Any:
        """The network's configuration, as `transformers` has it."""
        return self.net.config

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each level."""
        widths = getattr(self.net, "num_features", None)
        plain: int = getattr(self.config, "hidden_size", 0)
        return {name: widths[at] if widths else plain for name, at in self.places.items()}

    @property
    def width(self) -> int:
        """Width of the pooled vector."""
        return self.channels[STAGES[-1]]

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the maps [B, C, H, W] of each level by name, the last level last."""
        if self.config.model_type == "vit":
            maps = self._maps_of_tokens(x_BCHW)
        else:
            found = self.net(x_BCHW).feature_maps
            maps = dict(zip(sorted(set(self.places.values())), found, strict=True))
        return {name: maps[place] for name, place in self.places.items()}

    def _maps_of_tokens(self, x_BCHW: Tensor) -> dict[int, Tensor]:
        """Return maps by place, as DINOv2's backbone makes them: norm, then patches as positions.

        `transformers` has no backbone of the plain vision transformer, but the network itself.
        """
        net: Any = self.net
        states = net(x_BCHW, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        rows, columns = (side // self.config.patch_size for side in x_BCHW.shape[2:])
        return {
            place: net.layernorm(states[place])[:, 1:]
            .transpose(1, 2)
            .unflatten(2, (rows, columns))
            .contiguous()
            for place in set(self.places.values())
        }


def _network(config: Any, places: Sequence[int]) -> nn.Module:
    """Return the network with newly drawn weights; InputError for one that is no backbone."""
    config = copy.deepcopy(config)
    for name, value in list(vars(config).items()):
        if re.search(r"dropout|drop_path", name) and isinstance(value, int | float):
            setattr(config, name, 0.0)
    try:
        if config.model_type == "vit":
            plain: nn.Module = AutoModel.from_config(  # type: ignore[no-untyped-call]
                config, add_pooling_layer=False
            )
            return plain
        config.out_features = [config.stage_names[place] for place in places]
        net: nn.Module = AutoBackbone.from_config(config)  # type: ignore[no-untyped-call]
    except Exception:  # what a configuration may lack is not foreseeable
        raise InputError(f"{config.model_type!r} is no backbone of transformers") from None
    return net


def pooled(levels: Mapping[str, Tensor]) -> Tensor:
    """Return the pooled vector [B, C]: the mean of the last level over all positions."""
    return levels[STAGES[-1]].mean(dim=(2, 3))


def build_backbone(
    config: BackboneConfig, *, channels: int, levels: Iterable[str] = ()
) -> Backbone:
    """Return the backbone for images of `channels`.

    Its weights are drawn by torch's generator or read from `config.weights`. Raises InputError
    when the architecture or the weights are missing, or do not fit to the last tensor, ConfigError
    for a level that the network has not.
    """
    known = ARCHITECTURES.get(config.name)
    network = known() if known else read_config(Path(config.name))
    network.num_channels = channels
    backbone = Backbone(network, levels=levels)
    if config.weights:
        _load(backbone, Path(config.weights))
    return backbone


def read_config(folder: Path) -> Any:
    """Return the configuration of a network of `transformers`; InputError when there is none."""
    quiet()
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception:  # a damaged file makes the reader raise anything
        raise InputError(
            "no folder with the config.json of a network that transformers knows",
            where=str(folder),
            todo=f"model.backbone.name is one of {', '.join(ARCHITECTURES)}, or such a folder",
        ) from None


def _load(backbone: Backbone, path: Path) -> None:
    config = path / "config.json"
    if config.is_file() and read_json(config).get("model_type") != MODEL_TYPE:
        load_folder(backbone.net, path)
    else:
        load_weights(backbone.net, read_weights(path), where=str(path))
