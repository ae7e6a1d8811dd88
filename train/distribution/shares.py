"""The shares of a global batch: which numbers of ranks and which micro-batches can hold it."""

from __future__ import annotations

from ...contract import ConfigError
from ..recipes.recipe import Recipe


def check_shares(recipe: Recipe, ranks: int) -> None:
    """Raise ConfigError, naming the nearest sizes that work, unless the ranks can share a batch.

    Shares are equal, and hold whole groups of the backbone's norm: the loss would else depend on
    the number of ranks.
    """
    batch, group = recipe.data.batch, recipe.model.norm_group
    unit = ranks * (group if recipe.model.norm == "grouped" else 1)
    if ranks == 1 or batch % unit == 0:
        return
    below = batch // unit * unit
    sizes = " or ".join(str(size) for size in (below, below + unit) if size)
    grouped = f", each in whole groups of model.norm_group {group}" if unit > ranks else ""
    raise ConfigError(
        [f"data.batch {batch} cannot be shared evenly by {ranks} ranks{grouped}"],
        todo=f"the nearest batches that can: {sizes}; or start another number of ranks",
    )
