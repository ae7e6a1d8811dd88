"""The parts of a run: the reader of its shards, its text encoder, and the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..options import FaultBudget
from ..shards.manifest import ShardSet
from ..shards.order import Ordinals
from ..shards.reader import DamagePolicy, SampleDamaged, ShardReader
from ..shards.reading.device import DevicePixels, check_room
from ..shards.reading.pixels import HostPixels, PixelFile
from ..shards.reading.source import PictureSource
from ..work import Progress
from .network.language.live import live_text_of
from .network.model import build_model
from .network.text import TextEncoder, build_text_encoder
from .objective.corpus import (
    Corpus,
    build_corpus,
    corpus_without_texts,
    fields_of,
    text_of,
)
from .objective.labels import LabelsTask
from .objective.saved import SavedCorpus
from .objective.task import PictureTask, PretrainTask
from .recipes.recipe import Recipe
from .validation.measure import HeldOut, held_out_rows

CHUNK = 4_096  # reports read at once
KNOWN = ("key", "dataset", "study_id", "view")  # columns of the shards' manifest


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of."""

    reader: ShardReader
    damage: DamagePolicy
    encoder: TextEncoder | None  # None where no text is read
    task: PictureTask
    held_out: HeldOut | None

    def damaged(self) -> list[SampleDamaged]:
        """Return the damaged samples that this process met."""
        met = [self.damage, *([self.held_out.damage] if self.held_out else [])]
        return [found for policy in met for found in policy.quarantine.values()]


def build_parts(
    recipe: Recipe,
    shards: ShardSet,
    rows: Ordinals,
    *,
    device: torch.device,
    budget: FaultBudget,
    progress: str,
    allow_download: bool,
) -> Parts:
    """Read and embed the reports of the training rows (once a data set), and build the task.

    Raises InputError when the text encoder or the initial weights are missing, TooManyFaults when
    more samples are damaged than the budget allows.
    """
    reader = ShardReader(shards)
    damage = DamagePolicy(rows, seed=recipe.seed, budget=budget)
    encoder: TextEncoder | None = None
    if recipe.task == "labels":
        corpus = _without_texts(reader, damage)
    else:
        encoder, corpus = _reports(
            recipe, reader, damage, device=device, progress=progress, allow_download=allow_download
        )
    task = _task(recipe, corpus, encoder, list(shards.column("labels")), device=device)
    held_out = _held_out(recipe, reader, task, encoder, budget=budget, progress=progress)
    return Parts(reader=reader, damage=damage, encoder=encoder, task=task, held_out=held_out)


def _task(
    recipe: Recipe,
    corpus: Corpus,
    encoder: TextEncoder | None,
    labels: list[dict[str, float]],
    *,
    device: torch.device,
) -> PictureTask:
    model = build_model(recipe.model, text_width=encoder.width if encoder else 0, seed=recipe.seed)
    model.live_text = live_text_of(encoder)
    shared: Any = {
        "model": model.to(device),
        "corpus": corpus,
        "views": recipe.views,
        "seed": recipe.seed,
        "films": recipe.films,
    }
    if recipe.task == "labels":
        return LabelsTask(labels=labels, **shared)
    return PretrainTask(loss=recipe.loss, **shared)


def _without_texts(reader: ShardReader, damage: DamagePolicy) -> Corpus:
    columns = {name: list(reader.shards.column(name)) for name in KNOWN}
    samples = [{name: columns[name][row] for name in KNOWN} for row in damage.rows.tolist()]
    return corpus_without_texts(ordinals=damage.rows, samples=samples)


def _held_out(
    recipe: Recipe,
    reader: ShardReader,
    task: PictureTask,
    encoder: TextEncoder | None,
    *,
    budget: FaultBudget,
    progress: str,
) -> HeldOut | None:
    """Return the validate split, or None when it is not asked for or cannot be measured.

    Its loss is that of the vision-language terms, in which the two sides differ.
    """
    rows = held_out_rows(reader.shards)
    measured = recipe.task == "labels" or recipe.loss.language
    if recipe.validate.every_steps == 0 or len(rows) < 2 or not measured:
        return None
    damage = DamagePolicy(rows, seed=recipe.seed, budget=budget)
    if encoder is None:
        corpus = _without_texts(reader, damage)
    else:
        corpus = _corpus(recipe, reader, damage, encoder, device=task.device, progress=progress)
    unseen = task.held_out(dataclasses.replace(corpus, centre=task.corpus.centre))
    return HeldOut(pictures=reader, damage=damage, task=unseen, global_batch=recipe.data.batch)


