"""A training run: shards and a recipe become a model folder, and its records."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract import InputError, Stopped
from ..files import blake3_file, set_private, sweep_partials, write_json
from ..shards.reading.source import PictureSource
from ..work import Interrupts, Progress
from .bound import Bound, TrainOptions, bind_together, pick_device
from .checkpoint import Checkpoints
from .distribution.group import joined, rank_device
from .distribution.ranks import ALONE
from .distribution.slurm import requeued
from .feed import default_workers, feed, pictures_of
from .identity import machine_change, new_card
from .logbook import Logbook
from .loop import Loop
from .network.folder import save_model
from .objective.diagnosis import Diagnosis, diagnose_prior
from .objective.loss import Branch
from .parts import Parts, build_parts, open_pictures
from .recipes.config import to_tree
from .recipes.recipe import Recipe
from .records.tracker import Tracking
from .validation.outcome import outcome, take_state
from .validation.schedule import Validation

DIAGNOSED = 8  # batches of the first epoch that the diagnosis of the prior looks at


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What became of a run; `fresh` if it was finished before, `shown` by one rank alone."""

    run: str
    path: Path
    data: str
    steps: int
    samples: int
    loss: float
    seconds: float
    damaged: int
    fresh: bool
    shown: bool


def train(root: Path, recipe: Recipe, options: TrainOptions) -> TrainReport:
    """Train a recipe to the end, from where an earlier call stopped.

    Raises Stopped after saving when a signal comes, TooManyFaults when more samples are damaged
    than the budget allows, UsageError for a recipe that cannot be or a loss that is no number,
    InputError for missing or damaged shards, weights or text encoders.
    """
    start = time.monotonic()
    with joined(rank_device(pick_device(options.device))) as ranks:
        bound = bind_together(root, recipe, options, ranks)
        fresh = bound.run.finished() is not None
        if not fresh:
            set_private(bound.shards.access)
            silent = dataclasses.replace(options, quiet=True)
            with requeued(ranks) if options.requeue else contextlib.nullcontext():
                _train(bound, options if ranks.first else silent, start)
            ranks.told("finished")
        card = bound.run.finished()
    assert card is not None
    return _report(bound, card, time.monotonic() - start, fresh=fresh)


def _train(bound: Bound, options: TrainOptions, start: float) -> None:
    """Train on this rank; the first one writes the files of the run."""
    with bound.ranks.first_alone("parts"):
        parts, pictures = _parts(bound, options)
    first = bound.ranks.first
    with _records(bound, options) as logbook:
        card = _begin(bound, parts, logbook) if first else {"damaged": []}
        try:
            _work(bound, parts, pictures, logbook, options)
        except BaseException as error:
            # ranks only stop together
            _name_damaged(bound, parts, logbook, card, together=isinstance(error, Stopped))
            raise
        _name_damaged(bound, parts, logbook, card, together=True)
        if first:
            card["run"]["seconds"] = round(time.monotonic() - start, 3)
            _finish(bound, parts, logbook, card)


def _parts(bound: Bound, options: TrainOptions) -> tuple[Parts, PictureSource]:
    """Return the parts of the run, and where its pictures come from; caches are filled here."""
    parts = build_parts(
        bound.recipe,
        bound.shards,
        bound.plan.rows,
        device=bound.device,
        budget=options.budget,
        progress=options.progress_mode,
        allow_download=options.allow_download,
    )
    if bound.recipe.optim.compile:
        parts.task.model.backbone.compile()
    pictures = open_pictures(
        options.cache,
        parts.reader,
        bound.plan.rows,
        device=bound.device,
        workers=options.workers or default_workers(),
        progress=options.progress_mode,
        tell=options.tell,
    )
    return parts, pictures


@contextlib.contextmanager
def _records(bound: Bound, options: TrainOptions) -> Iterator[Logbook]:
    """Open the records of the run; on ranks that write no files they are forgotten."""
    with contextlib.ExitStack() as stack:
        folder, tracking = bound.run.folder, None
        if not bound.ranks.first:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        elif bound.tracker is not None:
            config = to_tree(bound.recipe)
            tracking = Tracking(bound.tracker, run=bound.run.name, folder=folder, config=config)
        yield stack.enter_context(Logbook(folder, quiet=options.quiet, tracking=tracking))


def _report(bound: Bound, card: dict[str, Any], seconds: float, *, fresh: bool) -> TrainReport:
    return TrainReport(
        run=bound.run.name,
        path=bound.run.folder,
        data=bound.shards.name,
        steps=card["trained"]["step"],
        samples=card["trained"]["samples"],
        loss=card["loss"],
        seconds=round(seconds, 3),
        damaged=len(card["damaged"]),
        fresh=fresh,
        shown=bound.ranks.first,
    )


