"""Recipes: what a run trains, whole, in one frozen value; read from YAML and `--set`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...contract import ConfigError, UsageError
from ...files import digest_of
from ..checkpoint import CheckpointConfig
from ..network.model import ModelConfig
from ..network.text import TextConfig
from ..objective.loss import LossConfig
from ..objective.views import ViewsConfig
from ..optim import OptimConfig
from .config import merge, parse_yaml, read_yaml, resolve, to_tree

BASE = "base"  # key of a recipe file that names the recipe it starts from


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How the training split is cut into batches; `batch` is the global one, over all GPUs.

    `order` is `permutation`; `window:W` for stores that are read in blocks, which permutes the
    shards and then the samples of W shards at a time; or `webdataset`, the order of that library,
    which then reads the shards.
    """

    batch: int = 128
    order: str = "permutation"

    def __post_init__(self) -> None:
        rules = {
            "batch must be at least 2, since the losses contrast its samples": self.batch >= 2,
            f"order must be permutation, window:W or webdataset, not {self.order!r}": (
                re.fullmatch(r"permutation|webdataset|window:[1-9]\d*", self.order)
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
    """Everything that decides the result of a run, beside the data set itself."""

    name: str
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        batch, group = self.data.batch, self.model.norm_group
        pairs = any(term.startswith("vision_") for term in self.loss.terms)
        rules = {
            f"data.batch {batch} must be a multiple of model.norm_group {group}": (
                self.model.norm != "grouped" or batch <= group or batch % group == 0
            ),
            "loss.terms that start with vision_ need views.count 2": (
                not pairs or self.views.count == 2
            ),
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)

    @property
    def digest(self) -> str:
        """BLAKE3 of everything the recipe says, hex."""
        return digest_of(to_tree(self))


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    names = (entry.name for entry in files("imitate.train.recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


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
