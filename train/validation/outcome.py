"""What a run came to: how far it went, its best step, and which state becomes the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..checkpoint import Checkpoints
from .config import ValidateConfig
from .selection import Selection

Row = Mapping[str, Any]


def outcome(rows: Sequence[Row], config: ValidateConfig) -> dict[str, Any]:
    """Return the facts of a finished run for its card, from its metrics.

    `trained` is how far it went, `model` which state becomes the model; `validation` the best
    step and what was measured of the model, None when nothing was measured.
    """
    selection = Selection(patience=None)
    selection.recall(rows)
    last = rows[-1]
    best = next((row for row in rows if row["step"] == selection.best), None)
    chosen = best if best is not None and config.model == "best" else last
    return {
        "loss": last["loss"],
        "trained": _place(last),
        "validation": best
        and {
            "best": _place(best),
            "model": {n: v for n, v in sorted(chosen.items()) if n.startswith("validate/")},
        },
        "model": {"of": "last" if chosen is last else "best", **_place(chosen)},
    }


def _place(row: Row) -> dict[str, int]:
    return {name: row[name] for name in ("step", "samples")}


def take_state(model: nn.Module, checkpoints: Checkpoints, samples: int) -> None:
    """Give a model the weights that it had at `samples` consumed, from the checkpoint kept there.

    Raises InputError when the checkpoint is missing or damaged.
    """
    tensors = checkpoints.at(samples).tensors
    prefix = "model "
    model.load_state_dict(
        {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    )
