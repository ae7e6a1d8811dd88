"""Reading ahead: the source is told of each batch before it is read, and of not much more."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imitate.shards.reading.source import AHEAD, advised


class Note:
    """A source that remembers what it was told of."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def empty(self, ordinals: np.ndarray) -> np.ndarray:
        return np.zeros((len(ordinals), 1, 1), dtype=np.uint8)

    def fill(self, pictures: np.ndarray, ordinals: np.ndarray) -> None:
        pictures[:, 0, 0] = ordinals

    def advise(self, ordinals: np.ndarray) -> None:
        self.told += ordinals.tolist()


@given(sizes=st.lists(st.integers(1, 100), max_size=30))
def test_the_source_knows_what_follows_a_batch(sizes: list[int]) -> None:
    batches = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]) if sizes else []
    source, taken = Note(), []
    for batch in advised(source, batches):
        taken += batch.tolist()
        followers = len(source.told) - len(taken)
        assert followers >= min(AHEAD, sum(sizes) - len(taken))
        assert followers < AHEAD + max(sizes)
    assert taken == source.told == list(range(sum(sizes)))


def test_of_an_endless_plan_only_a_little_is_taken() -> None:
    asked = iter(range(10**9))
    first = next(advised(Note(), (np.full(8, step) for step in asked)))
    assert first.tolist() == [0] * 8
    assert next(asked) == AHEAD // 8 + 1
