"""The plan: each sample once, within the limits, a function of the set and the options alone."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import MANIFEST, SPLITS, InputError, UsageError
from imitate.files import read_rows, write_table
from imitate.shards.plan import (
    Prepared,
    Samples,
    ShardOptions,
    plan_shards,
    scan,
    tar_size,
)

Sizes = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), min_size=1, max_size=80)


def samples_of(pairs: list[tuple[int, int]]) -> Samples:
    split, blocks = np.array(pairs, dtype=np.int64).T
    zeros = np.zeros(len(pairs), dtype=np.int64)
    return Samples(split=split, size=512 * blocks, first=zeros, length=zeros, has_text=True)


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


@settings(max_examples=50)
@given(pairs=Sizes, limit=st.integers(1, 30), size=st.integers(10_240, 500_000))
def test_shards_are_filled_as_far_as_they_go(
    pairs: list[tuple[int, int]], limit: int, size: int
) -> None:
    samples = samples_of(pairs)
    plans = plan_shards(samples, ShardOptions(samples=limit, bytes=size))
    for plan, following in pairwise(plans):
        if plan.split == following.split:
            more = [*plan.rows, following.rows[0]]
            assert len(more) > limit or tar_size(int(samples.size[more].sum())) > size


def test_plan_is_a_function_of_set_and_options(make_set: Any) -> None:
    prepared = Prepared.open(make_set())
    one, two = (plan_shards(scan(prepared, None), ShardOptions(samples=9)) for _ in range(2))
    assert [p.rows.tolist() for p in one] == [p.rows.tolist() for p in two]
    other = plan_shards(scan(prepared, None), ShardOptions(samples=9, seed=1))
    assert [p.rows.tolist() for p in one] != [p.rows.tolist() for p in other]


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
        scan(Prepared.open(folder), None)


def test_two_samples_of_one_key_are_refused(make_set: Any) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    write_table(folder / "manifest.parquet", MANIFEST, [*rows, rows[0]])
    with pytest.raises(InputError, match="same key"):
        scan(Prepared.open(folder), None)


def test_numbers_that_json_cannot_hold_are_named_by_key(make_set: Any) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    rows[2]["labels"]["Edema"] = float("nan")
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    with pytest.raises(InputError) as error:
        scan(Prepared.open(folder), None)
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
