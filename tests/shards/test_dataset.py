"""torch's own DataLoader over our shards: the same batches on any ranks and workers, resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from imitate.contract import UsageError
from imitate.shards.manifest import ShardSet
from imitate.shards.order import EpochPlan
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import SampleDamaged, ShardReader
from imitate.shards.reading.dataset import PlanSampler, ShardDataset, as_it_is
from imitate.shards.write import write_shards

BATCH = 12


@pytest.fixture
def shards(tmp_path: Path, make_set: Callable[..., Path]) -> ShardSet:
    make_set("films", n=60)
    return ShardSet.open(write_shards(tmp_path, "films", ShardOptions(samples=7)).path)


def read(shards: ShardSet, sampler: PlanSampler, workers: int) -> list[dict[str, Any]]:
    loader = DataLoader(
        ShardDataset(shards.folder),
        batch_sampler=sampler,
        collate_fn=as_it_is,
        num_workers=workers,
    )
    return list(loader)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (3, 0), (2, 1)])
def test_batches_are_those_of_the_plan(shards: ShardSet, ranks: int, workers: int) -> None:
    plan = EpochPlan(shards.rows("train"), seed=5, global_batch=BATCH)
    reader = ShardReader(shards)
    shares = [
        read(shards, PlanSampler(plan, rank=rank, ranks=ranks), workers) for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {plan.steps_per_epoch}
    for step in range(plan.steps_per_epoch):
        wanted = plan.batch(step)
        ordinals = np.concatenate([share[step]["ordinals"].numpy() for share in shares])
        images = np.concatenate([share[step]["images"].numpy() for share in shares])
        assert np.array_equal(ordinals, wanted)
        assert np.array_equal(images, reader.images(wanted))
        samples = [sample for share in shares for sample in share[step]["samples"]]
        assert samples == reader.texts(wanted)


def test_a_position_is_one_integer(shards: ShardSet) -> None:
    plan = EpochPlan(shards.rows("train"), seed=1, global_batch=BATCH)
    whole = list(PlanSampler(plan, epochs=3))
    for done in range(len(whole) + 1):
        assert list(PlanSampler(plan, samples=done * BATCH, epochs=3)) == whole[done:]


def test_a_position_within_a_batch_is_refused(shards: ShardSet) -> None:
    plan = EpochPlan(shards.rows("train"), seed=1, global_batch=BATCH)
    with pytest.raises(UsageError, match="within a global batch"):
        PlanSampler(plan, samples=BATCH + 1)
    with pytest.raises(UsageError, match="shared evenly"):
        PlanSampler(plan, ranks=5)


def test_one_sample_is_its_picture_and_json(shards: ShardSet) -> None:
    sample = ShardDataset(shards.folder)[3]
    assert np.array_equal(sample["image"].numpy(), ShardReader(shards).images(np.array([3]))[0])
    assert sample["key"] == shards.column("key")[3]


def test_damage_names_the_sample(shards: ShardSet) -> None:
    row = 4
    tar = shards.folder / "shards" / shards.column("shard")[row]
    place = int(shards.column("offset")[row]) + int(shards.column("png_off")[row]) + 60
    data = bytearray(tar.read_bytes())
    data[place] ^= 8
    tar.chmod(0o600)
    tar.write_bytes(data)
    with pytest.raises(SampleDamaged, match=shards.column("key")[row]):
        ShardDataset(shards.folder)[row]
