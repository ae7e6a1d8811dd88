"""Which run it is: its shard set, its name, its folder and its card."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..contract import Folders, InputError, UsageError
from ..files import digest_of, read_json, safe_name, write_json, write_text
from ..schema import SCHEMA_VERSION
from ..shards.manifest import ShardSet
from ..shards.order import EpochPlan, Ordinals, Plan, StudyPlan, Window
from ..shards.reading.remote import open_remote
from ..shards.reading.transfer import is_address
from ..work import command_line
from .recipes.config import differences, read_yaml, to_tree, to_yaml
from .recipes.recipe import Recipe, deciding

PACKAGES = ("imitate-cxr", "torch", "transformers", "numpy", "opencv-python-headless")


def training_rows(shards: ShardSet) -> Ordinals:
    """Return the ordinals of the training split that have Findings or Impression."""
    rows = shards.rows("train")
    findings, impression = (np.asarray(shards.column(f"n_{s}")) for s in ("findings", "impression"))
    has_text = (findings[rows] > 0) | (impression[rows] > 0)
    return np.asarray(rows[has_text])


def plan_of(recipe: Recipe, shards: ShardSet) -> Plan:
    """Return which samples each step of a recipe sees."""
    rows, size = training_rows(shards), recipe.data.window
    window = Window(size=size, blocks=shards.codes("shard")[0][rows]) if size else None
    batch, seed = recipe.data.batch, recipe.seed
    if recipe.data.unit == "image":
        return EpochPlan(rows, seed=seed, global_batch=batch, window=window)
    studies = study_numbers(shards, rows)
    return StudyPlan(
        rows, studies, seed=seed, global_batch=batch, films=recipe.films, window=window
    )


def study_numbers(shards: ShardSet, rows: Ordinals) -> Ordinals:
    """Return a number for each sample, equal for films of one study; alone where none is told."""
    keys, archives, studies = (shards.column(name) for name in ("key", "dataset", "study_id"))
    numbers: dict[tuple[str, ...], int] = {}
    named = (
        (archives[row], studies[row]) if studies[row] else (keys[row],) for row in rows.tolist()
    )
    return np.array([numbers.setdefault(name, len(numbers)) for name in named], dtype=np.int64)


def choose_set(
    root: Path, name: str | None, *, cache_bytes: int | None = None, quiet: bool = False
) -> ShardSet:
    """Return the shard set of a name or an address, or the only one whose training split has text.

    Raises UsageError that lists them when there are several, InputError when there is none.
    """
    folders = Folders(root)
    todo = "prepare an archive with reports (`imitate prep mimic SRC`), then run `imitate shard`"
    if name is not None and is_address(name):
        found: list[ShardSet] = [open_remote(root, name, cache_bytes=cache_bytes, quiet=quiet)]
    elif name is not None:
        found = [ShardSet.open(folders.shards(safe_name(name)))]
    else:
        found = [ShardSet.open(folders.shards(each)) for each in folders.names("shards")]
    usable = [shards for shards in found if len(training_rows(shards))]
    if not usable:
        what = f"shard set {name} has" if name else "there is no shard set that has"
        raise InputError(
            f"{what} no reports to train on" if name else f"{what} reports to train on",
            where=str(found[0].folder if name else folders.shards("*")),
            todo=todo,
        )
    if len(usable) > 1:
        raise UsageError(
            f"several shard sets have reports: {', '.join(shards.name for shards in usable)}",
            todo="choose one with --data SET",
        )
    return usable[0]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A run: its recipe, its data, its name and its folder."""

    recipe: Recipe
    shards: ShardSet
    name: str
    folder: Path

    @property
    def card_path(self) -> Path:
        """File of the card."""
        return self.folder / "card.json"

    @property
    def model_folder(self) -> Path:
        """Folder of the trained model."""
        return self.folder / "model"

    @property
    def started(self) -> bool:
        """Tell whether this run was started before; recipe.yaml is the mark."""
        return (self.folder / "recipe.yaml").is_file()

    def card(self) -> dict[str, Any] | None:
        """Return the card of a run that was started before, else None."""
        return read_json(self.card_path) if self.started else None

    def finished(self) -> dict[str, Any] | None:
        """Return the card of a finished run, else None."""
        card = self.card()
        return card if card and card["finished"] else None

    def begin(self, card: Mapping[str, Any]) -> None:
        """Write the card and the resolved recipe of a run that starts or goes on."""
        write_json(self.card_path, card)
        write_text(self.folder / "recipe.yaml", to_yaml(self.recipe))


def identify(
    root: Path, recipe: Recipe, shards: ShardSet, *, name: str | None, resume: bool
) -> Identity:
    """Return the run of a recipe on a shard set, new or the one started before.

    The default name is `<recipe>-<set>-<8 hex>`, a function of the resolved recipe and the data
    set's digest. Without `resume` it is the first free name beside it. Raises UsageError with the
    differences when the run of that name has another recipe or other data.
    """
    digest = digest_of([recipe.digest, shards.digest])
    wanted = safe_name(name or f"{recipe.name}-{shards.name}-{digest[:8]}")
    number, free = 1, wanted
    while not resume and Folders(root).run(free).exists():
        number += 1
        free = f"{wanted}-{number}"
    run = Identity(recipe=recipe, shards=shards, name=free, folder=Folders(root).run(free))
    _check_same(run)
    return run


def _check_same(run: Identity) -> None:
    card = run.card()
    if card is None:
        return
    there = read_yaml(run.folder / "recipe.yaml"), card["dataset"]["digest"]
    here = to_tree(run.recipe), run.shards.digest
    found = differences(*(deciding(tree) | {"data set": data} for tree, data in (there, here)))
    if found:
        raise UsageError(
            "the run of this name has another recipe or other data:\n  " + "\n  ".join(found),
            where=str(run.folder),
            todo="choose another --name, or leave it out for the run's own name",
        )


def new_card(run: Identity, facts: Mapping[str, Any], *, device: torch.device) -> dict[str, Any]:
    """Return the card of a run: where everything came from; times and machine under `run`."""
    source = run.shards.card.get("source", {})
    return {
        "schema_version": SCHEMA_VERSION,
        "name": run.name,
        "recipe": run.recipe.name,
        "recipe_digest": run.recipe.digest,
        "recipe_file_digest": digest_of(to_tree(run.recipe)),  # also of how steps are computed
        "supervision": run.recipe.supervision,
        "seed": run.recipe.seed,
        "access": run.shards.access,
        "dataset": {
            "name": run.shards.name,
            "digest": run.shards.digest,
            "prepared": source,
        },
        **facts,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "finished": False,
        "run": {
            "command": command_line(),
            "started": time.strftime("%FT%TZ", time.gmtime()),
            "device": device.type,
            "threads": torch.get_num_threads(),
            "machine": platform.platform(),
            "python": platform.python_version(),
        },
    }


def machine_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return a line on what differs between two cards that may change the last bits, or None."""
    was = {**before["versions"], **before["run"]}
    is_ = {**now["versions"], **now["run"]}
    names = ("device", "ranks", "threads", "torch", "numpy")
    changed = [f"{n} {was.get(n)} before, {is_[n]} now" for n in names if was.get(n) != is_[n]]
    if not changed:
        return None
    return f"goes on with {'; '.join(changed)}: the same samples, but not the same last bits"
