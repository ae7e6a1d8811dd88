"""The ranks that share an evaluation: they share a file system, and hand each other files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ...train.distribution.ranks import ALONE, Ranks


class Crew:
    """The ranks of an evaluation; the first writes what is common to all."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.rank, self.count, self.first = ranks.rank, ranks.count, ranks.first
        self._ranks, self._meetings = ranks, 0

    def meet(self) -> None:
        """Wait, however long it takes, until every rank has come as far; all must ask."""
        self._meetings += 1
        self._ranks.union(f"evaluation {self._meetings}", ())

    @contextlib.contextmanager
    def first_before(self) -> Iterator[None]:
        """Let the first rank do something before the others do."""
        if not self.first:
            self.meet()
        yield
        if self.first:
            self.meet()
