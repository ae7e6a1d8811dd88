"""The stock reader: webdataset makes the same pictures of our shards, each once an epoch."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from imitate.contract import Folders, InputError
from imitate.shards.manifest import ShardSet
from imitate.shards.order import EpochPlan
from imitate.shards.reader import ShardReader
from imitate.shards.reading.stock import stock_batches


@pytest.fixture
def shards(originals: Path, tmp_path: Path) -> ShardSet:
    shutil.copytree(originals / "short", tmp_path, dirs_exist_ok=True)
    return ShardSet.open(Folders(tmp_path).shards("phantom"))


@pytest.fixture
def plan(shards: ShardSet) -> EpochPlan:
    rows = shards.rows("train")
    return EpochPlan(np.delete(rows, 5), seed=1, global_batch=4)


def test_pictures_are_ours_and_each_comes_once_an_epoch(shards: ShardSet, plan: EpochPlan) -> None:
    batches = list(stock_batches(shards, plan, range(10)))
    reader = ShardReader(shards)
    for batch in batches:
        assert np.array_equal(batch.images, reader.images(batch.ordinals))
    first, second = (
        np.concatenate([batch.ordinals for batch in part]) for part in (batches[:5], batches[5:])
    )
    for epoch in (first, second):
        assert len(np.unique(epoch)) == 20 and set(epoch) <= set(plan.rows)
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("start", [3, 5, 7])
def test_it_goes_on_by_reading_and_dropping(shards: ShardSet, plan: EpochPlan, start: int) -> None:
    whole = [batch.ordinals.tolist() for batch in stock_batches(shards, plan, range(12))]
    rest = [batch.ordinals.tolist() for batch in stock_batches(shards, plan, range(start, 12))]
    assert rest == whole[start:]


@pytest.mark.parametrize(("place", "told"), [(1, "fewer samples"), (0, "cannot read a shard")])
def test_damage_to_a_header_is_told_of(
    shards: ShardSet, plan: EpochPlan, place: int, told: str
) -> None:
    codes, names = shards.codes("shard")
    ordinal = np.flatnonzero(codes == codes[plan.rows[0]])[place]
    path = shards.folder / "shards" / names[codes[ordinal]]
    data = bytearray(path.read_bytes())
    data[int(shards.column("offset")[ordinal]) + 20] ^= 1  # in the name of a member
    path.write_bytes(data)
    with pytest.raises(InputError, match=told):
        list(stock_batches(shards, plan, range(10)))
