"""The order of samples: pinned, complete, and the same on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import UsageError
from imitate.shards.order import (
    EpochPlan,
    StudyPlan,
    Window,
    check_ranks,
    permutation,
    philox,
    rank_slice,
    stripe,
    windowed,
)


def test_draws_are_pinned() -> None:
    # a change here makes every earlier run impossible to resume
    draws = [int(draw) for draw in philox("a", 0).bit_generator.random_raw(3)]
    assert draws == [0x4D90B88E206F6D59, 0x37780E81229003C5, 0xCADE51025CEC93A6]
    first = permutation(10, purpose="train order", seed=0, epoch=0)
    assert first.tolist() == [0, 9, 2, 5, 6, 8, 3, 4, 7, 1]
    other = permutation(10, purpose="train order", seed=1, epoch=2)
    assert other.tolist() == [5, 6, 9, 0, 7, 1, 3, 4, 8, 2]


def test_the_order_of_windows_is_pinned() -> None:
    blocks = np.arange(12) // 3 + 7
    order = windowed(blocks, window=2, purpose="train order", seed=0, epoch=0)
    assert order.tolist() == [5, 6, 8, 3, 4, 7, 0, 10, 9, 2, 11, 1]


def test_every_part_of_the_key_changes_the_draws() -> None:
    made = [
        philox("a", 0),
        philox("b", 0),
        philox("a", 1),
        philox("a", 0, 0),
        philox("a", 0, "0"),
        philox("a", 0, 0, 1),
    ]
    assert len({int(generator.bit_generator.random_raw()) for generator in made}) == len(made)


@given(n=st.integers(0, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_a_permutation_holds_each_number_once(n: int, seed: int, epoch: int) -> None:
    order = permutation(n, purpose="p", seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, permutation(n, purpose="p", seed=seed, epoch=epoch))


@settings(max_examples=50)
@given(n=st.integers(1, 120), batch=st.integers(1, 40), seed=st.integers(0, 9))
def test_an_epoch_takes_whole_batches_of_distinct_rows(n: int, batch: int, seed: int) -> None:
    rows = np.arange(n, dtype=np.int64) * 3 + 5
    if batch > n:
        with pytest.raises(UsageError):
            EpochPlan(rows, seed=seed, global_batch=batch)
        return
    plan = EpochPlan(rows, seed=seed, global_batch=batch)
    assert plan.steps_per_epoch == n // batch
    for epoch in (0, 1, 3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        assert {plan.epoch_of(step) for step in steps} == {epoch}
        seen = np.concatenate([plan.batch(step) for step in steps])
        assert len(seen) == len(set(seen.tolist())) == plan.steps_per_epoch * batch
        assert set(seen.tolist()) <= set(rows.tolist())


def test_epochs_differ() -> None:
    plan = EpochPlan(np.arange(64), seed=0, global_batch=64)
    assert plan.batch(0).tolist() != plan.batch(1).tolist()
    assert sorted(plan.batch(0)) == sorted(plan.batch(1))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("stop", [0, 1, 7, 12, 13])
def test_order_does_not_depend_on_ranks_or_on_where_a_run_stopped(ranks: int, stop: int) -> None:
    rows, steps = np.arange(300), 26
    one = EpochPlan(rows, seed=3, global_batch=24)
    expected = [one.batch(step).tolist() for step in range(steps)]
    got: list[list[int]] = []
    for first, last in ((0, stop), (stop, steps)):
        plans = [EpochPlan(rows, seed=3, global_batch=24) for _ in range(ranks)]
        for step in range(first, last):
            shares = [
                rank_slice(plan.batch(step), rank=rank, ranks=ranks)
                for rank, plan in enumerate(plans)
            ]
            got.append(np.concatenate(shares).tolist())
    assert got == expected


def test_a_batch_cannot_be_changed_by_mistake() -> None:
    plan = EpochPlan(np.arange(8), seed=0, global_batch=4)
    with pytest.raises(ValueError, match="read-only"):
        plan.batch(0)[0] = 5


@pytest.mark.parametrize(
    ("batch", "ranks", "sizes"), [(100, 8, "96 or 104"), (5, 8, "8"), (7, 2, "6 or 8")]
)
def test_ranks_that_do_not_divide_are_told_the_nearest_sizes(
    batch: int, ranks: int, sizes: str
) -> None:
    with pytest.raises(UsageError) as error:
        check_ranks(batch, ranks)
    assert error.value.todo.endswith(f": {sizes}")


@settings(max_examples=50)
@given(
    n=st.integers(1, 200),
    each=st.integers(1, 30),
    window=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_a_window_takes_whole_blocks_and_each_sample_once(
    n: int, each: int, window: int, epoch: int
) -> None:
    blocks = np.arange(n) // each
    order = windowed(blocks, window=window, purpose="p", seed=1, epoch=epoch)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(n))
    rest = blocks[order]
    while len(rest):
        first = list(dict.fromkeys(rest.tolist()))[:window]
        inside = np.isin(rest, first)
        count = int(inside.sum())
        assert inside[:count].all()  # whole blocks, before any other
        rest = rest[count:]


def test_a_window_of_all_shards_mixes_like_a_permutation_and_one_of_few_less() -> None:
    """Distinct shards a batch, as a share of what a permutation gives."""
    blocks, rows = np.arange(40_000) // 204, np.arange(40_000)  # 197 shards, as MIMIC-CXR has

    def distinct(window: Window | None) -> float:
        plan = EpochPlan(rows, seed=0, global_batch=256, window=window)
        return float(np.mean([len(np.unique(blocks[plan.batch(s)])) for s in range(100)]))

    true = distinct(None)
    assert distinct(Window(size=197, blocks=blocks)) / true > 0.98
    assert 0.3 <= distinct(Window(size=64, blocks=blocks)) / true < 0.6


def test_windows_of_two_epochs_are_of_other_shards() -> None:
    blocks = np.arange(64) // 4
    plan = EpochPlan(np.arange(64), seed=0, global_batch=16, window=Window(size=4, blocks=blocks))
    first, second = (set(blocks[plan.batch(step)].tolist()) for step in (0, 4))
    assert len(first) == len(second) == 4 and first != second


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("n", [0, 1, 5, 24, 25])
def test_evaluation_counts_each_sample_once_in_equal_shares(ranks: int, n: int) -> None:
    ordinals = np.arange(n) * 2 + 1
    shares = [stripe(ordinals, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {len(share) for share, _ in shares} == {len(mask) for _, mask in shares}
    assert len(shares[0][0]) == -(-n // ranks)
    across, counts = (np.stack(part, axis=1).ravel() for part in zip(*shares, strict=True))
    assert across[counts].tolist() == ordinals.tolist()
    assert set(across.tolist()) <= set(ordinals.tolist())


@pytest.mark.parametrize(("before", "after"), [(24, 12), (12, 24), (20, 30)])
def test_another_global_batch_moves_only_the_boundaries(before: int, after: int) -> None:
    plans = [EpochPlan(np.arange(240), seed=3, global_batch=size) for size in (before, after)]
    streams = [
        np.concatenate([plan.batch(s) for s in range(2 * plan.steps_per_epoch)]) for plan in plans
    ]
    assert np.array_equal(*streams)


def studies_of(n: int, seed: int) -> np.ndarray:
    """Films in no order of their studies, most of which have one or two."""
    return np.random.default_rng(seed).integers(0, max(n * 2 // 3, 1), n)


def test_the_films_of_studies_are_pinned() -> None:
    studies = np.array([0, 1, 1, 2, 2, 2, 3])
    plan = StudyPlan(np.arange(7) + 10, studies, seed=0, global_batch=2, films=2)
    assert plan.steps_per_epoch == 2
    found = [plan.batch(step).tolist() for step in range(3)]
    assert found == [[10, 10, 15, 14], [16, 16, 11, 12], [10, 10, 11, 12]]


@settings(max_examples=50)
@given(
    n=st.integers(4, 80), batch=st.integers(1, 4), films=st.integers(1, 3), seed=st.integers(0, 9)
)
def test_an_epoch_draws_each_study_once_and_different_films_of_it(
    n: int, batch: int, films: int, seed: int
) -> None:
    rows, studies = np.arange(n, dtype=np.int64) * 3 + 5, studies_of(n, seed)
    count = len(set(studies.tolist()))
    if batch > count:
        return
    plan = StudyPlan(rows, studies, seed=seed, global_batch=batch, films=films)
    assert plan.steps_per_epoch == count // batch
    study_of = dict(zip(rows.tolist(), studies.tolist(), strict=True))
    size = np.bincount(studies)
    for epoch in (0, 2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = np.concatenate([plan.batch(step) for step in steps]).reshape(-1, films)
        drawn = [{study_of[film] for film in sample} for sample in seen.tolist()]
        assert all(len(each) == 1 for each in drawn)  # the films of a sample are of one study
        named = [each.pop() for each in drawn]
        assert len(set(named)) == len(named) == plan.steps_per_epoch * batch
        for sample, study in zip(seen.tolist(), named, strict=True):
            assert len(set(sample)) == min(films, size[study])


def test_the_films_of_a_study_are_drawn_anew_in_each_epoch() -> None:
    studies = np.arange(300) // 3
    plan = StudyPlan(np.arange(300), studies, seed=1, global_batch=100, films=2)
    first, second = (plan.batch(step).reshape(-1, 2) for step in (0, 1))
    by_study = [
        dict(zip(b[:, 0] // 3, map(tuple, b.tolist()), strict=True)) for b in (first, second)
    ]
    same = sum(by_study[0][study] == by_study[1][study] for study in range(100))
    assert 5 < same < 35  # one in six by chance
    seen = np.unique(np.concatenate([first, second]))
    assert len(seen) > 250  # of 300


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_studies_do_not_depend_on_ranks_or_on_where_a_run_stopped(ranks: int) -> None:
    rows, studies = np.arange(120), studies_of(120, 5)

    def plan() -> StudyPlan:
        return StudyPlan(rows, studies, seed=3, global_batch=12, films=2)

    one = plan()
    expected = [one.batch(step).tolist() for step in range(14)]
    for step in (13, 0, 7, 6):  # any step at once, in any order
        shares = [rank_slice(plan().batch(step), rank=r, ranks=ranks) for r in range(ranks)]
        assert all(len(share) == 2 * 12 // ranks for share in shares)  # whole samples
        assert np.concatenate(shares).tolist() == expected[step]


def test_a_window_of_studies_takes_the_blocks_of_their_first_films() -> None:
    studies = np.arange(60) // 2
    blocks = np.arange(60) // 10
    plan = StudyPlan(
        np.arange(60),
        studies,
        seed=0,
        global_batch=5,
        films=2,
        window=Window(size=1, blocks=blocks),
    )
    seen = [blocks[plan.batch(step)].tolist() for step in range(6)]
    assert all(len(set(each)) == 1 for each in seen)
    assert len({each[0] for each in seen}) == 6


def test_more_studies_than_there_are_cannot_fill_a_batch() -> None:
    with pytest.raises(UsageError, match="cannot be filled from 2"):
        StudyPlan(np.arange(6), np.arange(6) // 3, seed=0, global_batch=3, films=2)
