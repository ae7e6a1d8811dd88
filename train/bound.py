"""What is settled before a run begins: a recipe, its shard set, the run and the device."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..contract import UsageError
from ..options import FaultBudget
from ..shards.manifest import ShardSet
from ..shards.order import Plan
from ..shards.reader import ONE_IN_100_000
from .distribution.group import rank_device
from .distribution.ranks import ALONE, Ranks
from .distribution.shares import check_shares
from .identity import Identity, choose_set, identify, plan_of
from .loop import Length
from .recipes.recipe import Recipe
from .records.tracker import Tracker, choose_tracker

CACHES = ("none", "host", "device")  # where decoded pictures are kept


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a run is told beside its recipe; nothing here changes its result."""

    data: str | None = None
    cache_bytes: int | None = None
    name: str | None = None
    workers: int | None = None
    resume: bool = True
    budget: FaultBudget = ONE_IN_100_000
    device: str = "auto"
    cache: str = "none"
    allow_download: bool = False
    track: str | None = None
    allow_online: bool = False
    requeue: bool = False
    progress: str = "auto"
    quiet: bool = False

    @property
    def progress_mode(self) -> str:
        """How progress is shown."""
        return "none" if self.quiet else self.progress

    def tell(self, line: str) -> None:
        """Say something on stderr before there is a log."""
        if not self.quiet:
            sys.stderr.write(f"{line}\n")


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A recipe bound to a shard set: which samples, in which order, for how long, and where."""

    recipe: Recipe
    shards: ShardSet
    plan: Plan
    length: Length
    run: Identity
    device: torch.device
    ranks: Ranks = ALONE
    tracker: Callable[[], Tracker] | None = None


def bind(root: Path, recipe: Recipe, options: TrainOptions, ranks: Ranks = ALONE) -> Bound:
    """Settle everything that can be refused before any work is done; write nothing.

    Raises UsageError for options that cannot be, ConfigError for batches that the ranks cannot
    share, InputError for missing or damaged shards.
    """
    device = rank_device(pick_device(options.device))
    check_shares(recipe, ranks.count)
    if options.cache not in CACHES:
        raise UsageError(f"--cache {options.cache!r} is not one of {', '.join(CACHES)}")
    if recipe.data.order == "webdataset" and (options.cache != "none" or options.cache_bytes):
        raise UsageError("webdataset reads the shards itself: no --cache, no --cache-bytes")
    shards = choose_set(root, options.data, cache_bytes=options.cache_bytes, quiet=options.quiet)
    plan = plan_of(recipe, shards)
    length = Length(
        global_batch=recipe.data.batch,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=recipe.optim.epochs,
    )
    run = identify(root, recipe, shards, name=options.name, resume=options.resume)
    tracker = None
    if options.track is not None:
        tracker = choose_tracker(
            options.track, access=shards.access, allow_online=options.allow_online
        )
    return Bound(
        recipe=recipe,
        shards=shards,
        plan=plan,
        length=length,
        run=run,
        device=device,
        ranks=ranks,
        tracker=tracker,
    )


def bind_together(root: Path, recipe: Recipe, options: TrainOptions, ranks: Ranks) -> Bound:
    """Bind on all ranks to the run that the first one finds or names."""
    if ranks.first:
        bound = bind(root, recipe, options, ranks)
        ranks.told("run", bound.run.name)
        return bound
    same = dataclasses.replace(options, name=ranks.told("run"), resume=True, quiet=True)
    return bind(root, recipe, same, ranks)


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` stands for; UsageError when there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name!r} is not one of auto, cpu, cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageError("--device cuda: torch finds no GPU", todo="use --device cpu, or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
