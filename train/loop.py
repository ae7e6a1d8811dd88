"""The loop: steps over batches, whatever the method; the position is one integer.

A task says what the loss of a batch is; the loop owns the optimizer, the learning rate, the
precision, the records and the checkpoints, and knows nothing of images or text.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract import InputError, UsageError
from ..work import Interrupts, Progress
from .checkpoint import Checkpoints, gather, restore
from .distribution.cached import InParts, Task, Whole
from .distribution.ranks import ALONE, Ranks
from .logbook import Logbook, Row
from .network.norm import moved_once
from .optim import HALF, Mover, OptimConfig, lay_out, learning_rate, precision_on
from .validation.schedule import Validation

LATE = 1  # steps by which the losses of a GPU are read late
SHOWN_KEYS = 8  # keys of a bad batch in the message; log.txt has all
SCALE = "scale "  # before the names of the state of the scale of fp16 in a checkpoint


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


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A step that was taken, its losses perhaps still being computed by a GPU."""

    row: Row
    names: tuple[str, ...]
    values: Tensor
    ready: torch.cuda.Event | None
    batch: Any

    def wait(self) -> None:
        """Wait until the losses are there."""
        if self.ready is not None:
            self.ready.synchronize()

    def losses(self) -> dict[str, float]:
        """Return the losses as numbers, when they are there."""
        self.wait()
        return dict(zip(self.names, self.values.tolist(), strict=True))


