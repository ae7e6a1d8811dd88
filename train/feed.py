"""The feed: batches of the plan, read, verified and turned into views by threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from ..shards.order import EpochPlan
from ..shards.reader import DamagePolicy, ShardReader, iterate
from .objective.task import PretrainBatch, PretrainTask

AHEAD = 4  # batches whose views are made ahead, at least


def feed(
    task: PretrainTask,
    reader: ShardReader,
    plan: EpochPlan,
    *,
    steps: range,
    workers: int,
    damage: DamagePolicy,
) -> Generator[PretrainBatch]:
    """Yield the batch of each step; the same ones whatever the number of threads.

    Close the generator to end its threads. Raises TooManyFaults when more samples are damaged
    than `damage` allows.
    """
    images = iterate(
        reader,
        (plan.batch(step) for step in steps),
        workers=workers,
        damage=damage,
        first_step=steps.start,
    )
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
