"""The plan: each sample once, within the limits, a function of the set and the options alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import SPLITS, InputError, UsageError
from imitate.files import read_rows, write_table
from imitate.schema import MANIFEST
from imitate.shards.plan import Samples, ShardOptions, plan_shards, scan, tar_size
from imitate.shards.source.prepared import Prepared

Sizes = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), min_size=1, max_size=80)


def samples_of(pairs: list[tuple[int, int]]) -> Samples:
    """Samples of these splits and sizes; the first ones have the same places in a longer list."""
    split, blocks = np.array(pairs, dtype=np.int64).T
    zeros = np.zeros(len(pairs), dtype=np.int64)
    place = np.random.default_rng(1).bit_generator.random_raw(len(pairs))
    return Samples(
        split=split, place=place, size=512 * blocks, first=zeros, length=zeros, has_text=True
    )


def shards_of(samples: Samples, options: ShardOptions) -> set[tuple[str, tuple[int, ...]]]:
    return {(plan.stem, tuple(plan.rows.tolist())) for plan in plan_shards(samples, options)}


@settings(max_examples=150)
@given(pairs=Sizes, limit=st.integers(1, 30), size=st.integers(10_240, 500_000), seed=st.integers())
def test_each_sample_once_within_the_limits(
    pairs: list[tuple[int, int]], limit: int, size: int, seed: int
) -> None:
    samples = samples_of(pairs)
    options = ShardOptions(samples=limit, bytes=size, seed=seed)
    plans = plan_shards(samples, options)
    taken = np.concatenate([plan.rows for plan in plans])
    assert sorted(taken.tolist()) == list(range(len(pairs)))
    start = 0
    for plan in plans:
        assert plan.start == start
        start += len(plan.rows)
        assert {SPLITS[code] for code in samples.split[plan.rows]} == {plan.split}
        assert plan.bytes == tar_size(int(samples.size[plan.rows].sum()))
        assert 1 <= len(plan.rows) <= limit
        assert plan.bytes <= size or len(plan.rows) == 1


@settings(max_examples=100)
@given(pairs=Sizes, limit=st.integers(1, 30), size=st.integers(10_240, 500_000))
def test_one_sample_more_changes_one_shard(
    pairs: list[tuple[int, int]], limit: int, size: int
) -> None:
    options = ShardOptions(samples=limit, bytes=size)
    more = shards_of(samples_of(pairs), options)
    if len(pairs) == 1:
        return
    less = shards_of(samples_of(pairs[:-1]), options)
    assert len(less - more) <= 1
    new = {row for _, rows in more - less for row in rows}
    assert new == {row for _, rows in less - more for row in rows} | {len(pairs) - 1}


def test_a_stem_names_one_shard_at_any_depth() -> None:
    places = np.array([0, 1, 2, 3, 1 << 39, 1 << 40, 1 << 63], dtype=np.uint64)
    samples = samples_of([(0, 1)] * len(places))
    samples = replace(samples, place=places)
    plans = plan_shards(samples, ShardOptions(samples=1))
    assert [plan.rows.tolist() for plan in plans] == [[i] for i in range(len(places))]
    assert len({plan.stem for plan in plans}) == len(places)
    assert plans[-1].stem == "train-800000"


def test_samples_of_one_place_share_a_shard_whatever_the_limit() -> None:
    samples = replace(samples_of([(0, 1)] * 3), place=np.full(3, 7, dtype=np.uint64))
    assert len(plan_shards(samples, ShardOptions(samples=1))) == 1


@pytest.mark.parametrize("n", [1_000, 1_500, 2_000])
def test_shards_are_half_full_or_more(n: int) -> None:
    plans = plan_shards(samples_of([(0, 1)] * n), ShardOptions(samples=100))
    assert len(plans) <= 2.2 * n / 100


def test_a_shard_is_a_random_draw_in_random_order(make_set: Any) -> None:
    """Neither rows side by side in the prepared set nor those of one shard are in any order."""
    samples = scan(Prepared.open(make_set(n=400, size=4)), None, ShardOptions())
    plans = plan_shards(samples, ShardOptions(samples=60))
    train = [plan for plan in plans if plan.split == "train"]
    rows = np.concatenate([plan.rows for plan in train])
    assert len(train) >= 4 and abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.2
    for plan in train:
        assert abs(plan.rows.mean() - rows.mean()) < 4 * rows.std() / np.sqrt(len(plan.rows))


def test_plan_is_a_function_of_set_and_options(make_set: Any) -> None:
    prepared = Prepared.open(make_set())
    one, two = (
        plan_shards(scan(prepared, None, ShardOptions()), ShardOptions(samples=9)) for _ in range(2)
    )
    assert [p.rows.tolist() for p in one] == [p.rows.tolist() for p in two]
    other = plan_shards(scan(prepared, None, ShardOptions(seed=1)), ShardOptions(samples=9))
    assert [p.rows.tolist() for p in one] != [p.rows.tolist() for p in other]


def test_places_are_the_same_for_ever(make_set: Any) -> None:
    samples = scan(Prepared.open(make_set(n=3)), None, ShardOptions(seed=7))
    assert [f"{place:016x}" for place in samples.place] == [
        "0873cc5c2cf51e2e",
        "25062c5aeb3e213e",
        "84a380a3d7aaa1ef",
    ]


def test_the_digest_follows_the_content_and_not_the_times(make_set: Any) -> None:
    first = Prepared.open(make_set()).digest
    assert Prepared.open(make_set()).digest == first  # another time of finishing
    assert Prepared.open(make_set(n=39)).digest != first
    assert Prepared.open(make_set(access="credentialed")).digest != first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "a.b"),
        ("key", "../x"),
        ("split", "dev"),
        ("image", "../../elsewhere.png"),
        ("mask", "/etc/hostname"),
        ("png_blake3", "zz"),
    ],
)
def test_rows_that_prep_never_writes_are_refused(make_set: Any, field: str, value: str) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    rows[3][field] = value
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    with pytest.raises(InputError):
        scan(Prepared.open(folder), None, ShardOptions())


def test_two_samples_of_one_key_are_refused(make_set: Any) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    write_table(folder / "manifest.parquet", MANIFEST, [*rows, rows[0]])
    with pytest.raises(InputError, match="same key"):
        scan(Prepared.open(folder), None, ShardOptions())


def test_numbers_that_json_cannot_hold_are_named_by_key(make_set: Any) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    rows[2]["labels"]["Edema"] = float("nan")
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    with pytest.raises(InputError) as error:
        scan(Prepared.open(folder), None, ShardOptions())
    assert error.value.where == f"key {rows[2]['key']}"


def test_unfinished_sets_and_cards_without_access_are_refused(make_set: Any) -> None:
    folder: Path = make_set()
    (folder / "manifest.parquet").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="not a finished prepared set"):
        Prepared.open(folder)
    folder = make_set(access="secret")
    with pytest.raises(InputError, match="access"):
        Prepared.open(folder)


def test_options_hold_at_least_one_sample() -> None:
    with pytest.raises(UsageError):
        ShardOptions(samples=0)
