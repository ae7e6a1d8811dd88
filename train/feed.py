"""The feed: pictures that were read and verified become batches of views by threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from ..shards.order import EpochPlan
from ..shards.reader import Batch
from .objective.task import PretrainBatch, PretrainTask

AHEAD = 4  # batches whose views are made ahead, at least


def feed(
    task: PretrainTask,
    images: Iterator[Batch],
    plan: EpochPlan,
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
