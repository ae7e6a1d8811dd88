"""The parts of a run: the reader of its shards, its text encoder, and the task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..options import FaultBudget
from ..shards.manifest import ShardSet
from ..shards.order import Ordinals
from ..shards.reader import DamagePolicy, SampleDamaged, ShardReader
from ..work import Progress
from .network.model import build_model
from .network.text import TextEncoder, build_text_encoder
from .objective.corpus import build_corpus
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
    """Read the reports of the training rows, embed them (once a data set), and build the task.

    Raises InputError when the text encoder or the initial weights are missing, TooManyFaults when
    more samples are damaged than the budget allows.
    """
    reader = ShardReader(shards)
    damage = DamagePolicy(rows, seed=recipe.seed, budget=budget)
    samples = _samples(reader, rows, damage, progress)
    texts = (sample[name] for sample in samples for name in ("findings", "impression"))
    encoder = build_text_encoder(recipe.text, texts=texts, allow_download=allow_download)
    corpus = build_corpus(
        ordinals=rows,
        samples=samples,
        sections=recipe.loss.sections,
        encoder=encoder.to(device),
        folder=shards.folder / "text",
    )
    encoder.to(torch.device("cpu"))  # it has done its work, and the model needs the memory
    model = build_model(recipe.model, text_width=encoder.width, seed=recipe.seed)
    task = PretrainTask(
        model=model.to(device),
        corpus=corpus,
        loss=recipe.loss,
        views=recipe.views,
        seed=recipe.seed,
    )
    return Parts(reader=reader, damage=damage, encoder=encoder, task=task)


def _samples(
    reader: ShardReader, rows: Ordinals, damage: DamagePolicy, progress: str
) -> list[dict[str, Any]]:
    """Return the text side of each row; one whose JSON is damaged has no text."""
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
