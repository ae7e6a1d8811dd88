"""How a head, or a whole network, is trained: AdamW, epochs, early stopping, resumed by epoch.

The order of samples is a function of (seed, epoch); what is drawn inside an epoch comes from
torch's generator, seeded by (seed, epoch). So a training that was stopped goes on as if it never
was, from a file written after each epoch.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...files import atomic, blake3_file, read_json, write_json
from ...shards.order import Ordinals, permutation
from ...work import Interrupts, Progress

STATE = "epoch.safetensors"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: AdamW without a schedule, the whole batches of each epoch.

    Training ends after `epochs`, or when `patience` epochs in a row did not improve on the best.
    """

    lr: float
    weight_decay: float
    batch: int
    epochs: int
    patience: int
    betas: tuple[float, float] = (0.9, 0.999)

    @classmethod
    def of(cls, setting: Mapping[str, Any], **over: Any) -> Schedule:
        """Return the schedule that a protocol's setting tells."""
        told = {field.name: setting[field.name] for field in fields(cls) if field.name in setting}
        told |= over
        return cls(**told | {"betas": tuple(told.get("betas", cls.betas))})


class Lesson(abc.ABC):
    """What is trained: a module, the loss of a batch, and how good the module is."""

    module: nn.Module

    @abc.abstractmethod
    def losses(self, batches: Sequence[Ordinals], epoch: int) -> Iterator[Tensor]:
        """Yield the loss of each batch, computed with the module as it is when it is asked for."""

    @abc.abstractmethod
    def judge(self) -> float:
        """Return how bad the module is on the validation samples; the least is the best."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How a training went: the loss of each epoch and how it was judged; `best` counts from 0."""

    losses: tuple[float, ...]
    judged: tuple[float, ...]

    @property
    def best(self) -> int:
        """The first epoch that was judged best."""
        return int(np.argmin(np.nan_to_num(self.judged, nan=np.inf)))

    @property
    def least(self) -> float:
        """How the best epoch was judged; infinity where none could be."""
        return float(np.nan_to_num(self.judged, nan=np.inf).min())

    def ends(self, schedule: Schedule) -> bool:
        """Tell whether the training is over."""
        done = len(self.judged)
        return done >= schedule.epochs or bool(done and done - 1 - self.best >= schedule.patience)


def fit(
    lesson: Lesson,
    rows: Ordinals,
    schedule: Schedule,
    *,
    seed: int,
    folder: Path,
    interrupts: Interrupts,
    progress: str = "none",
    what: str = "epochs",
) -> Curve:
    """Train the lesson's module on these samples; it ends with the weights of its best epoch.

    `folder` holds the state after the last whole epoch; who is done with it removes it. `what` is
    what progress is called. Raises Stopped between two batches after a signal.
    """
    module = lesson.module
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [parameter for _, parameter in trained],
        lr=schedule.lr,
        betas=schedule.betas,
        weight_decay=schedule.weight_decay,
    )
    names = [name for name, _ in trained]
    curve, best = _restore(folder, module, optimizer, names)
    with Progress(what, schedule.epochs, progress) as bar:
        bar.start_at(len(curve.judged))
        while not curve.ends(schedule):
            loss = _epoch(lesson, optimizer, rows, schedule, len(curve.judged), seed, interrupts)
            curve = Curve(losses=(*curve.losses, loss), judged=(*curve.judged, lesson.judge()))
            if curve.best == len(curve.judged) - 1:
                best = _copy(module)
            _save(folder, module, optimizer, names, curve, best)
            bar.advance(note=f"loss {loss:.4f}, validation {curve.judged[-1]:.4f}")
    module.load_state_dict(best, strict=False)
    return curve


Taught = TypeVar("Taught", bound=Lesson)


