"""The model folder: config.json, model.safetensors, README.md, and what the encoders need.

Written as a Hugging Face folder; a `tiny` text encoder is stored in `text/`, any other is named
in config.json with its digest, and must be on the machine that loads the model. The architecture
of a backbone that came from a folder is stored in `backbone/`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...contract import InputError, UsageError
from ...files import atomic, read_json, write_json, write_text
from ..records.modelcard import model_card
from .backbone import ARCHITECTURES, MODEL_TYPE, BackboneConfig
from .branches import TokensConfig
from .language.live import live_text_of
from .model import ImageConfig, ModelConfig, VisionLanguageModel, build_model
from .text import TextConfig, TextEncoder, build_text_encoder

OWN_BACKBONE = "backbone/"  # below the model folder; stands for a name in config.json


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model as it was saved, with its text encoder, its image settings and its card."""

    model: VisionLanguageModel
    text: TextEncoder | None
    image: ImageConfig
    card: dict[str, Any]

    def features(self, images_BHW: Tensor) -> Tensor:
        """Return the backbone's pooled vectors [B, C] of stored uint8 images."""
        return self.model.features(images_BHW)

    def embed_images(self, images_BHW: Tensor) -> Tensor:
        """Return the image embeddings [B, D] of stored images, of length 1."""
        return self.model.embed_images(images_BHW)

    def embed_branch(self, branch: str, images_BHW: Tensor) -> Tensor:
        """Return a branch's embeddings [B, D] of stored images, of length 1."""
        return self.model.embed_branch(branch, images_BHW)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings [N, D] of texts, of length 1."""
        if self.text is None:
            raise UsageError("this model was trained without texts, and reads none")
        device, live = next(self.model.parameters()).device, self.model.live_text
        vectors_NE = self.text.embed(texts, net=live.net if live else None)
        return self.model.embed_text_vectors(torch.from_numpy(vectors_NE).to(device))


def save_model(
    model: VisionLanguageModel, text: TextEncoder | None, folder: Path, card: Mapping[str, Any]
) -> None:
    """Write the model folder; config.json is its commit mark and comes last.

    What was only trained beside the model is left out.
    """
    (folder / "config.json").unlink(missing_ok=True)
    state = {
        name: t.detach().cpu().contiguous()
        for name, t in model.state_dict().items()
        if not name.startswith("training_parts.")
    }
    with atomic(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
    if text is not None and text.config.model == "tiny":
        text.save(folder / "text")
    write_text(folder / "README.md", model_card(card))
    config = dataclasses.asdict(model.config)
    config["backbone"]["weights"] = ""  # the weights are here now
    if model.config.backbone.name not in ARCHITECTURES:
        config["backbone"]["name"] = OWN_BACKBONE
        write_json(folder / OWN_BACKBONE / "config.json", _architecture(model.backbone.config))
    write_json(
        folder / "config.json",
        {
            "model_type": MODEL_TYPE,
            "architectures": [type(model).__name__],
            "model": config,
            "text": text and dataclasses.asdict(text.config),
            "text_width": model.text_width,
            "text_digest": text and text.digest,
            "card": dict(card),
        },
    )


def load_model(folder: Path) -> LoadedModel:
    """Read a model folder.

    Raises InputError when it is missing or damaged, or when the text encoder on this machine is
    not the one that the model was trained with.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise InputError("not a model folder of imitate", where=str(folder))
    try:
        model_config = _model_config(config["model"], folder)
        text_config = TextConfig(**config["text"]) if config["text"] else None
    except Exception:  # a damaged file makes its readers raise anything
        raise damaged(folder) from None
    text = None
    if text_config:
        text = _text_encoder(text_config, folder, config["text_digest"])
    try:
        model = build_model(model_config, text_width=config["text_width"], seed=0)
        model.live_text = live_text_of(text)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception:  # a damaged file makes its readers raise anything
        raise damaged(folder) from None
    return LoadedModel(
        model=model.eval(), text=text, image=model_config.image, card=dict(config["card"])
    )


def damaged(folder: Path) -> InputError:
    """Return the error of a model folder that cannot be read."""
    return InputError(
        "the model folder is damaged",
        where=str(folder),
        todo="restore it from a copy, or train the run again",
    )


def _text_encoder(config: TextConfig, folder: Path, digest: str) -> TextEncoder:
    text = build_text_encoder(config, folder=folder / "text")
    if text.digest != digest:
        raise InputError(
            "the text encoder is not the one that the model was trained with",
            where=f"text.model={config.model}",
            todo="fetch the same version of the text encoder",
        )
    return text


def _architecture(config: Any) -> dict[str, Any]:
    """Return what `transformers` must know of a network, without where it came from."""
    told: dict[str, Any] = config.to_dict()
    return {
        key: v for key, v in told.items() if key not in ("_name_or_path", "transformers_version")
    }


def _model_config(tree: dict[str, Any], folder: Path) -> ModelConfig:
    if tree["backbone"]["name"] == OWN_BACKBONE:
        tree["backbone"]["name"] = f"{folder}/{OWN_BACKBONE}"
    parts = {"backbone": BackboneConfig, "tokens": TokensConfig, "image": ImageConfig}
    inner = {name: part(**_tuples(tree[name])) for name, part in parts.items()}
    return ModelConfig(**tree | inner)


def _tuples(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in tree.items()}
