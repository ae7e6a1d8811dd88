"""The image backbone: a ResNet of `transformers`, its levels by name, and its initial weights.

Axes: B images, C channels, H and W rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoBackbone, ResNetConfig

from ...contract import InputError

BackboneName = Literal["resnet50", "resnet18", "tiny"]
STAGES = ("stage1", "stage2", "stage3", "stage4")
_SHOWN = 5  # names in the message about weights that do not fit


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, and where its initial weights come from.

    `tiny` is a bottleneck ResNet of small widths for CPUs. `weights` is empty (drawn by seed), or a
    file in torchvision's ResNet layout (.pth, .pt, .bin, .safetensors), or a Hugging Face folder.
    """

    name: BackboneName = "resnet50"
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A ResNet by its numbers (He et al., 2016): the stride of a bottleneck lies on its 3x3."""

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: int = 64
    channels: int = 3


ARCHITECTURES: dict[BackboneName, Architecture] = {
    "resnet50": Architecture(
        block="bottleneck", depths=(3, 4, 6, 3), widths=(256, 512, 1024, 2048)
    ),
    "resnet18": Architecture(block="basic", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "tiny": Architecture(
        block="bottleneck", depths=(1, 1, 1, 1), widths=(32, 64, 128, 256), stem=16
    ),
}


class Backbone(nn.Module):
    """A ResNet that gives the maps of its four stages, `stage1` to `stage4`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        config = ResNetConfig(  # type: ignore[call-arg]  # `out_features` is a mixin's
            num_channels=architecture.channels,
            embedding_size=architecture.stem,
            hidden_sizes=list(architecture.widths),
            depths=list(architecture.depths),
            layer_type=architecture.block,
            out_features=list(STAGES),
        )
        self.net = AutoBackbone.from_config(config)  # type: ignore[no-untyped-call]

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each level."""
        return dict(zip(STAGES, self.architecture.widths, strict=True))

    @property
    def width(self) -> int:
        """Width of the pooled vector."""
        return self.architecture.widths[-1]

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the maps [B, C, H, W] of each level by name."""
        return dict(zip(STAGES, self.net(x_BCHW).feature_maps, strict=True))


def pooled(levels: Mapping[str, Tensor]) -> Tensor:
    """Return the pooled vector [B, C]: the mean of the last level over all positions."""
    return levels[STAGES[-1]].mean(dim=(2, 3))


def build_backbone(config: BackboneConfig, *, channels: int) -> Backbone:
    """Return the backbone, its weights drawn by torch's generator or read from `config.weights`.

    Raises InputError when the weights are missing or do not fit to the last tensor.
    """
    known = ARCHITECTURES[config.name]
    backbone = Backbone(
        Architecture(
            block=known.block,
            depths=known.depths,
            widths=known.widths,
            stem=known.stem,
            channels=channels,
        )
    )
    if config.weights:
        path = Path(config.weights)
        load_weights(backbone, read_weights(path), where=str(path))
    return backbone


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: .safetensors, a PyTorch file of tensors only, or a Hugging Face folder.

    Raises InputError when it is missing or holds anything but tensors.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise InputError("no such file of weights", where=str(file))
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # a hostile file makes the readers raise anything
        raise InputError("not readable as weights, or more than tensors", where=str(file)) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError("holds more than tensors", where=str(file))
    return dict(state)


def load_weights(backbone: Backbone, state: Mapping[str, Tensor], *, where: str) -> None:
    """Load a state dict in torchvision's or Hugging Face's ResNet names, strictly.

    A classification head is left out. InputError names what is missing, surplus or of another
    shape.
    """
    found = _hugging_face_names(state)
    wanted = backbone.net.state_dict()
    # old files lack the counter, which nothing reads
    found = {n: t for n, t in wanted.items() if n.endswith("num_batches_tracked")} | found
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} has no place" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"the weights do not fit this backbone: {'; '.join(problems[:_SHOWN])}{more}",
            where=where,
            todo="model.backbone.name must be the architecture of the weights",
        )
    backbone.net.load_state_dict(found)


def load_torchvision_resnet(state: Mapping[str, Tensor], *, where: str = "weights") -> Backbone:
    """Return the backbone that a state dict in torchvision's ResNet names describes, loaded.

    Block, depths, widths and input channels are read from the names and shapes; timm's ResNets
    have the same names. Raises InputError when they are not those of a ResNet.
    """
    names = {_strip(name): tensor for name, tensor in state.items()}
    if "conv1.weight" not in names or "layer1.0.conv1.weight" not in names:
        raise InputError("the weights are not in torchvision's ResNet layout", where=where)
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
        Architecture(
            block="bottleneck" if bottleneck else "basic",
            depths=tuple(len(found) for found in blocks),
            widths=tuple(len(end) for end in ends if end is not None),
            stem=names["conv1.weight"].shape[0],
            channels=names["conv1.weight"].shape[1],
        )
    )
    load_weights(backbone, names, where=where)
    return backbone


_PREFIX = re.compile(r"^(module\.|encoder\.(?=conv1|bn1|layer|fc)|resnet\.|backbone\.|net\.)+")
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)$")


def _strip(name: str) -> str:
    return _PREFIX.sub("", name)


def _hugging_face_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of `transformers`' ResNet, without a classification head.

    Of the weights of a whole model only those of its backbone are taken.
    """
    inner = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    renamed = {_hugging_face_name(_strip(n)): tensor for n, tensor in (inner or state).items()}
    return {n: t for n, t in renamed.items() if not n.startswith(("fc.", "classifier."))}


def _hugging_face_name(name: str) -> str:
    """Map one of torchvision's ResNet names; any other name stays as it is."""
    stem = re.match(r"(conv|bn)1\.(\w+)$", name)
    if stem:
        return f"embedder.embedder.{_PARTS[stem[1]]}.{stem[2]}"
    block = _BLOCK.match(name)
    if not block:
        return name
    stage, layer, kind, index, leaf = block.groups()
    base = f"encoder.stages.{int(stage) - 1}.layers.{layer}"
    if kind == "downsample.":
        return f"{base}.shortcut.{('convolution', 'normalization')[int(index)]}.{leaf}"
    return f"{base}.layer.{int(index) - 1}.{_PARTS[kind]}.{leaf}"


_PARTS = {"conv": "convolution", "bn": "normalization"}
