"""The forecast of a run: what it would do, how much memory it would take, and how long."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from .bound import Bound
from .network.language.live import live_text_of
from .network.model import VisionLanguageModel, build_model
from .network.text import build_text_encoder
from .optim import HALF, OptimConfig, build_optimizer, lay_out, precision_on
from .recipes.recipe import Recipe

PROBED = 2  # samples of the forward pass whose memory is measured
STATE = 16  # bytes of a trained number: itself, its gradient and AdamW's two moments, in float32
FILLED = 0.8  # of the memory; the rest is for heads, losses, decoded pictures and fragments
STEPS = 3  # timed by a trial, after one that is not
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run would do; memory in bytes, an estimate.

    `activation_bytes` is what the backward pass of the backbone keeps for a whole global batch,
    `micro_batch` the largest one of which the graph is estimated to fit into `memory_bytes` of one
    device (null: not one group does). `samples_per_s` was timed or given, and `hours` follows from
    it; null without it.
    """

    run: str
    data: str
    unit: str
    samples: int
    epochs: int
    steps: int
    global_batch: int
    parameters: int
    precision: str
    state_bytes: int
    activation_bytes: int
    memory_bytes: int
    micro_batch: int | None
    samples_per_s: float | None
    hours: float | None

    def text(self) -> str:
        """Return the forecast in lines for a person."""
        lines = (
            f"run          {self.run}",
            f"data         {self.data}, {self.samples} samples with reports, drawn by {self.unit}",
            f"steps        {self.steps}: {self.epochs} epochs, batches of {self.global_batch}",
            f"parameters   {self.parameters:,}",
            f"memory       {self.state_bytes / GIB:.2f} GiB weights, gradients and optimizer; "
            f"about {self.activation_bytes / GIB:.2f} GiB activations of the backbone for a whole "
            f"batch in {self.precision}",
            f"micro-batch  {self._fitting()}",
            f"time         {self._time()}",
            "nothing was written",
        )
        return "\n".join(lines)

    def _fitting(self) -> str:
        room = f"the {self.memory_bytes / GIB:.0f} GiB of this device"
        if self.micro_batch is None:
            return f"not even one group of the backbone's norm is estimated to fit into {room}"
        if self.micro_batch == self.global_batch:
            return f"none needed: the whole batch is estimated to fit into {room}"
        return f"--set optim.micro_batch={self.micro_batch} is estimated to fit into {room}"

    def _time(self) -> str:
        if self.hours is None:
            return "unknown; --trial times some steps here, --rate N takes N samples a second"
        return f"{self.hours:.1f} hours at {self.samples_per_s:g} samples/s on one device"


def forecast(
    bound: Bound, *, allow_download: bool, rate: float | None = None, trial: bool = False
) -> Forecast:
    """Return what a run would do, from its model and one small forward pass; write nothing.

    `rate` is in samples a second; with `trial` it is timed here. Raises InputError when the text
    encoder or the initial weights are missing.
    """
    recipe, device = bound.recipe, bound.device
    encoder = None
    if recipe.task == "contrast":
        encoder = build_text_encoder(recipe.text, texts=(), allow_download=allow_download)
    model = build_model(recipe.model, text_width=encoder.width if encoder else 0, seed=recipe.seed)
    model.live_text = live_text_of(encoder)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch, views = recipe.data.batch, recipe.views.count
    activation = _activation_bytes(model, recipe.optim, device) * batch * views // PROBED
    memory = _memory_bytes(device)
    room = FILLED * memory - STATE * trained
    fitting = [size for size in _sizes(recipe) if activation * size / batch <= room]
    if trial:
        micro = min(recipe.optim.micro_batch or batch, batch)
        rate = _timed(model, recipe, micro, device=device)
    return Forecast(
        run=bound.run.name,
        data=bound.shards.name,
        unit=recipe.data.unit,
        samples=len(bound.plan.rows),
        epochs=bound.length.epochs,
        steps=bound.length.steps,
        global_batch=bound.length.global_batch,
        parameters=sum(p.numel() for p in model.parameters()),
        precision=precision_on(recipe.optim, device),
        state_bytes=STATE * trained,
        activation_bytes=activation,
        memory_bytes=memory,
        micro_batch=max(fitting, default=None),
        samples_per_s=rate,
        hours=bound.length.samples / rate / 3600 if rate else None,
    )


def _memory_bytes(device: torch.device) -> int:
    """Return the memory of a GPU, or that of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _sizes(recipe: Recipe) -> list[int]:
    """Return the micro-batches that change no loss: whole groups, and equal parts of the batch."""
    batch = recipe.data.batch
    if recipe.model.norm == "local":
        return [batch]
    group = min(recipe.model.norm_group, batch) if recipe.model.norm == "grouped" else 1
    return [size for size in range(group, batch + 1, group) if batch % size == 0]


def _activation_bytes(model: VisionLanguageModel, config: OptimConfig, device: torch.device) -> int:
    """Return the memory that the backward pass of the backbone keeps for PROBED views."""
    size, half = model.config.image.size, HALF.get(precision_on(config, device))
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
        torch.autocast("cpu", dtype=half, enabled=half is not None),
    ):
        levels = model.levels(views_BSS)
    assert levels  # the maps keep the graph alive, so that no two of its tensors share an address
    return sum(kept.values())


def _timed(
    model: VisionLanguageModel, recipe: Recipe, micro: int, *, device: torch.device
) -> float:
    """Return samples a second of the network on random views that are there already.

    Forward, backward and the optimizer's step; in micro-batches forward twice, as cached gradients
    need. Reading, texts and losses are not in it.
    """
    half = HALF.get(precision_on(recipe.optim, device))
    model.to(device).train()
    lay_out(model, recipe.optim, device=device)
    optimizer = build_optimizer(recipe.optim, model.backbone.parameters(), device=device)
    shape = (micro, *2 * (recipe.model.image.size,))
    views_BSS = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def levels() -> Tensor:
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            maps = model.levels(views_BSS)
        return torch.stack([level.float().square().mean() for level in maps.values()]).sum()

    def step() -> float:
        start = time.perf_counter()
        if micro < recipe.data.batch:
            with torch.no_grad():
                levels()
        torch.autograd.backward(levels())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    step()
    seconds = statistics.median(step() for _ in range(STEPS))
    start = time.perf_counter()
    optimizer.step()
    parts = recipe.data.batch / micro * recipe.views.count
    whole = parts * seconds + (time.perf_counter() - start)
    return round(recipe.data.batch / whole, 2)
