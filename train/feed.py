"""The feed: pictures that were read and verified become batches of views by threads, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch

from ..shards.manifest import ShardSet
from ..shards.order import Plan
from ..shards.reader import Batch, DamagePolicy, iterate
from ..shards.reading.source import OncePictures, PictureSource
from ..shards.reading.stock import stock_batches
from .distribution.ranks import Ranks
from .objective.task import PictureTask, PretrainBatch

AHEAD = 4  # batches whose views are made ahead, at least
MOST_THREADS = 16  # unless asked for


def default_workers(device: torch.device | None = None, *, beside: int = 1) -> int:
    """Return the threads of the feed: one a core, but one where a CPU trains at the same time.

    The cores are those of the machine; `beside` ranks on it share them.
    """
    if device is not None and device.type != "cuda":
        return 1
    return max(1, min(len(os.sched_getaffinity(0)) // beside, MOST_THREADS))


def pictures_of(
    source: PictureSource | ShardSet,
    plan: Plan,
    steps: range,
    *,
    ranks: Ranks,
    damage: DamagePolicy,
    workers: int,
) -> Iterator[Batch]:
    """Yield this rank's pictures of each step: from `source`, or of a shard set by webdataset.

    Every rank of webdataset reads all pictures, as its order is known only by reading.
    """
    if isinstance(source, ShardSet):
        for batch in stock_batches(source, plan, steps):
            mine = ranks.share(np.arange(len(batch.ordinals)))
            yield Batch(ordinals=batch.ordinals[mine], images=batch.images[mine])
        return
    yield from iterate(
        source if plan.films == 1 else OncePictures(source),
        (ranks.share(plan.batch(step)) for step in steps),
        workers=workers,
        damage=damage,
        first_step=steps.start,
    )


def feed(
    task: PictureTask,
    images: Iterator[Batch],
    plan: Plan,
    *,
    steps: range,
    workers: int,
) -> Generator[PretrainBatch]:
    """Yield the batch of each step, its views drawn; the same whatever the number of threads.

    Close the generator to end its threads. Raises what reading `images` raises.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="imitate-views")
    making = (
        pool.submit(
            task.prepare, batch.images, batch.ordinals, step=step, epoch=plan.epoch_of(step)
        )
        for step, batch in zip(steps, images, strict=True)
    )
    ready: deque[Future[PretrainBatch]] = deque()
    try:
        while True:
            ready.extend(islice(making, max(workers, AHEAD) - len(ready)))
            if not ready:
                return
            yield ready.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
