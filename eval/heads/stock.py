"""Pictures for a head: read, verified and varied ahead of need, in order, by threads.

Axes: B pictures of a batch, H and W rows and columns, S side of the network's input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...contract import InputError
from ...options import FaultBudget
from ...shards.order import Ordinals
from ...shards.reader import DamagePolicy, SampleDamaged
from ...train.network.model import ImageConfig
from ..encoders.features import to_bytes
from ..testset import TestSet
from .augment import Augment, Draw, centre

Item = TypeVar("Item")
Made = TypeVar("Made")
BATCH = 64  # pictures looked at together, where nothing is trained
ANY = FaultBudget(share=1.0)  # the command counts faults at its end


class Stock:
    """The pictures of a set for one training.

    `damaged` holds the ordinals of the damaged samples met so far. In training they are replaced
    by others of the training split; elsewhere `sound` leaves them out.
    """

    def __init__(self, tests: TestSet, rows: Ordinals, *, seed: int, workers: int) -> None:
        self.reader = tests.reader()
        self.workers, self.seed = workers, seed
        self._policy = DamagePolicy(rows, seed=seed, budget=ANY) if len(rows) else None
        self._damaged: set[int] = set()

    @property
    def damaged(self) -> frozenset[int]:
        """Ordinals of the damaged samples met so far."""
        replaced = self._policy.quarantine if self._policy else ()
        return frozenset(self._damaged.union(replaced))

    def varied(
        self, batches: Sequence[Ordinals], image: ImageConfig, augment: Augment, *, epoch: int
    ) -> Iterator[tuple[Ordinals, npt.NDArray[np.uint8]]]:
        """Yield each batch's ordinals and its pictures [B, S, S], varied for this epoch.

        The ordinals are those of the pictures, replacements of damaged ones included.
        """

        def make(item: tuple[int, Ordinals]) -> tuple[Ordinals, npt.NDArray[np.uint8]]:
            step, rows = item
            pictures = self.reader.empty(rows)
            assert self._policy is not None
            taken = self._policy.fill(self.reader, pictures, rows, step=epoch * len(batches) + step)
            views = [
                augment(picture, image, Draw(self.seed, epoch, int(ordinal)))
                for picture, ordinal in zip(to_bytes(pictures), taken, strict=True)
            ]
            return taken, np.stack(views)

        yield from ahead(make, list(enumerate(batches)), workers=self.workers)

    def plain(self, rows: Ordinals, image: ImageConfig) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the centres [B, S, S] of samples that are `sound`, BATCH at a time."""

        def make(part: Ordinals) -> npt.NDArray[np.uint8]:
            draw = Draw(self.seed, 0, 0)
            pictures = to_bytes(self.reader.images(part))
            return np.stack([centre(picture, image, draw) for picture in pictures])

        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        yield from ahead(make, parts, workers=self.workers)

    def sound(self, rows: Ordinals, *, without: frozenset[int] = frozenset()) -> Ordinals:
        """Return the samples whose pictures are whole; each is read once to know.

        Those of `without` are known to be damaged otherwise. Raises InputError when none is whole.
        """

        def good(ordinal: int) -> bool:
            try:
                self.reader.images(np.array([ordinal]))
            except SampleDamaged:
                return False
            return True

        left = rows[~np.isin(rows, sorted(without))]
        kept = list(ahead(good, [int(i) for i in left], workers=self.workers))
        self._damaged.update(int(i) for i, whole in zip(left, kept, strict=True) if not whole)
        if len(rows) and not any(kept):
            raise InputError(
                f"all of {len(rows)} samples of a split are damaged",
                where=self.reader.shards.name,
                todo="`imitate verify` names every damaged sample",
            )
        return np.asarray(left[np.array(kept, dtype=bool)])


def ahead(make: Callable[[Item], Made], items: Sequence[Item], *, workers: int) -> Iterator[Made]:
    """Yield what `make` makes of each item, in order, a few made ahead by threads."""
    pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="imitate-heads")
    making = (pool.submit(make, item) for item in items)
    ready: deque[Future[Made]] = deque()
    try:
        while True:
            ready.extend(islice(making, max(2 * workers, 4) - len(ready)))
            if not ready:
                return
            yield ready.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
