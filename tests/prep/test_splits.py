"""Splits: disjoint, complete, independent of order, and equal to the published ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from imitate.contract import SPLITS
from imitate.prep.protocols.splits import permuted, split_as_mgca, split_by_group

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


def test_complete_archive_is_split_as_published() -> None:
    ids = [f"{number:05d}" for number in np.random.default_rng(0).permutation(26_684)]
    splits = split_as_mgca(ids)
    counts = [sum(split == name for split in splits.values()) for name in SPLITS]
    assert counts == [16_010, 5_337, 5_337]
    train, rest = train_test_split(sorted(ids), test_size=10_674, random_state=0)
    test, validate = train_test_split(rest, test_size=0.5, random_state=0)
    assert [splits[i] for part in (train, validate, test) for i in (part[0], part[-1])] == [
        split for split in SPLITS for _ in range(2)
    ]


def test_partial_archive_has_the_same_shares() -> None:
    splits = split_as_mgca([f"{number:03d}" for number in range(100)])
    assert [sum(split == name for split in splits.values()) for name in SPLITS] == [59, 21, 20]
