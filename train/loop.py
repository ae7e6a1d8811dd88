"""The loop: steps over batches, whatever the method; the position is one integer.

A task says what the loss of a batch is; the loop owns the optimizer, the learning rate, the
precision, the records and the checkpoints, and knows nothing of images or text.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..contract import InputError, UsageError
from ..work import Interrupts, Progress
from .checkpoint import Checkpoints, gather, restore
from .logbook import Logbook
from .optim import (
    OptimConfig,
    build_optimizer,
    learning_rate,
    precision_on,
    set_learning_rate,
)

SHOWN_KEYS = 8  # keys of a bad batch in the message; log.txt has all


class Task(Protocol):
    """What is trained: a model, and the named losses of a batch."""

    @property
    def model(self) -> nn.Module:
        """Everything that is trained and saved."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Return named scalars; `loss` is their total, which is minimized."""

    def keys(self, batch: Any) -> Sequence[str]:
        """Return the keys of the samples of a batch, for messages."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run is: whole epochs of floor(samples / global batch) steps."""

    global_batch: int
    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def samples(self) -> int:
        """Samples consumed by the whole run."""
        return self.steps * self.global_batch


class Loop:
    """Trains a task; stopped anywhere and resumed, it goes on as if never stopped."""

    def __init__(
        self,
        task: Task,
        config: OptimConfig,
        length: Length,
        *,
        device: torch.device,
        logbook: Logbook,
        checkpoints: Checkpoints,
    ) -> None:
        self.task, self.config, self.length, self.device = task, config, length, device
        self.logbook, self.checkpoints = logbook, checkpoints
        self.optimizer = build_optimizer(config, task.model.parameters(), device=device)
        self.precision = precision_on(config, device)
        self.step = 0

    @property
    def samples(self) -> int:
        """The position: samples consumed."""
        return self.step * self.length.global_batch

    def resume(self) -> None:
        """Go to the newest intact checkpoint, if there is one, and forget what came after it."""
        saved = self.checkpoints.latest(self.logbook.tell)
        if saved is not None:
            restore(self.task.model, self.optimizer, saved.tensors)
            self.step, rest = divmod(saved.samples, self.length.global_batch)
            if rest or self.step > self.length.steps:
                raise InputError("the newest checkpoint is not at a step of this run")
        self.logbook.cut_after(self.step)

    def save(self) -> None:
        """Write a checkpoint of this position, and before it all that belongs to it."""
        self.logbook.draw()
        self.logbook.sync()
        self.checkpoints.save(self.samples, gather(self.task.model, self.optimizer))

    def run(self, batches: Iterator[Any], interrupts: Interrupts, progress: Progress) -> None:
        """Train to the end on the batches from this position on.

        Saves at multiples of the checkpoints' `every`, at the end, and before Stopped is raised.
        """
        self.task.model.train()
        progress.start_at(self.samples)
        with _deterministic(self.device):
            while self.step < self.length.steps:
                row = self._step(batches)
                self.logbook.record(row)
                wait = f"data wait {row['data_wait']:.0%}"
                progress.advance(self.length.global_batch, f"loss {row['loss']:.3f}, {wait}")
                stopped = interrupts.signal is not None
                due = self.samples % self.checkpoints.every == 0
                if due or stopped or self.step == self.length.steps:
                    self.save()
                interrupts.check()

    def _step(self, batches: Iterator[Any]) -> dict[str, Any]:
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        rate = learning_rate(self.config, self.step, self.length.steps)
        set_learning_rate(self.optimizer, rate)
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        ):
            losses = self.task.loss(batch)
        values = self._values(losses, batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["loss"])
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.clip)
        self.optimizer.step()
        epoch = self.step // self.length.steps_per_epoch
        self.step += 1
        seconds = time.perf_counter() - start
        return {
            "step": self.step,
            "samples": self.samples,
            "epoch": epoch,
            "lr": rate,
            "samples_per_s": round(self.length.global_batch / seconds, 2),
            "data_wait": round(waited / seconds, 4),
            **{name if name == "loss" else f"loss/{name}": v for name, v in values.items()},
        }

    def _values(self, losses: dict[str, Tensor], batch: Any) -> dict[str, float]:
        """Return the losses as numbers; UsageError with the batch's keys when one is not."""
        found: list[float] = torch.stack([t.detach().float() for t in losses.values()]).tolist()
        values = dict(zip(losses, found, strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return values
        keys = list(self.task.keys(batch))
        step = self.step + 1
        self.logbook.tell(f"{', '.join(bad)} not finite at step {step}; keys: {' '.join(keys)}")
        more = f" and {len(keys) - SHOWN_KEYS} more in log.txt" if len(keys) > SHOWN_KEYS else ""
        raise UsageError(
            f"{', '.join(bad)} is not a finite number at step {step}; training cannot go on",
            where=f"keys: {', '.join(keys[:SHOWN_KEYS])}{more}",
            todo="lower optim.lr, or set optim.warmup_steps or optim.clip; or look at the samples "
            "with `imitate verify`",
        )


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a CPU use only algorithms that give the same bits again; put the setting back after."""
    before = torch.get_deterministic_debug_mode()
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
