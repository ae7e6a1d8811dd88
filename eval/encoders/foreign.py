"""Weights from elsewhere: what `--encoder PATH,key=value…` names.

A file in torchvision's ResNet layout or timm's ViT layout says nothing of its input, so size,
resize, mean and deviation must be given; a backbone's Hugging Face folder says it in
`preprocessor_config.json`; a model folder of ours says everything. What is missing is an error,
never a guess.

Axes: B images, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AutoBackbone, AutoConfig
from transformers.utils import logging as transformers_logging

from ...contract import ConfigError, InputError, UsageError
from ...files import blake3_file, digest_of, read_json
from ...train.network.backbone import (
    MODEL_TYPE,
    Backbone,
    read_config,
)
from ...train.network.layouts import load_described
from ...train.network.model import ImageConfig, prepare_images
from ...train.network.weights import load_folder, read_weights
from .encoder import Encoder, HubNetwork, OurModel, Source, existing

WEIGHT_FILES = (".pth", ".pt", ".bin", ".safetensors")
NORMS = {"imagenet": ("0.485:0.456:0.406", "0.229:0.224:0.225"), "half": ("0.5", "0.5")}
KEYS = ("size", "resize", "channels", "mean", "std", "norm")
EXAMPLE = "--encoder resnet50.pth,size=224,resize=256,norm=imagenet"


class ForeignWeights(Source):
    """A file that describes itself (`layouts.py`), or a backbone's folder; no text side."""

    def __init__(self, path: Path, image: ImageConfig) -> None:
        self.path, self.input = path, image
        self.image = dataclasses.asdict(image)
        self.name = path.name if path.is_dir() else path.stem
        held = [path] if path.is_file() else [path / "config.json", path / "model.safetensors"]
        hashes = [blake3_file(existing(file)) for file in held]
        self.digest = digest_of([self.image, *hashes])

    def load(self, device: str) -> Encoder:
        """Return the encoder with the weights of the file or folder."""
        return self._encoder(self._described() if self.path.is_file() else self._backbone(), device)

    def control(self, seed: int, device: str) -> Encoder:
        """Return the architecture that the weights have, newly drawn."""
        known = self._described() if self.path.is_file() else self._backbone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(known, Backbone):
                return self._encoder(Backbone(known.config), device)
            fresh = AutoBackbone.from_config(known.config)  # type: ignore[no-untyped-call]
            return self._encoder(fresh, device)

    def _described(self) -> Backbone:
        return load_described(read_weights(self.path), where=str(self.path))

    def _backbone(self) -> nn.Module:
        told = read_json(existing(self.path / "config.json"))
        if told.get("model_type") == "vit":  # of which transformers has no backbone, but we have
            plain = Backbone(read_config(self.path))
            load_folder(plain.net, self.path)
            return plain
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        try:
            config = AutoConfig.from_pretrained(self.path, local_files_only=True)
            # AutoBackbone.from_pretrained asks the hub even about a folder
            kind: Any = type(AutoBackbone.from_config(config))  # type: ignore[no-untyped-call]
            net, told = kind.from_pretrained(
                self.path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception:  # a damaged folder makes the reader raise anything
            raise InputError(
                "not a backbone that transformers reads", where=str(self.path)
            ) from None
        if told["missing_keys"]:
            raise InputError(
                f"{len(told['missing_keys'])} tensors of the backbone are missing, such as "
                f"{min(told['missing_keys'])}",
                where=str(self.path),
            )
        found: nn.Module = net
        return found

    def _encoder(self, net: nn.Module, device: str) -> Encoder:
        network = net if isinstance(net, Backbone) else HubNetwork(net)
        network = network.eval().to(device)

        @torch.no_grad()
        def features(image_BHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            levels = network(prepare_images(torch.from_numpy(image_BHW).to(device), self.input))
            last_BCHW = levels[list(network.channels)[-1]]
            vector: npt.NDArray[np.float32] = last_BCHW.mean(dim=(2, 3)).float().cpu().numpy()
            return vector

        return Encoder(features=features, network=network, image=self.input)


def parse_encoder(text: str) -> Source:
    """Return the source that `PATH[,key=value…]` names.

    Keys are size, resize, channels, mean, std (a number, or one a channel joined by `:`) or norm
    (imagenet, half) for the last two. A folder brings its own, which keys may replace; a file
    knows its channels only. Raises UsageError for a key that is unknown, wrong or missing,
    InputError for a path that is not there.
    """
    path_text, *parts = text.split(",")
    given = dict(_key_value(part, text) for part in parts)
    path = Path(path_text)
    if path_text and path.is_dir():
        config = _folder_config(path)
        if config.get("model_type") == MODEL_TYPE:
            return _our_folder(path, config, given, text)
        return ForeignWeights(path, _image_config(_of_folder(path, config), given, text))
    if not path.is_file():
        raise InputError(
            "no such file or folder of weights",
            where=f"--encoder {path_text}",
            todo="fetch weights of the hub first: hf download ID --local-dir FOLDER",
        )
    if path.suffix not in WEIGHT_FILES:
        raise UsageError(
            f"weights end in {', '.join(WEIGHT_FILES)}, or are a folder", where=f"--encoder {text}"
        )
    known = load_described(read_weights(path), where=str(path)).config.num_channels
    return ForeignWeights(path, _image_config({"channels": str(known)}, given, text))


def _folder_config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        raise InputError(
            "not a model's folder: it has no config.json",
            where=f"--encoder {path}",
            todo="of a run, give --run NAME or the folder model/ in it",
        )
    return read_json(path / "config.json")


def _our_folder(
    path: Path, config: Mapping[str, Any], given: Mapping[str, str], text: str
) -> OurModel:
    if given:
        raise UsageError(
            "a model folder of imitate carries its own input settings", where=f"--encoder {text}"
        )
    folder = path.resolve()
    card = config.get("card", {})
    return OurModel(
        path,
        name=folder.parent.name if folder.name == "model" else folder.name,
        seed=card.get("seed"),
        access="open" if card.get("access") == "open" else "credentialed",
    )


def _key_value(part: str, text: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if key not in KEYS or not equals:
        near = difflib.get_close_matches(key, KEYS, n=1)
        raise UsageError(
            f"{part!r} is not one of {', '.join(KEYS)}"
            + "".join(f"; did you mean {name}?" for name in near),
            where=f"--encoder {text}",
            todo=f"for example: {EXAMPLE}",
        )
    return key, value


def _image_config(known: Mapping[str, str], given: Mapping[str, str], text: str) -> ImageConfig:
    """Return what the network sees; UsageError names every value that is missing or wrong.

    `given` stands before what is known of the weights, but for their channels.
    """
    values = dict(known) | dict(given)
    if known.get("channels", values.get("channels")) != values.get("channels"):
        raise UsageError(
            f"the weights take {known['channels']} channels, not {values['channels']}",
            where=f"--encoder {text}",
        )
    norm = values.pop("norm", None)
    if norm is not None:
        if norm not in NORMS:
            raise UsageError(
                f"norm={norm} is not one of {', '.join(NORMS)}", where=f"--encoder {text}"
            )
        values["mean"], values["std"] = NORMS[norm]
    missing = [key for key in KEYS if key != "norm" and key not in values]
    if missing:
        raise UsageError(
            f"the encoder does not say its {', '.join(missing)}",
            where=f"--encoder {text}",
            todo=f"give what it was trained with; for example: {EXAMPLE}",
        )
    try:
        whole = {key: int(values[key]) for key in ("size", "resize", "channels")}
        means, stds = (
            tuple(float(number) for number in values[key].split(":")) for key in ("mean", "std")
        )
    except ValueError:
        raise UsageError(
            "size, resize and channels are whole numbers, mean and std numbers joined by ':'",
            where=f"--encoder {text}",
        ) from None
    try:
        return ImageConfig(**whole, mean=means, std=stds)
    except ConfigError as error:
        raise ConfigError(error.problems, where=f"--encoder {text}") from None


def _of_folder(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a backbone's folder says of its input, as `preprocessor_config.json` has it.

    Pictures whose shorter side is brought to a length and then cropped, or whose sides are all
    brought to one length; anything else stays unsaid, and must be given.
    """
    file = folder / "preprocessor_config.json"
    told = read_json(file) if file.is_file() else {}
    found = {"channels": str(config.get("num_channels", ""))}
    for key, name in (("mean", "image_mean"), ("std", "image_std")):
        found[key] = ":".join(str(float(value)) for value in told.get(name) or [])
    resize = _side(told.get("size"))
    crop = _side(told.get("crop_size")) if told.get("do_center_crop") else resize
    if resize and "crop_pct" in told:  # ConvNeXt's processor resizes by it, then crops to size
        crop, resize = resize, round(resize / told["crop_pct"])
    found |= {"size": str(crop or ""), "resize": str(resize or "")}
    plain = math.isclose(told.get("rescale_factor", 1 / 255), 1 / 255)
    return {key: value for key, value in found.items() if value and plain}


def _side(size: object) -> int | None:
    """Return the one length that a processor's size names, or None."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping):
        sides = {size[key] for key in ("shortest_edge", "height", "width") if key in size}
        return int(sides.pop()) if len(sides) == 1 else None
    return None