class Loop:
    """Trains a task; stopped anywhere and resumed, it goes on as if never stopped.

    Every rank has its own loop, which sees its share of each batch; all take the same steps. On a
    GPU the losses of a step are read while it takes the next one.
    """

    def __init__(
        self,
        task: Task,
        config: OptimConfig,
        length: Length,
        *,
        device: torch.device,
        logbook: Logbook,
        checkpoints: Checkpoints,
        ranks: Ranks = ALONE,
        validation: Validation | None = None,
    ) -> None:
        self.validation = validation
        self.task, self.config, self.length, self.device = task, config, length, device
        self.logbook, self.checkpoints, self.ranks = logbook, checkpoints, ranks
        self.precision = precision_on(config, device)
        lay_out(task.model, config, device=device)
        self.mover = Mover(config, task.model.parameters(), device=device, average=ranks.average)
        self.gradients: Whole | InParts = Whole(task, self._casting)
        if config.micro_batch is not None and config.micro_batch < self._share:
            self.gradients = InParts(task, self._casting, size=config.micro_batch)
        self.step = 0
        self._taken: deque[Taken] = deque()

    @property
    def samples(self) -> int:
        """The position: samples consumed."""
        return self.step * self.length.global_batch

    @property
    def _share(self) -> int:
        return self.length.global_batch // self.ranks.count

    def resume(self) -> None:
        """Go to the newest intact checkpoint, if there is one, and forget what came after it."""
        saved = self.checkpoints.latest(self.logbook.tell) if self.ranks.first else None
        newest = self.ranks.most(saved.samples if saved else -1)
        if newest >= 0:
            tensors = (saved or self.checkpoints.at(newest)).tensors
            scale = {n.removeprefix(SCALE): t for n, t in tensors.items() if n.startswith(SCALE)}
            held = {n: t for n, t in tensors.items() if not n.startswith(SCALE)}
            restore(self.task.model, self.mover.optimizer, held)
            if scale:
                self.mover.rescale(scale)
            self.step, rest = divmod(newest, self.length.global_batch)
            if rest or self.step > self.length.steps:
                raise InputError("the newest checkpoint is not at a step of this run")
        self.logbook.cut_after(self.step)
        if self.validation is not None:
            self.validation.recall(self.logbook.rows())

    @property
    def ended(self) -> bool:
        """Tell whether the run is at its end, or ends early as validation found."""
        spent = self.validation is not None and self.validation.selection.spent
        return spent or self.step == self.length.steps

    @property
    def best(self) -> int | None:
        """The samples consumed at the best step that was measured, None without any."""
        best = None if self.validation is None else self.validation.selection.best
        return None if best is None else best * self.length.global_batch

    def save(self) -> None:
        """Write a checkpoint of this position, and before it all that belongs to it."""
        self._record(within=0)
        if not self.ranks.first:
            return
        self.logbook.draw()
        self.logbook.sync()
        scale = {f"{SCALE}{name}": tensor for name, tensor in self.mover.scale().items()}
        tensors = gather(self.task.model, self.mover.optimizer) | scale
        self.checkpoints.save(self.samples, tensors, best=self.best)

    def run(self, batches: Iterator[Any], interrupts: Interrupts, progress: Progress) -> None:
        """Train to the end on this rank's batches from this position on.

        Saves at multiples of the checkpoints' `every`, at a step that validation finds the best so
        far, at the end, and before Stopped is raised, by all ranks at the same step, when a signal
        has come to one.
        """
        self.task.model.train()
        progress.start_at(self.samples)
        with _deterministic(self.device):
            while not self.ended:
                row = self._step(batches)
                note = f"loss {row['loss']:.3f}, data wait {row['data_wait']:.0%}" if row else ""
                progress.advance(self.length.global_batch, note)
                # a signal that comes from here on counts at the next step, on all ranks
                stopped = self.ranks.most(interrupts.signal or 0)
                due = self.samples % self.checkpoints.every == 0 or self.samples == self.best
                if due or stopped or self.ended:
                    self.save()
                if stopped:
                    interrupts.signal = stopped
                    interrupts.check()

    def _step(self, batches: Iterator[Any]) -> Row | None:
        """Take a step and return the newest row of the metrics, if there is one yet."""
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        rate = learning_rate(self.config, self.step, self.length.steps)
        with moved_once(self.task.model, self.ranks.average):
            losses = self.gradients.forward(batch)
        self.mover.move(losses["loss"], self.gradients.backward, rate=rate)
        epoch = self.step // self.length.steps_per_epoch
        self.step += 1
        row = {"step": self.step, "samples": self.samples, "epoch": epoch, "lr": rate}
        self._taken.append(_taken(row, losses, batch, device=self.device))
        self._taken[0].wait()
        seconds = time.perf_counter() - start
        row["samples_per_s"] = round(self.length.global_batch / seconds, 2)
        row["data_wait"] = round(waited / seconds, 4)
        if self.validation is not None and self.validation.due(self.step):
            with self._casting():
                row |= self.validation.measure(self.step)
            self.logbook.tell(self.validation.sentence)
        return self._record(within=LATE if self.device.type == "cuda" else 0)

    def _record(self, *, within: int) -> Row | None:
        """Record all steps but the last `within`, and return the row of the newest recorded."""
        row = None
        while len(self._taken) > within:
            taken = self._taken.popleft()
            values = taken.losses()
            self._check(taken, values)
            named = {n if n == "loss" else f"loss/{n}": value for n, value in values.items()}
            row = {**taken.row, **named}
            self.logbook.record(row)
        return row

    def _casting(self) -> torch.autocast:
        half = HALF.get(self.precision)
        return torch.autocast(self.device.type, dtype=half, enabled=half is not None)

    def _check(self, taken: Taken, values: dict[str, float]) -> None:
        """Raise UsageError with the batch's keys when a loss is not a number."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        step = taken.row["step"]
        # the loss is that of the global batch, so all ranks come here
        keys = self.ranks.union("keys", self.task.keys(taken.batch))
        self.logbook.tell(f"{', '.join(bad)} not finite at step {step}; keys: {' '.join(keys)}")
        more = f" and {len(keys) - SHOWN_KEYS} more in log.txt" if len(keys) > SHOWN_KEYS else ""
        raise UsageError(
            f"{', '.join(bad)} is not a finite number at step {step}; training cannot go on",
            where=f"keys: {', '.join(keys[:SHOWN_KEYS])}{more}",
            todo="lower optim.lr, or set optim.warmup_steps or optim.clip; or look at the samples "
            "with `imitate verify`",
        )


def _taken(row: Row, losses: dict[str, Tensor], batch: Any, *, device: torch.device) -> Taken:
    """Return a step whose losses are on their way from the device, without waiting for them."""
    values = torch.stack([value.detach().float() for value in losses.values()])
    ready = None
    if device.type == "cuda":
        values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(
            values, non_blocking=True
        )
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
    return Taken(row=row, names=tuple(losses), values=values, ready=ready, batch=batch)


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
