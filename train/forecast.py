"""The forecast of a run: what it would do and how much memory it would take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .network.model import VisionLanguageModel, build_model
from .network.text import build_text_encoder
from .optim import precision_on
from .run import Bound

PROBED = 2  # samples of the forward pass whose memory is measured
STATE = 16  # bytes of a trained number: itself, its gradient and AdamW's two moments, in float32


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run would do; memory in bytes."""

    run: str
    data: str
    samples: int
    epochs: int
    steps: int
    global_batch: int
    parameters: int
    state_bytes: int
    activation_bytes: int

    def text(self) -> str:
        """Return the forecast in lines for a person."""
        gib = 1 << 30
        lines = (
            f"run          {self.run}",
            f"data         {self.data}, {self.samples} samples with reports",
            f"steps        {self.steps}: {self.epochs} epochs, batches of {self.global_batch}",
            f"parameters   {self.parameters:,}",
            f"memory       {self.state_bytes / gib:.2f} GiB weights, gradients and optimizer; "
            f"about {self.activation_bytes / gib:.2f} GiB activations of the backbone",
            "nothing was written",
        )
        return "\n".join(lines)


def forecast(bound: Bound, *, allow_download: bool) -> Forecast:
    """Return what a run would do, from its model and one small forward pass; write nothing.

    Raises InputError when the text encoder or the initial weights are missing.
    """
    recipe = bound.recipe
    encoder = build_text_encoder(recipe.text, texts=(), allow_download=allow_download)
    model = build_model(recipe.model, text_width=encoder.width, seed=recipe.seed)
    half = precision_on(recipe.optim, bound.device) == "bf16"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    views = recipe.data.batch * recipe.views.count
    return Forecast(
        run=bound.run.name,
        data=bound.shards.name,
        samples=len(bound.plan.rows),
        epochs=bound.length.epochs,
        steps=bound.length.steps,
        global_batch=bound.length.global_batch,
        parameters=sum(p.numel() for p in model.parameters()),
        state_bytes=STATE * trained,
        activation_bytes=_activation_bytes(model, half=half) * views // PROBED,
    )


def _activation_bytes(model: VisionLanguageModel, *, half: bool) -> int:
    """Return the memory that the backward pass of the backbone keeps for PROBED views."""
    size = model.config.image.size
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    views_BSS = torch.zeros(PROBED, size, size, dtype=torch.uint8)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        levels = model.levels(views_BSS)
    assert levels  # the maps keep the graph alive, so that no two of its tensors share an address
    return sum(kept.values())
