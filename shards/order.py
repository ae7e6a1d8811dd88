"""The order of samples: a pure function of the samples, a seed and the epoch.

Every draw of the package comes from a Philox generator whose key is the BLAKE3 of what the draw
is for, so no draw depends on another one, on the number of ranks or on how far a run has come.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import blake3
import numpy as np
from numpy.typing import NDArray

from ..contract import UsageError
from ..files import canonical_json

Ordinals = NDArray[np.int64]


def philox(purpose: str, seed: int, *rest: int | str) -> np.random.Generator:
    """Return the generator of one purpose: Philox keyed by BLAKE3 over (purpose, seed, *rest)."""
    digest = blake3.blake3(canonical_json([purpose, seed, *rest])).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def permutation(n: int, *, purpose: str, seed: int, epoch: int) -> Ordinals:
    """Return a permutation of range(n): the stable argsort of n raw Philox draws.

    NumPy promises the stream of a bit generator for ever, but not what `Generator.permutation`
    makes of it; so the sorting is ours and a golden test pins it.
    """
    draws = philox(purpose, seed, epoch).bit_generator.random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int64)


def windowed(blocks: Ordinals, *, window: int, purpose: str, seed: int, epoch: int) -> Ordinals:
    """Return a permutation of range(n) that reads the blocks of its numbers a window at a time.

    `blocks` [n] tells the block of each number, such as its shard. The blocks are permuted,
    `window` of them together make a window, and the numbers of a window are permuted.
    """
    _, place = np.unique(blocks, return_inverse=True)
    order = permutation(len(np.unique(place)), purpose=f"{purpose}, blocks", seed=seed, epoch=epoch)
    turn = np.argsort(order)  # the place of each block in the order of the blocks
    draws = philox(purpose, seed, epoch).bit_generator.random_raw(len(blocks))
    return np.lexsort((draws, turn[place] // window)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Window:
    """An order for stores that are read in blocks: `size` of the `blocks` of the rows at a time."""

    size: int
    blocks: Ordinals  # [rows]


class EpochPlan:
    """Which samples each step of a training run sees, for any step at once.

    `rows` are the ordinals to train on. An epoch takes them in a permutation of its own, within
    a `window` if there is one, and drops the remainder that fills no batch. The state of a run is
    its number of steps, nothing else: `batch(step)` costs one permutation, however far it has come.
    Each sample of a batch shows `films` pictures, here one.

    Raises UsageError when there are fewer rows than one global batch takes.
    """

    films = 1

    def __init__(
        self, rows: Ordinals, *, seed: int, global_batch: int, window: Window | None = None
    ) -> None:
        if not 1 <= global_batch <= len(rows):
            raise UsageError(
                f"a global batch of {global_batch} cannot be filled from {len(rows)} samples",
                where="batch size",
                todo=f"choose a global batch between 1 and {len(rows)}",
            )
        self.rows = np.asarray(rows, dtype=np.int64)
        self.seed = seed
        self.global_batch = global_batch
        self.window = window
        self.steps_per_epoch = len(rows) // global_batch
        self._lock = threading.Lock()
        self._epoch = -1
        self._order = self.rows

    def epoch_of(self, step: int) -> int:
        """Return the epoch that an absolute step belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> Ordinals:
        """Return the ordinals of the global batch of an absolute step.  # [global_batch]"""
        first = (step % self.steps_per_epoch) * self.global_batch
        return self._order_of(self.epoch_of(step))[first : first + self.global_batch]

    def _order_of(self, epoch: int) -> Ordinals:
        with self._lock:
            if epoch != self._epoch:
                self._order, self._epoch = self.rows[self._places(epoch)], epoch
                self._order.setflags(write=False)  # batches are views of it
            return self._order

    def _places(self, epoch: int) -> Ordinals:
        purpose = "train order"
        if self.window is None:
            return permutation(len(self.rows), purpose=purpose, seed=self.seed, epoch=epoch)
        size, blocks = self.window.size, self.window.blocks
        return windowed(blocks, window=size, purpose=purpose, seed=self.seed, epoch=epoch)


class StudyPlan:
    """Which films each step of a training run sees when a study, not an image, is drawn.

    `rows` are the ordinals of all films, `studies` [rows] the study of each. An epoch draws each
    study once, in the order in which EpochPlan takes rows, and `films` different films of it, all
    anew in each epoch; a study that has fewer shows them again. `window.blocks` are those of the
    rows; a study lies in the block of its first film. State and errors are those of EpochPlan.
    """

    def __init__(
        self,
        rows: Ordinals,
        studies: Ordinals,
        *,
        seed: int,
        global_batch: int,
        films: int,
        window: Window | None = None,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        _, first, self._study = np.unique(studies, return_index=True, return_inverse=True)
        self._first = np.flatnonzero(np.diff(np.sort(self._study), prepend=-1))
        self._size = np.bincount(self._study)
        if window is not None:
            window = Window(size=window.size, blocks=window.blocks[first])
        self._plan = EpochPlan(
            np.arange(len(first)), seed=seed, global_batch=global_batch, window=window
        )
        self.seed, self.global_batch, self.films = seed, global_batch, films
        self.steps_per_epoch, self.epoch_of = self._plan.steps_per_epoch, self._plan.epoch_of
        self._lock = threading.Lock()
        self._epoch = -1
        self._drawn = self.rows

    def batch(self, step: int) -> Ordinals:
        """Return the ordinals of a global batch, film after film.  # [global_batch * films]"""
        return self._films_of(self.epoch_of(step))[self._plan.batch(step)].reshape(-1)

    def _films_of(self, epoch: int) -> Ordinals:
        """Return the films that an epoch shows of each study.  # [studies, films]"""
        with self._lock:
            if epoch != self._epoch:
                draws = philox("films", self.seed, epoch).bit_generator.random_raw(len(self.rows))
                order = np.lexsort((draws, self._study))
                turn = np.arange(self.films) % self._size[:, None]
                self._drawn, self._epoch = self.rows[order[self._first[:, None] + turn]], epoch
            return self._drawn


Plan = EpochPlan | StudyPlan


def check_ranks(global_batch: int, ranks: int) -> None:
    """Raise UsageError, naming the nearest sizes that work, unless ranks divide the batch."""
    if global_batch % ranks == 0:
        return
    below = global_batch // ranks * ranks
    sizes = " or ".join(str(size) for size in (below, below + ranks) if size)
    raise UsageError(
        f"a global batch of {global_batch} cannot be shared evenly by {ranks} processes",
        where="batch size",
        todo=f"the nearest sizes that work with {ranks} processes: {sizes}",
    )


def rank_slice(batch: Ordinals, *, rank: int, ranks: int) -> Ordinals:
    """Return a rank's consecutive share of a global batch.  # [global_batch / ranks]"""
    check_ranks(len(batch), ranks)
    share = len(batch) // ranks
    return batch[rank * share : (rank + 1) * share]


def stripe(ordinals: Ordinals, *, rank: int, ranks: int) -> tuple[Ordinals, NDArray[np.bool_]]:
    """Return a rank's share of an evaluation, equally long on every rank, and which of it count.

    Sample i goes to rank i modulo `ranks`. A share that is short is filled up with the first
    sample, masked out, so that every sample counts exactly once. The shares side by side, read
    across, are the samples in order.  # [ceil(n / ranks)] twice
    """
    share = ordinals[rank::ranks]
    missing = -(-len(ordinals) // ranks) - len(share)
    counts = np.arange(len(share) + missing) < len(share)
    return np.concatenate([share, ordinals[:missing]]), counts
