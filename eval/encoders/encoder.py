"""What is evaluated: a source of weights, loaded as an encoder, and its control.

A `Source` names weights without loading them. The control has the same architecture and the same
text encoder, with newly drawn weights.

Axes: B images, H rows, W columns, C channels of a feature, D joint embedding.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...contract import Access, InputError
from ...files import blake3_file, digest_of, read_json
from ...train.network.folder import LoadedModel, load_model
from ...train.network.model import build_model
from ..zeroshot import Embed

Forward = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]  # [B, H, W] -> [B, C or D]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded encoder: pooled features [B, C], and embeddings [B, D] if it reads text too."""

    features: Forward
    embed_images: Forward | None = None
    embed_texts: Embed | None = None


class Source(abc.ABC):
    """Weights that can be evaluated, named and identified without loading them."""

    name: str
    digest: str
    seed: int | None = None
    reads_text: bool = False
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
    """A model folder that `imitate train` wrote."""

    reads_text = True

    def __init__(self, folder: Path, *, name: str, seed: int | None, access: Access) -> None:
        self.folder, self.name, self.seed, self.access = folder, name, seed, access
        # the card tells times and machine, which do not change what the encoder says
        told = {k: v for k, v in read_json(folder / "config.json").items() if k != "card"}
        try:
            self.image = told["model"]["image"]
        except (KeyError, TypeError):
            raise InputError("the model folder is damaged", where=str(folder)) from None
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

    return Encoder(
        features=numbers(loaded.features),
        embed_images=numbers(loaded.embed_images),
        embed_texts=lambda texts: loaded.embed_texts(list(texts)).cpu().double().numpy(),
    )


def existing(file: Path) -> Path:
    """Return the file; InputError when it is not there."""
    if not file.is_file():
        raise InputError("no such file of weights", where=str(file))
    return file
