"""What is measured on the validate split: the loss of unaltered pictures, and retrieval.

Axes: n samples of the split, B samples of a batch, S side of a view, D joint embedding.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...contract import UsageError
from ...prep.policy import FRONTAL
from ...shards.manifest import ShardSet
from ...shards.order import Ordinals, permutation
from ...shards.reader import Batch, DamagePolicy, iterate
from ...shards.reading.source import PictureSource
from ..distribution.ranks import ALONE, Ranks
from ..network.model import evaluating
from ..objective.contrast import gather
from ..objective.loss import Branch
from ..objective.task import PictureTask, PretrainBatch, PretrainTask
from .retrieval import recalls

TEXTS = 256  # read at once by an encoder that is trained


def held_out_rows(shards: ShardSet) -> Ordinals:
    """Return the ordinals of the validate split that have a report and are frontal, or of no view.

    Training takes all views; what is evaluated stays frontal.
    """
    views, seen = shards.column("view"), {None, *FRONTAL}
    rows = np.array([r for r in shards.rows("validate").tolist() if views[r] in seen], np.int64)
    findings, impression = (np.asarray(shards.column(f"n_{s}")) for s in ("findings", "impression"))
    return np.asarray(rows[(findings[rows] > 0) | (impression[rows] > 0)])


class HeldOut:
    """The validate split of a run: its pictures, and a task that shares the model in training.

    Every batch has the size of the global batch in training, since the losses depend on it: the
    samples come in one order, drawn once, and begin again to fill the last batch.
    """

    def __init__(
        self,
        *,
        pictures: PictureSource,
        damage: DamagePolicy,
        task: PictureTask,
        global_batch: int,
    ) -> None:
        self.pictures, self.damage, self.task = pictures, damage, task
        rows = damage.rows
        order = rows[permutation(len(rows), purpose="validate order", seed=damage.seed, epoch=0)]
        count = -(-len(rows) // global_batch)
        self.batches = np.resize(order, (count, global_batch))

    def measure(self, ranks: Ranks = ALONE, *, workers: int = 1) -> dict[str, float]:
        """Return what the model says of the split, by the names that metrics.jsonl has.

        The mean of each loss over the batches, and recall@K of each section over the split.
        Every rank sees its share of each batch and returns the same numbers. Raises UsageError
        when the loss is not a number.
        """
        sums: dict[str, float] = defaultdict(float)
        embedded: dict[Branch, list[Tensor]] = defaultdict(list)
        seen: list[Tensor] = []
        with evaluating(self.task.model), torch.no_grad():
            for number, batch in enumerate(self._read(ranks, workers)):
                prepared = self.task.prepare(batch.images, batch.ordinals, step=number, epoch=0)
                for name, value in self.task.loss(prepared).items():
                    sums[name] += float(value)
                seen.append(gather(torch.from_numpy(prepared.ordinals)))
                for branch, vectors_BD in self._embed(prepared).items():
                    embedded[branch].append(gather(vectors_BD))
            values = {_named(name): value / len(self.batches) for name, value in sums.items()}
            ordinals = torch.cat(seen).numpy()[: len(self.damage.rows)]
            for branch, parts in embedded.items():
                found = self._retrieve(branch, torch.cat(parts)[: len(ordinals)], ordinals)
                values |= {f"validate/{branch}/{name}": value for name, value in found.items()}
        if not math.isfinite(values["validate/loss"]):
            raise UsageError(
                "the loss of the validate split is not a finite number; training cannot go on",
                todo="lower optim.lr, or set optim.warmup_steps or optim.clip",
            )
        return values

    def _read(self, ranks: Ranks, workers: int) -> Iterator[Batch]:
        shares = (ranks.share(batch) for batch in self.batches)
        return iterate(self.pictures, shares, workers=workers, damage=self.damage)

    def _embed(self, batch: PretrainBatch) -> dict[Branch, Tensor]:
        """Return the embeddings [B, D] of each branch, as evaluation takes them; none of labels."""
        if not isinstance(self.task, PretrainTask):
            return {}
        model = self.task.model
        device = next(model.parameters()).device
        levels = model.levels(batch.views.to(device)[:, 0])
        branches = self.task.criterion.config.language
        return {branch: model.embed_levels(levels, branch=branch) for branch in branches}

    def _retrieve(self, branch: Branch, image_ND: Tensor, ordinals: Ordinals) -> dict[str, float]:
        """Return the recalls of a branch over the samples that have its section."""
        assert isinstance(self.task, PretrainTask)
        corpus, model = self.task.corpus, self.task.model
        section = self.task.criterion.config.section(branch)
        places = corpus.positions(ordinals)
        there = np.flatnonzero(corpus.row[section][places] >= 0)
        if not len(there):
            return {}
        rows, text_N = np.unique(corpus.row[section][places[there]], return_inverse=True)
        device = image_ND.device
        parts = np.array_split(rows, -(-len(rows) // TEXTS))
        text_TE = torch.cat([self.task.text_vectors(part) for part in parts])
        text_TD = F.normalize(model.text_head(text_TE), dim=1)
        index: Any = torch.from_numpy(there).to(device)
        with torch.autocast(device.type, enabled=False):
            return recalls(
                image_ND[index],
                text_TD,
                text_N=torch.from_numpy(text_N).to(device),
                same_N=torch.from_numpy(corpus.same[section][places[there]]).to(device),
            )


def _named(name: str) -> str:
    return "validate/loss" if name == "loss" else f"validate/loss/{name}"
