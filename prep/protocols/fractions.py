"""The part of a training split that an evaluation with few labels may use, as a protocol draws it.

`clean` draws subjects by Philox, so 1 % lies within 10 %. The published protocols draw pictures
with NumPy's legacy generator: `DataFrame.sample(frac, random_state=42)` and, after a seed,
`np.random.choice(n, k, replace=False)` take the same positions, and differ in how they round.
BenchX keeps the shares of the classes by scikit-learn's `train_test_split`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...contract import UsageError
from .protocol import Protocol
from .splits import held_out, permuted

NO_STRATA: Mapping[str, str] = {}
ROUND: Mapping[str, Callable[[float], int]] = {"floor": math.floor, "round": round}


def draw_fraction(
    protocol: Protocol,
    ids: Sequence[str],
    fraction: float,
    *,
    subjects: Mapping[str, str],
    classes: Mapping[str, str] = NO_STRATA,
    draw: int = 0,
) -> list[str]:
    """Return the ids of one draw of a fraction of train, in the order of `ids`.

    `subjects` are the patients where known; `classes` the class of each id where the protocol
    stratifies. Draw 0 has the published seed, each further draw the next one. The count is the
    published one for the published train split: rounded down or to even, as the protocol's code
    does; the very pictures are those of the published code only where `ids` stand in its order.
    At least one id is drawn. Raises UsageError for a fraction outside ]0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError("a fraction lies above 0 and up to 1", where=f"fraction={fraction!r}")
    if fraction == 1 or not ids:
        return list(ids)
    rule = protocol.fractions
    way = rule["draw"]
    if way == "subject":
        chosen = _by_subject(ids, fraction, subjects, f"{protocol.dataset} fraction", draw)
    elif way == "stratified" and classes:
        strata = [classes[image_id] for image_id in ids]
        kept, _ = held_out(len(ids), size=1 - fraction, seed=rule["seed"] + draw, strata=strata)
        chosen = {ids[position] for position in kept}
    else:
        size = max(1, ROUND[rule["count"]](fraction * len(ids)))
        generator = np.random.RandomState(rule["seed"] + draw)
        chosen = {ids[position] for position in generator.choice(len(ids), size, replace=False)}
    return [image_id for image_id in ids if image_id in chosen]


def _by_subject(
    ids: Sequence[str], fraction: float, subjects: Mapping[str, str], purpose: str, draw: int
) -> set[str]:
    groups = {image_id: subjects.get(image_id, image_id) for image_id in ids}
    order = permuted(set(groups.values()), purpose=purpose, seed=draw)
    taken = set(order[: max(1, round(fraction * len(order)))])
    return {image_id for image_id, group in groups.items() if group in taken}
