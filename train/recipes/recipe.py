"""Recipes: what a run trains, whole, in one frozen value; read from YAML and `--set`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ...contract import ConfigError, UsageError
from ...files import digest_of
from ..checkpoint import CheckpointConfig
from ..network.model import ModelConfig
from ..network.text import TextConfig
from ..objective.loss import VISION, LossConfig
from ..objective.views import ViewsConfig
from ..optim import OptimConfig
from ..validation.config import ValidateConfig
from .config import leaves, merge, parse_yaml, read_yaml, resolve, to_tree

BASE = "base"  # key of a recipe file that names the recipe it starts from
# keys of `optim` that say how steps are computed, not what: any values are the same run
HOW = ("micro_batch", "channels_last", "compile")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How the training split is cut into batches; `batch` is the global one, over all GPUs.

    `order` is `permutation`; `window:W` for stores that are read in blocks, which permutes the
    shards and then the samples of W shards at a time; or `webdataset`, the order of that library,
    which then reads the shards. `unit` is what an epoch draws once: each `image`, or each `study`,
    whose views then are different films of it where it has them.
    """

    batch: int = 128
    order: str = "permutation"
    unit: Literal["image", "study"] = "image"

    def __post_init__(self) -> None:
        rules = {
            "batch must be at least 2, since the losses contrast its samples": self.batch >= 2,
            f"order must be permutation, window:W or webdataset, not {self.order!r}": (
                re.fullmatch(r"permutation|webdataset|window:[1-9]\d*", self.order)
            ),
            "unit study cannot be had with order webdataset, which draws images": (
                self.unit == "image" or self.order != "webdataset"
            ),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)

    @property
    def window(self) -> int | None:
        """Shards that are shuffled together, None without a window."""
        kind, _, size = self.order.partition(":")
        return int(size) if kind == "window" else None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run, beside the data set itself.

    `task` is `contrast` (images with reports) or `labels` (images with the archive's labels, as a
    control; without branches, and then without a text encoder).
    """

    name: str
    task: Literal["contrast", "labels"] = "contrast"
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)

    def __post_init__(self) -> None:
        batch, group, norm = self.data.batch, self.model.norm_group, self.model.norm
        micro = self.optim.micro_batch or batch
        pairs = any(term.startswith(VISION) for term in self.loss.terms)
        contrast = self.task == "contrast"
        rules = {
            f"data.batch {batch} must be a multiple of model.norm_group {group}": (
                norm != "grouped" or batch <= group or batch % group == 0
            ),
            f"optim.micro_batch {micro} must be a multiple of model.norm_group {group}": (
                norm != "grouped" or micro >= batch or micro % group == 0
            ),
            "optim.micro_batch needs model.norm grouped or frozen, since statistics of a "
            "micro-batch would change the loss": norm != "local" or micro >= batch,
            "loss.terms that start with vision_ need views.count 2": (
                not contrast or not pairs or self.views.count == 2
            ),
            "task labels trains no branch: take each of model.branches away with null": (
                contrast or not self.model.branches
            ),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        problems += self._unknown_branches() if contrast else []
        if problems:
            raise ConfigError(problems)

    def _unknown_branches(self) -> list[str]:
        """Return a line for each name of the loss that is none of the model's branches."""
        named = {
            "terms": self.loss.branches,
            "texts": tuple(self.loss.texts),
            "weighted": self.loss.weighted,
        }
        return [
            f"loss.{key} names {name!r}, but model.branches are {', '.join(self.model.branches)}"
            for key, names in named.items()
            for name in names
            if name not in self.model.branches
        ]

    @property
    def supervision(self) -> str:
        """`labels` where findings named by anyone or anything train the run, else `text`."""
        return "labels" if self.task == "labels" or self.loss.prior.knowledge else "text"

    @property
    def films(self) -> int:
        """Films that a sample shows: one a view where a study is drawn, else one."""
        return self.views.count if self.data.unit == "study" else 1

    @property
    def digest(self) -> str:
        """BLAKE3 of everything that decides the result, hex."""
        return digest_of(deciding(to_tree(self)))


def deciding(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of a recipe without what only says how its steps are computed."""
    optim = {key: value for key, value in tree.get("optim", {}).items() if key not in HOW}
    return tree | {"optim": optim}


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    names = (entry.name for entry in files("imitate.train.recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_settings(name: str | None) -> list[str]:
    """Return the `key=value` settings of a packaged preset of a machine, none without a name.

    Presets say how steps are computed, never what: batch and loss stay those of the recipe.
    Raises UsageError for an unknown name.
    """
    if name is None:
        return []
    folder = files("imitate.train.recipes") / "presets"
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())
    if name not in names:
        raise UsageError(f"--preset {name!r} is not one of {', '.join(names)}")
    tree = parse_yaml((folder / f"{name}.yaml").read_text(), where=f"preset {name}")
    return [f"{key}={json.dumps(value)}" for key, value in leaves(tree)]


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Return a packaged recipe, or one from a YAML file, with `key=value` settings over it.

    A file may say `base: NAME-OR-FILE` and give only what differs; its name is that of the file
    unless it says another. Raises UsageError for an unknown name, InputError for a missing file,
    ConfigError with every problem of the values.
    """
    return resolve(Recipe, _tree(name, Path(), ()), settings, where=f"recipe {name}")


def _tree(name: str, folder: Path, chain: tuple[str, ...]) -> dict[str, Any]:
    if name in chain:
        raise ConfigError([f"{BASE}: {' -> '.join((*chain, name))} goes in a circle"])
    tree, home = _read(name, folder)
    base = tree.pop(BASE, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError([f"{BASE} must be the name or file of a recipe"], where=f"recipe {name}")
    return merge(_tree(base, home, (*chain, name)), tree)


def _read(name: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Return a recipe as it is written, and the folder that its `base` is relative to."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = folder / name
        tree = read_yaml(path)
        return {"name": path.stem, **tree}, path.parent
    if name not in recipe_names():
        raise UsageError(
            f"no recipe is called {name!r}",
            todo=f"recipes: {', '.join(recipe_names())}; or the path of a YAML file",
        )
    text = files("imitate.train.recipes").joinpath(f"{name}.yaml").read_text()
    return {"name": name, **parse_yaml(text, where=f"recipe {name}")}, Path()
