"""Weights of image backbones: reading a file of them, and fitting them to a network, strictly.

Layouts that are understood: the network's own names; torchvision's ResNet (with or without `fc`,
as the published `{name}_encoder.pth`); timm's plain vision transformer; a Hugging Face folder,
read by `transformers` itself; and a model folder of ours, of which the backbone is taken. Nothing
is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from ...contract import InputError

_SHOWN = 5  # names in the message about weights that do not fit
_PREFIX = re.compile(r"^(module\.|encoder\.(?=conv1|bn1|layer|fc)|resnet\.|backbone\.|net\.)+")
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)$")
TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\w+)\.(.+)$")
_TIMM = {  # timm's names -> those of `transformers`
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_TIMM_PARTS = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp": "mlp"}
_PARTS = {"conv": "convolution", "bn": "normalization"}
# what classifiers and masked models have beside the backbone
_HEADS = re.compile(r"(^|\.)(classifier|\w*head|fc|pooler|decoder|layernorm|mask_token)(\.|$)")
# scale 1 and shift 0 of the maps of a level, which published classifiers of Swin and ConvNeXt lack
_DRAWN = re.compile(r"hidden_states_norms\.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: .safetensors, a PyTorch file of tensors only, or a folder with the former.

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


def load_weights(net: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Load a state dict in the network's own names, or in torchvision's ResNet names, strictly.

    A classification head is left out. InputError names what is missing, surplus or of another
    shape.
    """
    found = _own_names(state)
    wanted = net.state_dict()
    # old files lack the counter, which nothing reads
    found = {n: t for n, t in wanted.items() if n.endswith("num_batches_tracked")} | found
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} has no place" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    _refuse(problems, where)
    net.load_state_dict(found)


def load_folder(net: Any, folder: Path) -> None:
    """Load a Hugging Face folder into a network of `transformers`, strictly.

    Names of older versions are translated by the library. Heads of other tasks are left out, and
    the norms of the levels keep scale 1 and shift 0 where the folder has none. InputError names
    what is missing, surplus or of another shape.
    """
    quiet()
    try:
        loaded, told = type(net).from_pretrained(
            folder,
            config=net.config,
            local_files_only=True,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
            **({"add_pooling_layer": False} if net.config.model_type == "vit" else {}),
        )
    except Exception:  # a damaged folder makes the reader raise anything
        raise InputError(
            "not readable as weights, or more than tensors", where=str(folder)
        ) from None
    missing = sorted(name for name in told["missing_keys"] if not _DRAWN.match(name))
    surplus = sorted(name for name in told["unexpected_keys"] if not _HEADS.search(name))
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} has no place" for name in surplus]
    problems += [
        f"{name} is {tuple(there)}, not {tuple(here)}"
        for name, there, here in sorted(told["mismatched_keys"])
    ]
    _refuse(problems, str(folder))
    net.load_state_dict(loaded.state_dict())


def quiet() -> None:
    """Keep the bars and remarks of `transformers` out of the progress on stderr."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without the prefixes that wrappers put before a backbone's names."""
    return {_strip(name): tensor for name, tensor in state.items()}


def _refuse(problems: Sequence[str], where: str) -> None:
    if not problems:
        return
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise InputError(
        f"the weights do not fit this backbone: {'; '.join(problems[:_SHOWN])}{more}",
        where=where,
        todo="model.backbone.name must be the architecture of the weights",
    )


def _strip(name: str) -> str:
    return _PREFIX.sub("", name)


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of `transformers`, without a classification head.

    Of the weights of a whole model only those of its backbone are taken.
    """
    inner = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    found = plain_names(inner or state)
    if "blocks.0.attn.qkv.weight" in found:
        return _vit_names(found)
    renamed = {_own_name(name): tensor for name, tensor in found.items()}
    return {n: t for n, t in renamed.items() if not n.startswith(("fc.", "classifier."))}


def _vit_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of timm's plain ViT under the names of `transformers`, without a head.

    timm keeps query, key and value of a block in one tensor, in this order along its first axis.
    Decoders and mask tokens of masked pre-training are left out too.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = TIMM_BLOCK.match(name)
        if block is None:
            if name in _TIMM or not re.match(r"head|fc_norm|decoder|mask_token|pre_logits", name):
                found[_TIMM.get(name, name)] = tensor
            continue
        base, part, leaf = f"layers.{block[1]}", block[2], block[3]
        if part == "attn" and leaf.startswith("qkv."):
            for kind, third in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{base}.attention.{kind}_proj.{leaf.removeprefix('qkv.')}"] = third
        elif part == "attn":
            found[f"{base}.attention.o_{leaf}"] = tensor
        else:
            found[f"{base}.{_TIMM_PARTS.get(part, part)}.{leaf}"] = tensor
    return found


def _own_name(name: str) -> str:
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