def _reports(
    recipe: Recipe,
    reader: ShardReader,
    damage: DamagePolicy,
    *,
    device: torch.device,
    progress: str,
    allow_download: bool,
) -> tuple[TextEncoder, Corpus]:
    """Return the text encoder and the corpus of the training rows."""
    if recipe.text.model != "tiny":
        encoder = build_text_encoder(recipe.text, allow_download=allow_download)
        return encoder, _corpus(recipe, reader, damage, encoder, device=device, progress=progress)
    samples = _samples(recipe, reader, damage, progress)  # its words come from the reports
    texts = (text_of(sample, name) for sample in samples for name in recipe.loss.sections)
    encoder = build_text_encoder(recipe.text, texts=texts)
    return encoder, _built(recipe, reader, samples, encoder, damage, device)


def _corpus(
    recipe: Recipe,
    reader: ShardReader,
    damage: DamagePolicy,
    encoder: TextEncoder,
    *,
    device: torch.device,
    progress: str,
) -> Corpus:
    """Return the corpus of some rows, from their reports or as an earlier start kept it."""
    keys = reader.shards.column("key")
    saved = SavedCorpus(
        folder=_text_folder(reader, damage),
        digest=reader.shards.digest,
        encoder=encoder,
        ordinals=damage.rows,
        keys=[keys[row] for row in damage.rows.tolist()],
        sections=recipe.loss.sections,
    )
    # an encoder that is trained reads the texts themselves, which are not kept
    corpus = None if recipe.text.trainable_layers else saved.load()
    if corpus is None:
        samples = _samples(recipe, reader, damage, progress)
        corpus = _built(recipe, reader, samples, encoder, damage, device)
        if not damage.quarantine:
            saved.save(corpus)
    return corpus


def _built(
    recipe: Recipe,
    reader: ShardReader,
    samples: list[dict[str, Any]],
    encoder: TextEncoder,
    damage: DamagePolicy,
    device: torch.device,
) -> Corpus:
    corpus = build_corpus(
        ordinals=damage.rows,
        samples=samples,
        sections=recipe.loss.sections,
        encoder=encoder.to(device),
        folder=_text_folder(reader, damage),
    )
    encoder.to(torch.device("cpu"))  # it has done its work, and the model needs the memory
    return corpus


def _text_folder(reader: ShardReader, damage: DamagePolicy) -> Path:
    """Return where the texts of some rows of one split are kept."""
    split = reader.shards.column("split")[damage.rows[0]]
    return reader.shards.folder / "text" / ("" if split == "train" else split)


def open_pictures(
    cache: str,
    reader: ShardReader,
    rows: Ordinals,
    *,
    device: torch.device,
    workers: int,
    progress: str,
    tell: Callable[[str], None],
) -> PictureSource:
    """Return where pictures come from: the shards, or a `host` or `device` cache of their pixels.

    The cache is made first if it is not there. Raises InputError when the disk has no room for
    it, UsageError when the device has none or the pictures differ in size.
    """
    if cache == "none":
        return reader
    file = PixelFile(reader, rows)
    if cache == "device":
        check_room(file, device)
    file.build(workers=workers, progress=progress, tell=tell)
    return HostPixels(file) if cache == "host" else DevicePixels(file, device)


def _samples(
    recipe: Recipe, reader: ShardReader, damage: DamagePolicy, progress: str
) -> list[dict[str, Any]]:
    """Return the text side of each row; one whose JSON is damaged has no text."""
    rows, fields = damage.rows, fields_of(recipe.loss.sections)
    samples: list[dict[str, Any]] = []
    with Progress("read reports", len(rows), progress) as bar:
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            samples += _documents(reader, part, damage, fields)
            bar.advance(len(part))
    damage.budget.check(len(damage.quarantine), len(rows))
    return samples


def _documents(
    reader: ShardReader, ordinals: Ordinals, damage: DamagePolicy, fields: Sequence[str]
) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    while len(documents) < len(ordinals):
        rest = ordinals[len(documents) :]
        try:
            documents += reader.texts(rest)
        except SampleDamaged as found:
            damage.quarantine[found.ordinal] = found
            documents += reader.texts(rest[: int((rest == found.ordinal).argmax())])
            documents.append(dict.fromkeys(fields, "") | {"key": found.key})
    return [{name: document[name] for name in fields} for document in documents]
