"""The optimizer: AdamW, and a learning rate that is a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..contract import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move; defaults are the published values (method.md A.10).

    `micro_batch` samples of a process at most have their graph in memory at once, null: all of its
    share. `channels_last` keeps the channels of maps innermost, null: on a GPU. `compile` lets
    torch compile the backbone. These three change rounding alone, and may change on resume.
    """

    epochs: int = 20
    lr: float = 2e-4
    final_lr: float = 1e-8
    warmup_steps: int = 0
    period_steps: int | None = None
    weight_decay: float = 5e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    micro_batch: int | None = None
    channels_last: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        rules = {
            "epochs must be at least 1": self.epochs >= 1,
            "lr must be positive": self.lr > 0,
            "final_lr must be between 0 and lr": 0 <= self.final_lr <= self.lr,
            "warmup_steps must not be negative": self.warmup_steps >= 0,
            "period_steps must be at least 1, or null": (self.period_steps or 1) >= 1
            and self.period_steps != 0,
            "weight_decay must not be negative": self.weight_decay >= 0,
            "betas must be in [0, 1)": all(0 <= beta < 1 for beta in self.betas),
            "eps must be positive": self.eps > 0,
            "clip must be positive, or null": self.clip is None or self.clip > 0,
            "micro_batch must be at least 1, or null": self.micro_batch is None
            or self.micro_batch >= 1,
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of `step`, counted from 0, in a run of `steps`.

    Linear warm-up to `lr`, then a cosine down to `final_lr` at the last step of the run. With
    `period_steps` the cosine instead ends after that many steps and starts again, each period
    twice the one before (Loshchilov and Hutter, 2017), whatever the length of the run.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    at = step - config.warmup_steps
    period = config.period_steps or max(steps - config.warmup_steps, 1)
    while config.period_steps and at >= period:
        at, period = at - period, 2 * period
    return (
        config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * at / period)) / 2
    )


def build_optimizer(
    config: OptimConfig, parameters: Iterable[nn.Parameter], *, device: torch.device
) -> torch.optim.AdamW:
    """Return AdamW over the parameters that are trained, all in one group as published."""
    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Mover:
    """Moves the weights: the optimizer, and in fp16 the scale that keeps gradients from vanishing.

    The scale doubles after 2,000 steps without an overflow, and a step whose gradients overflow
    is left out and halves it (Micikevicius et al., 2018).
    """

    def __init__(
        self,
        config: OptimConfig,
        parameters: Iterable[nn.Parameter],
        *,
        device: torch.device,
        average: Callable[[Sequence[Tensor]], None],
    ) -> None:
        self.config, self.average = config, average
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = build_optimizer(config, self.parameters, device=device)
        scaled = precision_on(config, device) == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def move(self, loss: Tensor, backward: Callable[[Tensor], None], *, rate: float) -> None:
        """Take a step down the gradients that `backward` adds for a loss, averaged over ranks."""
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        backward(self.scaler.scale(loss))
        self.average([p.grad for p in self.parameters if p.grad is not None])
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def scale(self) -> dict[str, Tensor]:
        """Return the state of the scale as tensors, nothing without one."""
        return {name: torch.tensor(value) for name, value in self.scaler.state_dict().items()}

    def rescale(self, state: dict[str, Tensor]) -> None:
        """Put back what `scale` returned."""
        self.scaler.load_state_dict({name: tensor.item() for name, tensor in state.items()})


def lay_out(model: nn.Module, config: OptimConfig, *, device: torch.device) -> None:
    """Keep the weights of convolutions, and so all maps, channels last where that is asked for."""
    wanted = config.channels_last
    if wanted or (wanted is None and device.type == "cuda"):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def precision_on(config: OptimConfig, device: torch.device) -> Precision:
    """Return the precision of a run: `auto` is bf16 on a GPU and fp32 on a CPU."""
    if config.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return config.precision
