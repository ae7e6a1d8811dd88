"""How a run is validated, when it ends early, and which of its states becomes the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...contract import ConfigError


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """When the validate split is measured, and what is done with the loss found there.

    Measured is every `every_steps` steps (null: at the end of each epoch; 0: never), and at the
    end of the run. A run ends early when `patience` measurements in a row bring no lower loss
    (null: it does not). `model` is written of the `last` step, or of the `best` measured one.
    """

    every_steps: int | None = None
    patience: int | None = None
    model: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        off = self.every_steps == 0
        rules = {
            "every_steps must not be negative": (self.every_steps or 0) >= 0,
            "patience must be at least 1, or null": self.patience is None or self.patience >= 1,
            "patience needs a validation, but every_steps is 0": not off or self.patience is None,
            "model best needs a validation, but every_steps is 0": not off or self.model == "last",
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)
