"""The selection: which measured step was the best, and when more steps bring nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LOSS = "validate/loss"  # the field of metrics.jsonl by which steps are compared


@dataclass(kw_only=True)
class Selection:
    """The best of the steps measured so far, a function of the metrics alone.

    `waited` counts the measurements since the best one; the first of equal ones is the best.
    """

    patience: int | None
    best: int | None = None
    loss: float = math.inf
    waited: int = 0

    @property
    def spent(self) -> bool:
        """Tell whether the run should end."""
        return self.patience is not None and self.waited >= self.patience

    def note(self, step: int, loss: float) -> None:
        """Take note of the loss that was measured after a step."""
        if loss < self.loss:
            self.best, self.loss, self.waited = step, loss, 0
        else:
            self.waited += 1

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take note of the metrics of an earlier start."""
        for row in rows:
            if LOSS in row:
                self.note(row["step"], row[LOSS])
