"""The model folder: config.json, model.safetensors, README.md, and what the text encoder needs.

Written as a Hugging Face folder; a `tiny` text encoder is stored in `text/`, any other is named
in config.json with its digest, and must be on the machine that loads the model.
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

from ...contract import InputError
from ...files import atomic, read_json, write_json, write_text
from ..recipes.config import leaves
from .backbone import BackboneConfig
from .branches import FindingsConfig
from .model import ImageConfig, ModelConfig, VisionLanguageModel, build_model
from .text import TextConfig, TextEncoder, build_text_encoder

MODEL_TYPE = "imitate"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model as it was saved, with its text encoder, its image settings and its card."""

    model: VisionLanguageModel
    text: TextEncoder
    image: ImageConfig
    card: dict[str, Any]

    def features(self, images_BHW: Tensor) -> Tensor:
        """Return the backbone's pooled vectors [B, C] of stored uint8 images."""
        return self.model.features(images_BHW)

    def embed_images(self, images_BHW: Tensor) -> Tensor:
        """Return the Impression branch's embeddings [B, D] of stored images, of length 1."""
        return self.model.embed_images(images_BHW)

    def embed_findings(self, images_BHW: Tensor) -> Tensor:
        """Return the Findings branch's embeddings [B, D] of stored images, of length 1."""
        return self.model.embed_findings(images_BHW)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings [N, D] of texts, of length 1."""
        device = next(self.model.parameters()).device
        return self.model.embed_text_vectors(torch.from_numpy(self.text.embed(texts)).to(device))


def save_model(
    model: VisionLanguageModel, text: TextEncoder, folder: Path, card: Mapping[str, Any]
) -> None:
    """Write the model folder; config.json is its commit mark and comes last."""
    (folder / "config.json").unlink(missing_ok=True)
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
    if text.config.model == "tiny":
        text.save(folder / "text")
    write_text(folder / "README.md", _model_card(card))
    config = dataclasses.asdict(model.config)
    config["backbone"]["weights"] = ""  # the weights are here now
    write_json(
        folder / "config.json",
        {
            "model_type": MODEL_TYPE,
            "architectures": [type(model).__name__],
            "model": config,
            "text": dataclasses.asdict(text.config),
            "text_width": model.text_width,
            "text_digest": text.digest,
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
        model_config = _model_config(config["model"])
        text_config = TextConfig(**config["text"])
        model = build_model(model_config, text_width=config["text_width"], seed=0)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception:  # a damaged file makes its readers raise anything
        raise InputError("the model folder is damaged", where=str(folder)) from None
    text = build_text_encoder(text_config, folder=folder / "text")
    if text.digest != config["text_digest"]:
        raise InputError(
            "the text encoder is not the one that the model was trained with",
            where=f"text.model={text_config.model}",
            todo="fetch the same version of the text encoder",
        )
    return LoadedModel(
        model=model.eval(), text=text, image=model_config.image, card=dict(config["card"])
    )


def _model_config(tree: dict[str, Any]) -> ModelConfig:
    parts = {"backbone": BackboneConfig, "findings": FindingsConfig, "image": ImageConfig}
    inner = {name: part(**_tuples(tree[name])) for name, part in parts.items()}
    return ModelConfig(**tree | inner)


def _tuples(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in tree.items()}


def _model_card(card: Mapping[str, Any]) -> str:
    """Return the model card: every single value of the run's card, as a table."""
    lines = [
        "---",
        "library_name: imitate",
        "tags: [chest-x-ray, vision-language]",
        "---",
        "",
        "# Vision-language model of chest radiographs",
        "",
        "Trained with `imitate train`; load it with `imitate.train.network.folder.load_model`.",
        "For research only; not a medical device.",
        "",
        "| what | value |",
        "|---|---|",
    ]
    values = sorted((key, v) for key, v in leaves(card) if isinstance(v, str | int | float))
    lines += [f"| {key} | {value} |" for key, value in values]
    return "\n".join(lines) + "\n"
