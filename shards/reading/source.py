"""Where the pictures of batches come from, and how far ahead the source is told of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..order import Ordinals

Pictures = NDArray[np.uint8] | NDArray[np.uint16]

AHEAD = 64  # samples that a source is told of before the first of them is read


class PictureSource(Protocol):
    """Pictures by ordinal; safe to use from several threads.  # [B, H, W]"""

    def empty(self, ordinals: Ordinals) -> Pictures:
        """Return an array for these pictures, not yet filled."""

    def fill(self, pictures: Pictures, ordinals: Ordinals) -> None:
        """Put the pictures into an array made by `empty`."""

    def advise(self, ordinals: Ordinals) -> None:
        """Take note that these pictures will soon be asked for; changes nothing but the time."""


class OncePictures:
    """Another source's pictures, read once where a batch asks for one several times in a row."""

    def __init__(self, source: PictureSource) -> None:
        self.source = source
        self.empty, self.advise = source.empty, source.advise

    def fill(self, pictures: Pictures, ordinals: Ordinals) -> None:
        """Put the pictures into an array made by `empty`."""
        new = np.diff(ordinals, prepend=-1) != 0
        if new.all():
            self.source.fill(pictures, ordinals)
            return
        part = self.source.empty(ordinals[new])
        self.source.fill(part, ordinals[new])
        pictures[:] = part[np.cumsum(new) - 1]


def advised(source: PictureSource, batches: Iterable[Ordinals]) -> Iterator[Ordinals]:
    """Yield the batches, each after the source was told of the AHEAD samples that follow it."""
    waiting: deque[Ordinals] = deque()
    known = 0
    for batch in batches:
        source.advise(batch)
        waiting.append(batch)
        known += len(batch)
        while known - len(waiting[0]) >= AHEAD:
            known -= len(waiting[0])
            yield waiting.popleft()
    yield from waiting
