"""Splits that an archive does not publish: drawn from a seed, or as published code draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import blake3
import numpy as np

from ...contract import SPLITS
from ...files import canonical_json

RSNA_COMPLETE = 26_684  # pictures with labels in stage 2 of the challenge
RSNA_HELD_OUT = 10_674  # of them validation and test in the published split


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


def split_as_mgca(ids: Sequence[str]) -> dict[str, str]:
    """Return the split of RSNA that MGCA draws (HKU-MedAI/MGCA, preprocess/rsna.py, detection).

    Sorted unique ids; 10,674 held out with scikit-learn's `train_test_split` and seed 0, then
    halved: the first half is test, the second validation. Of an incomplete archive the same share
    is held out.
    """
    from sklearn.model_selection import train_test_split

    known = np.array(sorted(set(ids)))
    complete = len(known) == RSNA_COMPLETE
    size = RSNA_HELD_OUT if complete else RSNA_HELD_OUT / RSNA_COMPLETE
    train, held_out = train_test_split(known, test_size=size, random_state=0)
    test, validate = train_test_split(held_out, test_size=0.5, random_state=0)
    splits: dict[str, str] = {}
    for name, part in zip(SPLITS, (train, validate, test), strict=True):
        splits.update(dict.fromkeys(part.tolist(), name))
    return splits
