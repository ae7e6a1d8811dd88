"""The optimizer: AdamW, and a learning rate that is a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..contract import ConfigError

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move; defaults are the published values (method.md A.10)."""

    epochs: int = 20
    lr: float = 2e-4
    final_lr: float = 1e-8
    warmup_steps: int = 0
    period_steps: int | None = None
    weight_decay: float = 5e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"

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


def precision_on(config: OptimConfig, device: torch.device) -> Precision:
    """Return the precision of a run: `auto` is bf16 on a GPU and fp32 on a CPU."""
    if config.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return config.precision
