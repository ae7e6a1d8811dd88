"""Splits: disjoint, complete, independent of order, and equal to the published draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from imitate.contract import SPLITS
from imitate.prep.protocols.splits import held_out, permuted, split_by_group

SHARES = {"train": 0.7, "validate": 0.1, "test": 0.2}
names = st.sets(st.text("abc0123456789", min_size=1, max_size=6), min_size=1, max_size=200)


@settings(max_examples=50, deadline=None)
@given(groups=names, seed=st.integers(0, 1000))
def test_every_group_has_one_split_and_the_shares_hold(groups: set[str], seed: int) -> None:
    splits = split_by_group(groups, shares=SHARES, purpose="test", seed=seed)
    assert splits.keys() == groups
    counts = [sum(split == name for split in splits.values()) for name in SPLITS]
    for count, share in zip(counts, SHARES.values(), strict=True):
        assert abs(count - share * len(groups)) <= 1


@settings(max_examples=30, deadline=None)
@given(groups=names, data=st.data())
def test_order_of_the_groups_does_not_matter(groups: set[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(sorted(groups)))
    one = split_by_group(shuffled, shares=SHARES, purpose="test", seed=1)
    other = split_by_group([*sorted(groups), *shuffled], shares=SHARES, purpose="test", seed=1)
    assert one == other


def test_seed_and_purpose_change_the_order() -> None:
    items = [str(number) for number in range(50)]
    orders = [
        permuted(items, purpose=purpose, seed=seed) for purpose in ("a", "b") for seed in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(items) for order in orders)


def test_the_order_is_this_one_for_ever() -> None:
    assert permuted("abcdefgh", purpose="openi split", seed=0) == list("dgehbcfa")


@pytest.mark.parametrize("size", [1, 7, 100, 0.1, 0.15, 0.3, 0.5, 0.98])
@pytest.mark.parametrize("count", [26_684, 12_047, 101])
def test_held_out_as_scikit_learn_draws_it(count: int, size: int | float) -> None:
    kept, held = train_test_split(np.arange(count), test_size=size, random_state=0)
    assert held_out(count, size=size, seed=0) == (kept.tolist(), held.tolist())


def test_strata_keep_their_shares() -> None:
    strata = ["1" if number % 4 == 0 else "0" for number in range(400)]
    kept, held = held_out(400, size=0.3, seed=42, strata=strata)
    assert [sum(strata[i] == "1" for i in part) for part in (kept, held)] == [70, 30]
    assert sorted(kept + held) == list(range(400))


@settings(max_examples=60, deadline=None)
@given(
    strata=st.none() | st.lists(st.sampled_from("ab"), min_size=1, max_size=12),
    count=st.integers(0, 12),
    size=st.integers(1, 20) | st.floats(0.01, 0.99),
)
def test_small_pools_lose_nothing(strata: list[str] | None, count: int, size: int | float) -> None:
    count = count if strata is None else len(strata)
    kept, held = held_out(count, size=size, seed=0, strata=strata)
    assert sorted(kept + held) == list(range(count))
    assert count < 2 or (kept and held)
