"""Order, views and global batches are the same on any ranks, threads and micro-batches."""

import itertools
import random

import numpy as np
import pytest

from imitate.shards.manifest import ShardSet
from imitate.shards.order import EpochPlan, Window, rank_slice
from imitate.shards.reader import ShardReader, iterate
from imitate.train.network.model import ImageConfig
from imitate.train.objective.views import ViewsConfig, make_views

IMAGE = ImageConfig(size=16, resize=18, channels=1, mean=(0.5,), std=(0.25,))
STEPS, BATCH = 5, 24
RANKS, WORKERS = (1, 2, 3, 4, 6, 8), (0, 1, 2, 4)


@pytest.fixture(scope="module")
def shards(make_set, tmp_path_factory):
    root = tmp_path_factory.mktemp("elastic")
    make_set(root, "many", count=60)
    return ShardSet.open(root / "data" / "shards" / "many")


def plan_of(shards, order):
    rows = shards.rows("train")
    window = Window(size=2, blocks=shards.codes("shard")[0][rows])
    return EpochPlan(rows, seed=3, global_batch=BATCH, window=window if order == "window" else None)


def seen_by_a_rank(shards, order, steps, *, rank, ranks, workers, micro):
    """Ordinals and views that a process makes of its share of each step."""
    plan, keys = plan_of(shards, order), shards.column("key")
    share = BATCH // ranks
    parts = [
        rank_slice(plan.batch(step), rank=rank, ranks=ranks)[first : first + micro]
        for step in steps
        for first in range(0, share, micro)
    ]
    views, each = [], -(-share // micro)
    for place, batch in enumerate(iterate(ShardReader(shards), parts, workers=workers)):
        names = [keys[ordinal] for ordinal in batch.ordinals]
        epoch = plan.epoch_of(steps[place // each])
        config = ViewsConfig()
        views.append(make_views(batch.images, names, config, image=IMAGE, seed=3, epoch=epoch))
    shape = (len(steps), share)
    return (
        np.concatenate(parts).reshape(shape),
        np.concatenate(views).reshape(*shape, *views[0].shape[1:]),
    )


def seen(shards, order, steps, *, ranks, **more):
    """Global batches of some steps: what the ranks see, side by side."""
    found = [
        seen_by_a_rank(shards, order, steps, rank=rank, ranks=ranks, **more)
        for rank in range(ranks)
    ]
    return [np.concatenate(part, axis=1) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("order", ["permutation", "window"])
def test_any_topology_stopped_twice_sees_the_same(shards, order):
    expected = seen(shards, order, range(STEPS), ranks=1, workers=0, micro=BATCH)
    assert len(np.unique(expected[0][:2])) == 2 * BATCH  # an epoch
    draw = random.Random(order)
    topologies = list(itertools.product(RANKS, WORKERS))
    for ranks, workers in topologies:
        # after each stop, it goes on with another topology and another micro-batch
        stops = sorted(draw.choices(range(STEPS + 1), k=2))
        pieces, here = [], (ranks, workers)
        for first, last in itertools.pairwise([0, *stops, STEPS]):
            if first < last:
                micro = draw.choice([1, 2, 3, BATCH // here[0]])
                steps = range(first, last)
                pieces.append(
                    seen(shards, order, steps, ranks=here[0], workers=here[1], micro=micro)
                )
            here = draw.choice(topologies)
        for part, wanted in zip(zip(*pieces, strict=True), expected, strict=True):
            assert np.array_equal(np.concatenate(part), wanted), (ranks, workers, stops)


def test_views_depend_on_the_epoch_and_the_key(shards):
    ordinals = shards.rows("train")[:6]
    images = ShardReader(shards).images(ordinals)
    keys = [shards.column("key")[ordinal] for ordinal in ordinals]
    first, second, other = (
        make_views(images, names, ViewsConfig(), image=IMAGE, seed=3, epoch=epoch)
        for names, epoch in ((keys, 0), (keys, 1), (keys[::-1], 0))
    )
    assert not np.array_equal(first, second) and not np.array_equal(first, other)
