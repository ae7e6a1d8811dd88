"""Draws of splits: by group from a seed, and as scikit-learn draws them in published code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import blake3
import numpy as np

from ...files import canonical_json


def permuted(items: Iterable[str], *, purpose: str, seed: int) -> list[str]:
    """Return the sorted items in an order drawn by Philox, keyed by BLAKE3 over purpose and seed.

    The order depends on nothing else: not on how the items came, nor on the version of NumPy's
    shuffles (a stable argsort of uniform draws).
    """
    known = sorted(items)
    key = blake3.blake3(canonical_json([purpose, seed])).digest(length=16)
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    order = np.argsort(generator.random(len(known)), kind="stable")
    return [known[index] for index in order]


def split_by_group(
    groups: Iterable[str], *, shares: Mapping[str, float], purpose: str, seed: int
) -> dict[str, str]:
    """Return the split of each group (patient or study), cut at the cumulated `shares`.

    The last split takes what rounding leaves.
    """
    order = permuted(set(groups), purpose=purpose, seed=seed)
    splits, begin, until = {}, 0, 0.0
    for number, (name, share) in enumerate(shares.items(), start=1):
        until += share
        end = len(order) if number == len(shares) else round(until * len(order))
        splits.update(dict.fromkeys(order[begin:end], name))
        begin = end
    return splits


def held_out(
    count: int, *, size: int | float, seed: int, strata: Sequence[str] | None = None
) -> tuple[list[int], list[int]]:
    """Return the positions kept and held out by scikit-learn's `train_test_split`, as drawn.

    `size` is its `test_size`: a number, or a share rounded up; at least one position goes to each
    part. `strata` are classes whose shares are kept, where there are enough of each.
    """
    from sklearn.model_selection import train_test_split

    if count < 2:
        return list(range(count)), []
    held = min(max(size if isinstance(size, int) else math.ceil(size * count), 1), count - 1)
    if strata is not None:
        found = Counter(strata)
        if min(found.values()) < 2 or min(held, count - held) < len(found):
            strata = None
    parts = train_test_split(range(count), test_size=held, random_state=seed, stratify=strata)
    return parts[0], parts[1]
