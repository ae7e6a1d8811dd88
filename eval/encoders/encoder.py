"""What is evaluated: a source of weights, loaded as an encoder, and its control.

A `Source` names weights without loading them. The control has the same architecture and the same
text encoder, with newly drawn weights.

Axes: B images, H rows, W columns, h and w those of the last level, C channels of a feature, D joint
embedding.
"""

from __future__ import annotations

import abc
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...contract import Access, InputError
from ...files import blake3_file, digest_of, read_json
from ...train.network.backbone import Backbone
from ...train.network.folder import LoadedModel, damaged, load_model
from ...train.network.model import ImageConfig, build_model
from ...train.network.norm import GroupedBatchNorm2d
from ..metrics import Floats

Embed = Callable[[Sequence[str]], Floats]
Forward = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]  # [B, H, W] -> [B, C or D]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded encoder: pooled features [B, C], and embeddings [B, D] if it reads text too.

    `network` is the image network for heads and fine-tuning, in eval mode: it takes normalised
    pictures [B, C, H, W] of any size (`image` says how it was fed, see `normalise`), and gives its
    maps by level, the coarsest last; `network.channels` names the levels and their channels.
    `embed_places` gives embeddings [B, h, w, D] of the places of whole pictures [B, H, W].
    """

    features: Forward
    network: Network
    image: ImageConfig
    embed_images: Forward | None = None
    embed_texts: Embed | None = None
    embed_places: Callable[[Tensor], npt.NDArray[np.float32]] | None = None


class HubNetwork(nn.Module):
    """A backbone of `transformers` with the levels that its folder names in `out_features`."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.channels = dict(zip(net.out_features, net.channels, strict=True))

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the maps [B, C, H, W] of each level by name."""
        return dict(zip(self.channels, self.net(x_BCHW).feature_maps, strict=True))


Network = Backbone | HubNetwork

SUPERVISED = "*"  # the end of the name of an encoder that labels have supervised


class Source(abc.ABC):
    """Weights that can be evaluated, named and identified without loading them."""

    name: str
    digest: str
    seed: int | None = None
    reads_text: bool = False
    embeds_places: bool = False
    access: Access = "open"
    image: Mapping[str, Any]  # size, resize, channels, mean and std of what the network sees

    @abc.abstractmethod
    def load(self, device: str) -> Encoder:
        """Return the encoder; InputError when its files are damaged or do not fit."""

    @abc.abstractmethod
    def control(self, seed: int, device: str) -> Encoder:
        """Return an encoder of the same architecture with weights drawn by `seed`."""

    def control_digest(self, seed: int) -> str:
        """Identify a control: its weights follow from the architecture and the seed."""
        return digest_of(["random", self.digest, seed])


class OurModel(Source):
    """A model folder that `imitate train` wrote.

    The name of one that labels of any kind have supervised ends in a `*`, in every table.
    """

    def __init__(self, folder: Path, *, name: str, seed: int | None, access: Access) -> None:
        self.folder, self.seed, self.access = folder, seed, access
        told = read_json(folder / "config.json")
        # the card tells times and machine, which do not change what the encoder says
        card = told.pop("card", {})
        try:
            self.name = name + (SUPERVISED if card.get("supervision") == "labels" else "")
            self.image = told["model"]["image"]
            self.reads_text = told["text"] is not None
            embedding = told["model"]["embedding"]
            self.embeds_places = self.reads_text and not told["model"]["branches"][embedding]
        except (AttributeError, KeyError, TypeError):
            raise damaged(folder) from None
        self.digest = digest_of([told, blake3_file(existing(folder / "model.safetensors"))])

    def load(self, device: str) -> Encoder:
        """Return the trained encoder."""
        return _ours(load_model(self.folder), device)

    def control(self, seed: int, device: str) -> Encoder:
        """Return the untrained model with the same text encoder."""
        loaded = load_model(self.folder)
        config, width = loaded.model.config, loaded.model.text_width
        fresh = build_model(config, text_width=width, seed=seed)
        return _ours(dataclasses.replace(loaded, model=fresh), device)


def _ours(loaded: LoadedModel, device: str) -> Encoder:
    loaded.model.to(device)

    def numbers(embed: Callable[[Tensor], Tensor]) -> Forward:
        return lambda images: embed(torch.from_numpy(images).to(device)).cpu().numpy()

    def places(picture_BHW: Tensor) -> npt.NDArray[np.float32]:
        return loaded.model.embed_places(picture_BHW.to(device)).float().cpu().numpy()

    pictures = Encoder(
        features=numbers(loaded.features),
        network=whole_batches(loaded.model.backbone),
        image=loaded.image,
    )
    if loaded.text is None:
        return pictures
    return dataclasses.replace(
        pictures,
        embed_images=numbers(loaded.embed_images),
        embed_texts=lambda texts: loaded.embed_texts(list(texts)).cpu().double().numpy(),
        embed_places=places if loaded.model.embeds_places else None,
    )


def whole_batches(backbone: Backbone) -> Backbone:
    """Have batch statistics taken over whole batches from now on, where they are taken at all.

    Groups belong to pre-training; a protocol's batch of any size is one group.
    """
    for module in backbone.modules():
        if isinstance(module, GroupedBatchNorm2d):
            module.group = sys.maxsize
    return backbone


def existing(file: Path) -> Path:
    """Return the file; InputError when it is not there."""
    if not file.is_file():
        raise InputError("no such file of weights", where=str(file))
    return file
