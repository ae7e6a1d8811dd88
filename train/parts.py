"""The parts of a run: the reader of its shards, its text encoder, and the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from .network.model import build_model
from .network.text import TextEncoder, build_text_encoder
from .objective.corpus import Corpus, build_corpus
from .objective.saved import SavedCorpus
from .objective.task import PretrainTask
from .recipes.recipe import Recipe

CHUNK = 4_096  # reports read at once
TEXT_FIELDS = ("key", "dataset", "study_id", "findings", "impression")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of."""

    reader: ShardReader
    damage: DamagePolicy
    encoder: TextEncoder
    task: PretrainTask


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
    encoder, corpus = _reports(
        recipe, reader, damage, device=device, progress=progress, allow_download=allow_download
    )
    model = build_model(recipe.model, text_width=encoder.width, seed=recipe.seed)
    task = PretrainTask(
        model=model.to(device),
        corpus=corpus,
        loss=recipe.loss,
        views=recipe.views,
        seed=recipe.seed,
    )
    return Parts(reader=reader, damage=damage, encoder=encoder, task=task)


def _reports(
    recipe: Recipe,
    reader: ShardReader,
    damage: DamagePolicy,
    *,
    device: torch.device,
    progress: str,
    allow_download: bool,
) -> tuple[TextEncoder, Corpus]:
    """Return the text encoder and the corpus, from the reports or as an earlier start kept it."""
    if recipe.text.model == "tiny":  # whose words come from the reports
        samples = _samples(reader, damage, progress)
        texts = (sample[name] for sample in samples for name in ("findings", "impression"))
        encoder = build_text_encoder(recipe.text, texts=texts)
        return encoder, _corpus(recipe, reader, samples, encoder, damage, device)
    encoder = build_text_encoder(recipe.text, allow_download=allow_download)
    keys = reader.shards.column("key")
    saved = SavedCorpus(
        folder=reader.shards.folder / "text",
        digest=reader.shards.digest,
        encoder=encoder,
        ordinals=damage.rows,
        keys=[keys[row] for row in damage.rows.tolist()],
        sections=recipe.loss.sections,
    )
    corpus = saved.load()
    if corpus is None:
        samples = _samples(reader, damage, progress)
        corpus = _corpus(recipe, reader, samples, encoder, damage, device)
        if not damage.quarantine:
            saved.save(corpus)
    return encoder, corpus


def _corpus(
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
        folder=reader.shards.folder / "text",
    )
    encoder.to(torch.device("cpu"))  # it has done its work, and the model needs the memory
    return corpus


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


def _samples(reader: ShardReader, damage: DamagePolicy, progress: str) -> list[dict[str, Any]]:
    """Return the text side of each row; one whose JSON is damaged has no text."""
    rows = damage.rows
    samples: list[dict[str, Any]] = []
    with Progress("read reports", len(rows), progress) as bar:
        for first in range(0, len(rows), CHUNK):
            part = rows[first : first + CHUNK]
            samples += _documents(reader, part, damage)
            bar.advance(len(part))
    damage.budget.check(len(damage.quarantine), len(rows))
    return samples


def _documents(
    reader: ShardReader, ordinals: Ordinals, damage: DamagePolicy
) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    while len(documents) < len(ordinals):
        rest = ordinals[len(documents) :]
        try:
            documents += reader.texts(rest)
        except SampleDamaged as found:
            damage.quarantine[found.ordinal] = found
            documents += reader.texts(rest[: int((rest == found.ordinal).argmax())])
            documents.append(dict.fromkeys(TEXT_FIELDS, "") | {"key": found.key})
    return [{name: document[name] for name in TEXT_FIELDS} for document in documents]
