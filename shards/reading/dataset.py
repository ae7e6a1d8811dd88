"""Our shards in anybody's training loop: a dataset and a sampler for torch's DataLoader.

    shards = ShardSet.open(Path("data/shards/mimic"))
    sampler = PlanSampler(EpochPlan(shards.rows("train"), seed=0, global_batch=256))
    loader = DataLoader(
        ShardDataset(shards.folder), batch_sampler=sampler, collate_fn=as_it_is, num_workers=4
    )

`imitate train` reads with threads of one process: as fast as worker processes on two cores
(docs/benchmarks.md), since decoding lets other threads run, and nothing has to be copied.

Legend: B batch, H rows, W columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ...contract import UsageError
from ..manifest import ShardSet
from ..order import EpochPlan, check_ranks, rank_slice
from ..reader import ShardReader

Batch = TypeVar("Batch")


def as_it_is(batch: Batch) -> Batch:
    """Return a batch that was already made whole: the loader's `collate_fn`."""
    return batch


class ShardDataset(Dataset[dict[str, Any]]):
    """Samples by ordinal, verified: pictures [B, H, W] and the JSON of each.

    A batch is read in one call and decoded into one tensor. Each process opens the set for
    itself, so the dataset can go to workers whatever their start method.

    Raises InputError when the set is not finished or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n = ShardSet.open(folder).n
        self._opened: tuple[int, ShardReader] | None = None

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """Return one sample: `ordinal`, `image` [H, W] and what its JSON holds."""
        batch = self.__getitems__([ordinal])
        return {"ordinal": ordinal, "image": batch["images"][0], **batch["samples"][0]}

    def __getitems__(self, ordinals: list[int]) -> dict[str, Any]:
        """Return a batch: `ordinals` [B], `images` [B, H, W], and `samples`, the JSON of each."""
        reader, chosen = self._reader(), np.asarray(ordinals, dtype=np.int64)
        return {
            "ordinals": torch.from_numpy(chosen),
            "images": torch.from_numpy(reader.images(chosen)),
            "samples": reader.texts(chosen),
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _reader(self) -> ShardReader:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), ShardReader(ShardSet.open(self.folder))
        return self._opened[1]


class PlanSampler(Sampler[list[int]]):
    """This rank's share of every global batch from a position on; the position is one integer.

    The loader reads ahead, so the sampler cannot know what was used: add the global batch to
    `samples` after each step of yours, save it, and give it back to go on. Any number of ranks
    and workers goes on with the same global batches.

    Raises UsageError when the ranks do not divide the global batch, or `samples` is within one.
    """

    def __init__(
        self, plan: EpochPlan, *, rank: int = 0, ranks: int = 1, samples: int = 0, epochs: int = 1
    ) -> None:
        check_ranks(plan.global_batch, ranks)
        if samples % plan.global_batch:
            raise UsageError(
                f"{samples} samples end within a global batch of {plan.global_batch}",
                where="samples",
                todo="a run can be continued after whole global batches",
            )
        self.plan, self.rank, self.ranks = plan, rank, ranks
        self.steps = range(samples // plan.global_batch, epochs * plan.steps_per_epoch)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            share: list[int] = rank_slice(
                self.plan.batch(step), rank=self.rank, ranks=self.ranks
            ).tolist()
            yield share

    def __len__(self) -> int:
        return len(self.steps)
