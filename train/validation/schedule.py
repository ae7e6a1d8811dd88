"""When a run is validated, and what it decides from that: the same on every rank."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..distribution.ranks import ALONE, Ranks
from .config import ValidateConfig
from .selection import LOSS, Selection

Measured = dict[str, float]
SHOWN = "/pair/r@10"  # ends the names of the recalls that are said


class Validation:
    """Measures a run at its times, and knows the best step and whether to end early.

    `measure` returns the values by their names in metrics.jsonl; `steps_per_epoch` and `steps`
    are those of the run. All ranks measure, and all go by what the first one found.
    """

    def __init__(
        self,
        measure: Callable[[Ranks], Measured],
        config: ValidateConfig,
        *,
        steps_per_epoch: int,
        steps: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._measure, self.ranks = measure, ranks
        self.every, self.steps = config.every_steps or steps_per_epoch, steps
        self.selection = Selection(patience=config.patience)
        self.sentence = ""  # on the last measurement

    def due(self, step: int) -> bool:
        """Tell whether the model is measured after so many steps."""
        return step % self.every == 0 or step == self.steps

    def measure(self, step: int) -> Measured:
        """Measure the model as it is after `step`, and take note of it."""
        told = self.ranks.told(f"validate {step}", json.dumps(self._measure(self.ranks)))
        values: Measured = json.loads(told)
        self.selection.note(step, values[LOSS])
        self.sentence = self._said(step, values)
        return values

    def _said(self, step: int, values: Measured) -> str:
        selection = self.selection
        best = "" if selection.best == step else f", best {selection.loss:.3f} at {selection.best}"
        found = [
            f"{name.removeprefix('validate/').removesuffix(SHOWN)} {value:.0%}"
            for name, value in values.items()
            if name.endswith(SHOWN)
        ]
        recalls = f"; recall@10 {', '.join(found)}" if found else ""
        ended = f"; no lower loss {selection.waited} times, so the run ends" * selection.spent
        return f"validated after step {step}: loss {values[LOSS]:.3f}{best}{recalls}{ended}"

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take note of the metrics of an earlier start, which the first rank has."""
        kept = [{"step": row["step"], LOSS: row[LOSS]} for row in rows if LOSS in row]
        self.selection.recall(json.loads(self.ranks.told("validated", json.dumps(kept))))
