"""The numbers of grounding, from rows of REGIONS: `pointing`, `recall`, Dice and IoU.

`pointing` is the pointing game over the films that have a region: whether the centre of the highest
place lies in it. `recall` is what published code counts: whether any part of that place does; its
Dice and IoU are over the same films (MedKLIP, Sample_Zero-Shot_Grounding_RSNA/test.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..masks import MEASURES, POINTING, Overlaps, mean_rows


def grounding_rows(overlaps: Overlaps, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the columns metric, value, interval and counts of every number."""
    for measure in POINTING:
        yield next(mean_rows(overlaps, measure, seed=seed))  # of films with a region alone
    for measure in MEASURES:
        yield from mean_rows(overlaps, measure, seed=seed)