@dataclass(frozen=True, kw_only=True)
class Training(Generic[Taught]):
    """A lesson that was learned, at which learning rate, and how that went."""

    lesson: Taught
    curve: Curve
    lr: float

    @property
    def facts(self) -> dict[str, Any]:
        """What results.json tells of it."""
        return {
            "lr": self.lr,
            "epochs": len(self.curve.judged),
            "best_epoch": self.curve.best + 1,
            "losses": list(self.curve.losses),
            "judged": list(self.curve.judged),
        }


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """How every lesson of a cell is trained: the seed, where its state is kept, who watches."""

    name: str
    seed: int
    folder: Path
    interrupts: Interrupts
    progress: str

    def best(
        self, setting: Mapping[str, Any], rows: Ordinals, lesson: Callable[[Schedule], Taught]
    ) -> Training[Taught]:
        """Train a lesson with each learning rate of a setting; return what validation judges best.

        The first at a tie.
        """
        rates = setting["lr"] if isinstance(setting["lr"], list) else [setting["lr"]]
        best: Training[Taught] | None = None
        for rate in rates:
            schedule = Schedule.of(setting, lr=rate)
            trained = Training(
                lesson=(one := lesson(schedule)),
                curve=fit(
                    one,
                    rows,
                    schedule,
                    seed=self.seed,
                    folder=self.folder / f"lr-{rate:g}",
                    interrupts=self.interrupts,
                    progress=self.progress,
                    what=f"{self.name} at {rate:g}, epochs",
                ),
                lr=rate,
            )
            if best is None or trained.curve.least < best.curve.least:
                best = trained
        assert best is not None  # a setting names a rate
        return best


def batches_of(rows: Ordinals, batch: int, *, seed: int, epoch: int) -> list[Ordinals]:
    """Return the whole batches of an epoch; fewer samples than a batch are one batch."""
    order = rows[permutation(len(rows), purpose="eval/order", seed=seed, epoch=epoch)]
    size = min(batch, len(rows))
    return [order[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def _epoch(
    lesson: Lesson,
    optimizer: torch.optim.Optimizer,
    rows: Ordinals,
    schedule: Schedule,
    epoch: int,
    seed: int,
    interrupts: Interrupts,
) -> float:
    """Take the steps of one epoch and return its mean loss."""
    total = []
    batches = batches_of(rows, schedule.batch, seed=seed, epoch=epoch)
    # without `deterministic` cuDNN may sum gradients in another order each time
    repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(), repeatable:
        torch.manual_seed(1_000_003 * seed + epoch)
        for loss in lesson.losses(batches, epoch):
            interrupts.check()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total.append(loss.detach())
    return float(torch.stack(total).mean())


def _moving(module: nn.Module) -> dict[str, Tensor]:
    """Return what training can change: weights that have a gradient, and buffers."""
    still = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in still}


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _moving(module).items()}


def _save(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    curve: Curve,
    best: Mapping[str, Tensor],
) -> None:
    """Write tensors, then the mark that names their hash."""
    state = optimizer.state_dict()["state"]
    tensors = {f"now {name}": tensor for name, tensor in _moving(module).items()}
    tensors |= {f"best {name}": tensor for name, tensor in best.items()}
    tensors |= {
        f"{key} {names[index]}": value
        for index, held in state.items()
        for key, value in held.items()
    }
    with atomic(folder / STATE) as partial:
        save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, partial)
    told = {"losses": curve.losses, "judged": curve.judged}
    write_json(folder / "epoch.json", told | {"blake3": blake3_file(folder / STATE)})


def _restore(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[Curve, dict[str, Tensor]]:
    """Put back the last whole epoch; a state that is torn or missing starts anew."""
    mark = folder / "epoch.json"
    told = read_json(mark) if mark.is_file() else {}
    path = folder / STATE
    if not told or not path.is_file() or blake3_file(path) != told["blake3"]:
        return Curve(losses=(), judged=()), _copy(module)
    device = next(module.parameters()).device
    held: dict[str, dict[str, Tensor]] = {}
    for full, tensor in load_file(path).items():
        key, _, name = full.partition(" ")
        held.setdefault(key, {})[name] = tensor
    module.load_state_dict(held.pop("now"), strict=False)
    best = {name: tensor.to(device) for name, tensor in held.pop("best").items()}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensors in held.items():
        for name, tensor in tensors.items():
            state.setdefault(names.index(name), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return Curve(losses=tuple(told["losses"]), judged=tuple(told["judged"])), best