def _begin(bound: Bound, parts: Parts, logbook: Logbook) -> dict[str, Any]:
    """Write the card of a run that starts or goes on, and return it."""
    sweep_partials(bound.run.folder)  # what a killed process had half written
    before = bound.run.card()
    prior = {} if before else _diagnosis(bound, parts)
    length = bound.length
    facts = {
        "text_encoder": parts.encoder
        and {"model": parts.encoder.config.model, "digest": parts.encoder.digest},
        "parameters": sum(p.numel() for p in parts.task.model.parameters()),
        "length": {"epochs": length.epochs, "steps": length.steps, "samples": length.samples},
        "prior": before["prior"] if before else {s: found.as_dict() for s, found in prior.items()},
        "damaged": before["damaged"] if before else [],
    }
    card = new_card(bound.run, facts, device=bound.device)
    card["run"]["ranks"] = bound.ranks.count
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


def _diagnosis(bound: Bound, parts: Parts) -> dict[Branch, Diagnosis]:
    steps, films = range(min(DIAGNOSED, bound.length.steps_per_epoch)), bound.plan.films
    batches = [bound.plan.batch(step)[::films] for step in steps]
    return diagnose_prior(parts.task, batches, list(bound.shards.column("labels")))


def _work(
    bound: Bound, parts: Parts, pictures: PictureSource, logbook: Logbook, options: TrainOptions
) -> None:
    """Train from the newest checkpoint to the end."""
    workers = options.workers or default_workers(bound.device, beside=bound.ranks.beside)
    loop = _loop(bound, parts, logbook, workers)
    loop.resume()
    _tell_start(bound, parts, logbook, loop)
    steps = range(loop.step, bound.length.steps)
    images = pictures_of(
        parts.reader.shards if bound.recipe.data.order == "webdataset" else pictures,
        bound.plan,
        steps,
        ranks=bound.ranks,
        damage=parts.damage,
        workers=workers,
    )
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


def _loop(bound: Bound, parts: Parts, logbook: Logbook, workers: int) -> Loop:
    validation = None
    if parts.held_out is not None:
        validation = Validation(
            functools.partial(parts.held_out.measure, workers=workers),
            bound.recipe.validate,
            steps_per_epoch=bound.length.steps_per_epoch,
            steps=bound.length.steps,
            ranks=bound.ranks,
        )
    return Loop(
        parts.task,
        bound.recipe.optim,
        bound.length,
        device=bound.device,
        logbook=logbook,
        checkpoints=_checkpoints(bound),
        ranks=bound.ranks,
        validation=validation,
    )


def _checkpoints(bound: Bound) -> Checkpoints:
    return Checkpoints(
        bound.run.folder / "checkpoints",
        every=bound.recipe.checkpoint.every_steps * bound.length.global_batch,
        keep=bound.recipe.checkpoint.keep,
    )


def _tell_start(bound: Bound, parts: Parts, logbook: Logbook, loop: Loop) -> None:
    millions = sum(p.numel() for p in parts.task.model.parameters()) / 1e6
    logbook.tell(
        f"run {bound.run.name}: {len(bound.plan.rows)} samples of {bound.shards.name}, "
        f"{bound.length.epochs} epochs of {bound.length.steps_per_epoch} steps of "
        f"{bound.length.global_batch}, {millions:.1f} M parameters, {loop.precision} on "
        f"{bound.device.type}"
    )
    if parts.held_out is None and bound.recipe.validate.every_steps != 0:
        logbook.tell("nothing is validated: no frontal films with what the loss needs are held out")
    backbone = bound.recipe.model.backbone
    if loop.step:
        logbook.tell(f"goes on after {loop.samples} of {bound.length.samples} samples")
    elif not backbone.weights:
        logbook.tell(
            f"backbone {backbone.name} starts from random weights; "
            "--set model.backbone.weights=FILE names others"
        )


def _name_damaged(
    bound: Bound, parts: Parts, logbook: Logbook, card: dict[str, Any], *, together: bool
) -> None:
    """Put the damaged samples that were met into the card and the log, `together` of all ranks."""
    ranks = bound.ranks if together else ALONE
    keys = ranks.union("damaged", (found.key for found in parts.damaged()))
    if keys and bound.ranks.first:
        card["damaged"] = sorted({*keys, *card["damaged"]})
        write_json(bound.run.card_path, card)
        logbook.tell(f"damaged samples, replaced by others: {' '.join(keys)}")


def _finish(bound: Bound, parts: Parts, logbook: Logbook, card: dict[str, Any]) -> None:
    """Write the model folder, and the card of the finished run as its commit mark."""
    run = bound.run
    card |= outcome(logbook.rows(), bound.recipe.validate)
    if card["model"]["of"] == "best":
        take_state(parts.task.model, _checkpoints(bound), card["model"]["samples"])
    card["finished"] = True
    lasting = {name: value for name, value in card.items() if name != "run"}
    save_model(parts.task.model, parts.encoder, run.model_folder, lasting)
    card["weights_blake3"] = blake3_file(run.model_folder / "model.safetensors")
    card["run"]["finished"] = time.strftime("%FT%TZ", time.gmtime())
    write_json(run.card_path, card)
    logbook.tell(f"finished; the model is in {run.model_folder}")
