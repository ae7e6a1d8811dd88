"""A training run: shards and a recipe become a model folder, and its records."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..contract import InputError, Stopped, UsageError
from ..files import blake3_file, set_private, write_json
from ..options import FaultBudget
from ..shards.manifest import ShardSet
from ..shards.order import EpochPlan, Window
from ..shards.reader import ONE_IN_100_000, Batch, iterate
from ..shards.reading.source import PictureSource
from ..shards.reading.stock import stock_batches
from ..work import Interrupts, Progress
from .checkpoint import Checkpoints
from .feed import feed
from .identity import Identity, choose_set, identify, machine_change, new_card, training_rows
from .logbook import Logbook
from .loop import Length, Loop
from .network.folder import save_model
from .objective.diagnosis import Diagnosis, diagnose_prior
from .objective.loss import Section
from .parts import Parts, build_parts, open_pictures
from .recipes.recipe import Recipe

MOST_THREADS = 16  # of the feed, unless asked for
CACHES = ("none", "host", "device")  # where decoded pictures are kept
DIAGNOSED = 8  # batches of the first epoch that the diagnosis of the prior looks at


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
class TrainReport:
    """What became of a run; `fresh` if it was finished before."""

    run: str
    path: Path
    data: str
    steps: int
    samples: int
    loss: float
    seconds: float
    damaged: int
    fresh: bool


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A recipe bound to a shard set: which samples, in which order, for how long, and where."""

    recipe: Recipe
    shards: ShardSet
    plan: EpochPlan
    length: Length
    run: Identity
    device: torch.device


def bind(root: Path, recipe: Recipe, options: TrainOptions) -> Bound:
    """Settle everything that can be refused before any work is done; write nothing.

    Raises UsageError for options that cannot be, InputError for missing or damaged shards.
    """
    device = pick_device(options.device)
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
    return Bound(recipe=recipe, shards=shards, plan=plan, length=length, run=run, device=device)


