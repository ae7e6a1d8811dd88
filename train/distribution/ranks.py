"""The ranks: the processes that train one model together, and what they tell each other.

Numbers and texts go through the group's store or a gloo group on the CPU, so that none of it
waits for a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ...shards.order import Ordinals, rank_slice


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process, number `rank` of `count`; alone by default, and then nothing is said.

    `post` publishes a text under a name, `read` waits until another rank has published it and
    raises when a rank has ended.
    """

    rank: int = 0
    count: int = 1
    beside: int = 1  # ranks on this machine
    post: Callable[[str, str], None] | None = None
    read: Callable[[str], str] | None = None

    @property
    def first(self) -> bool:
        """Tell whether this rank is the one that writes files."""
        return self.rank == 0

    def share(self, batch: Ordinals) -> Ordinals:
        """Return this rank's consecutive share of a global batch.  # [B / count]"""
        return rank_slice(batch, rank=self.rank, ranks=self.count)

    def most(self, value: int) -> int:
        """Return the largest of the ranks' values; each must ask."""
        if self.count == 1:
            return value
        found = torch.tensor(value)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return int(found)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, the same bits on each; all must ask."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def told(self, name: str, text: str = "") -> str:
        """Return the text that the first rank tells all under a name."""
        if self.post is None or self.read is None:
            return text
        if self.first:
            self.post(name, text)
            return text
        return self.read(name)

    def union(self, name: str, texts: Iterable[str]) -> list[str]:
        """Return the texts of all ranks, each once, sorted; all must ask."""
        mine = set(texts)
        if self.post is None or self.read is None:
            return sorted(mine)
        self.post(f"{name} {self.rank}", json.dumps(sorted(mine)))
        whole = [json.loads(self.read(f"{name} {rank}")) for rank in range(self.count)]
        return sorted(mine.union(*whole))

    @contextmanager
    def first_alone(self, name: str) -> Iterator[None]:
        """Let the first rank do something alone, such as fill a cache, and the others after it."""
        if not self.first:
            self.told(name)
        yield
        if self.first:
            self.told(name)


ALONE = Ranks()