def plan_of(recipe: Recipe, shards: ShardSet) -> EpochPlan:
    """Return which samples each step of a recipe sees."""
    rows, size = training_rows(shards), recipe.data.window
    window = Window(size=size, blocks=shards.codes("shard")[0][rows]) if size else None
    return EpochPlan(rows, seed=recipe.seed, global_batch=recipe.data.batch, window=window)


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` stands for; UsageError when there is none."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name!r} is not one of auto, cpu, cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageError("--device cuda: torch finds no GPU", todo="use --device cpu, or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def default_workers(device: torch.device | None = None) -> int:
    """Return the threads of the feed: one a core, but one where a CPU trains at the same time."""
    alone = device is None or device.type == "cuda"
    return min(len(os.sched_getaffinity(0)), MOST_THREADS) if alone else 1


def train(root: Path, recipe: Recipe, options: TrainOptions) -> TrainReport:
    """Train a recipe to the end, from where an earlier call stopped.

    Raises Stopped after saving when a signal comes, TooManyFaults when more samples are damaged
    than the budget allows, UsageError for a recipe that cannot be or a loss that is no number,
    InputError for missing or damaged shards, weights or text encoders.
    """
    start = time.monotonic()
    bound = bind(root, recipe, options)
    card = bound.run.finished()
    if card is not None:
        return _report(bound, card, time.monotonic() - start, fresh=True)
    set_private(bound.shards.access)
    parts = build_parts(
        recipe,
        bound.shards,
        bound.plan.rows,
        device=bound.device,
        budget=options.budget,
        progress=options.progress_mode,
        allow_download=options.allow_download,
    )
    pictures = open_pictures(
        options.cache,
        parts.reader,
        bound.plan.rows,
        device=bound.device,
        workers=options.workers or default_workers(),
        progress=options.progress_mode,
        tell=options.tell,
    )
    with Logbook(bound.run.folder, quiet=options.quiet) as logbook:
        card = _begin(bound, parts, logbook)
        try:
            _work(bound, parts, pictures, logbook, options)
        finally:
            _name_damaged(bound, parts, logbook, card)
        card["run"]["seconds"] = round(time.monotonic() - start, 3)
        _finish(bound, parts, logbook, card)
    return _report(bound, card, time.monotonic() - start, fresh=False)


def _report(bound: Bound, card: dict[str, Any], seconds: float, *, fresh: bool) -> TrainReport:
    return TrainReport(
        run=bound.run.name,
        path=bound.run.folder,
        data=bound.shards.name,
        steps=bound.length.steps,
        samples=bound.length.samples,
        loss=card["loss"],
        seconds=round(seconds, 3),
        damaged=len(card["damaged"]),
        fresh=fresh,
    )


def _begin(bound: Bound, parts: Parts, logbook: Logbook) -> dict[str, Any]:
    """Write the card of a run that starts or goes on, and return it."""
    before = bound.run.card()
    prior = {} if before else _diagnosis(bound, parts)
    length = bound.length
    facts = {
        "text_encoder": {"model": parts.encoder.config.model, "digest": parts.encoder.digest},
        "parameters": sum(p.numel() for p in parts.task.model.parameters()),
        "length": {"epochs": length.epochs, "steps": length.steps, "samples": length.samples},
        "prior": before["prior"] if before else {s: found.as_dict() for s, found in prior.items()},
        "damaged": before["damaged"] if before else [],
    }
    card = new_card(bound.run, facts, device=bound.device)
    if before:
        if before["text_encoder"] != card["text_encoder"]:
            raise InputError(
                "the text encoder is not the one that this run started with",
                where=str(bound.run.card_path),
                todo="put it back, or start anew with --no-resume",
            )
        change = machine_change(before, card)
        if change:
            logbook.tell(change)
    for section, found in prior.items():
        logbook.tell(found.sentence(section))
    bound.run.begin(card)
    return card


def _diagnosis(bound: Bound, parts: Parts) -> dict[Section, Diagnosis]:
    batches = [bound.plan.batch(s) for s in range(min(DIAGNOSED, bound.length.steps_per_epoch))]
    return diagnose_prior(parts.task, batches, list(bound.shards.column("labels")))


def _work(
    bound: Bound, parts: Parts, pictures: PictureSource, logbook: Logbook, options: TrainOptions
) -> None:
    """Train from the newest checkpoint to the end."""
    checkpoints = Checkpoints(
        bound.run.folder / "checkpoints",
        every=bound.recipe.checkpoint.every_steps * bound.length.global_batch,
        keep=bound.recipe.checkpoint.keep,
    )
    loop = Loop(
        parts.task,
        bound.recipe.optim,
        bound.length,
        device=bound.device,
        logbook=logbook,
        checkpoints=checkpoints,
    )
    loop.resume()
    _tell_start(bound, parts, logbook, loop)
    steps = range(loop.step, bound.length.steps)
    workers = options.workers or default_workers(bound.device)
    images = _images(bound, parts, pictures, steps, workers)
    batches = feed(parts.task, images, bound.plan, steps=steps, workers=workers)
    with (
        contextlib.closing(batches),
        Interrupts() as interrupts,
        Progress("train", bound.length.samples, options.progress_mode) as progress,
    ):
        try:
            loop.run(batches, interrupts, progress)
        except Stopped as stopped:
            # the same command with --no-resume would start yet another run
            stopped.todo = stopped.todo.replace("--no-resume", f"--name {bound.run.name}")
            raise


def _images(
    bound: Bound, parts: Parts, pictures: PictureSource, steps: range, workers: int
) -> Iterator[Batch]:
    """Return the pictures of each step, read by the recipe's reader."""
    if bound.recipe.data.order == "webdataset":
        return stock_batches(bound.shards, bound.plan, steps)
    return iterate(
        pictures,
        (bound.plan.batch(step) for step in steps),
        workers=workers,
        damage=parts.damage,
        first_step=steps.start,
    )


def _tell_start(bound: Bound, parts: Parts, logbook: Logbook, loop: Loop) -> None:
    millions = sum(p.numel() for p in parts.task.model.parameters()) / 1e6
    logbook.tell(
        f"run {bound.run.name}: {len(bound.plan.rows)} samples of {bound.shards.name}, "
        f"{bound.length.epochs} epochs of {bound.length.steps_per_epoch} steps of "
        f"{bound.length.global_batch}, {millions:.1f} M parameters, {loop.precision} on "
        f"{bound.device.type}"
    )
    backbone = bound.recipe.model.backbone
    if loop.step:
        logbook.tell(f"goes on after {loop.samples} of {bound.length.samples} samples")
    elif not backbone.weights:
        logbook.tell(
            f"backbone {backbone.name} starts from random weights; "
            "--set model.backbone.weights=FILE names others"
        )


def _name_damaged(bound: Bound, parts: Parts, logbook: Logbook, card: dict[str, Any]) -> None:
    """Put the damaged samples that this process met into the card and the log."""
    keys = {damage.key for damage in parts.damage.quarantine.values()}
    if keys:
        card["damaged"] = sorted(keys.union(card["damaged"]))
        write_json(bound.run.card_path, card)
        logbook.tell(f"damaged samples, replaced by others: {' '.join(sorted(keys))}")


def _finish(bound: Bound, parts: Parts, logbook: Logbook, card: dict[str, Any]) -> None:
    """Write the model folder, and the card of the finished run as its commit mark."""
    run = bound.run
    card["loss"] = logbook.rows()[-1]["loss"]
    card["finished"] = True
    lasting = {name: value for name, value in card.items() if name != "run"}
    save_model(parts.task.model, parts.encoder, run.model_folder, lasting)
    card["weights_blake3"] = blake3_file(run.model_folder / "model.safetensors")
    card["run"]["finished"] = time.strftime("%FT%TZ", time.gmtime())
    write_json(run.card_path, card)
    logbook.tell(f"finished; the model is in {run.model_folder}")
