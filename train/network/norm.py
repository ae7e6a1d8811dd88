"""Batch normalisation over fixed groups of samples, so that the loss does not depend on ranks.

Axes: N samples, G groups, C channels, H and W rows and columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract import ConfigError

Norm = Literal["grouped", "local", "frozen"]


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of `group` consecutive samples.

    In training each group is normalised by itself. The running statistics move by the means over
    the groups of their means and of their unbiased variances: once a forward, within `moved_once`
    once for all that went forward there. A batch smaller than a group is one group; a larger one
    that is no multiple of it is a ConfigError, since its loss would depend on how the global
    batch is cut. In evaluation it is nn.BatchNorm2d.
    """

    def __init__(self, channels: int, *, group: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.group = group
        self.seen: list[tuple[Tensor, Tensor]] | None = None  # of the groups of `moved_once`
        self.still = False

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return [N, C, H, W], normalised."""
        if not self.training:
            return super().forward(x_NCHW)
        N = len(x_NCHW)
        group = min(self.group, N)
        if N % group:
            raise ConfigError(
                [f"a batch of {N} is no multiple of model.norm_group={group}"],
                todo="set a batch that is, or a norm_group that divides it",
            )
        mean_GC = self.weight.new_zeros(N // group, self.num_features)
        var_GC = torch.zeros_like(mean_GC)
        parts = [
            # momentum 1 writes the group's own statistics into its row
            F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)
            for x, mean, var in zip(torch.split(x_NCHW, group), mean_GC, var_GC, strict=True)
        ]
        if not self.still:
            self._see(mean_GC, var_GC)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _see(self, mean_GC: Tensor, var_GC: Tensor) -> None:
        if self.seen is None:
            self.move(mean_GC.mean(0), var_GC.mean(0))
        else:
            self.seen.append((mean_GC, var_GC))

    @torch.no_grad()
    def move(self, mean_C: Tensor, var_C: Tensor) -> None:
        """Move the running statistics towards these, by the momentum."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C, self.momentum)
        self.num_batches_tracked.add_(1)


@contextlib.contextmanager
def moved_once(
    model: nn.Module, average: Callable[[Sequence[Tensor]], None] | None = None
) -> Iterator[None]:
    """Let the grouped norms of `model` move once, at the end, by all groups that went forward.

    `average` replaces tensors by their means over all ranks, on each of which as many groups went
    forward: then every rank moves by the groups of the global batch.
    """
    norms = _grouped(model)
    for norm in norms:
        norm.seen = []
    try:
        yield
        moving = [(norm, norm.seen) for norm in norms if norm.seen]
        found = [
            torch.stack([torch.cat(kind).mean(0) for kind in zip(*seen, strict=True)])
            for _, seen in moving
        ]
        if average is not None:
            average(found)
        for (norm, _), statistics_2C in zip(moving, found, strict=True):
            norm.move(*statistics_2C)
    finally:
        for norm in norms:
            norm.seen = None


@contextlib.contextmanager
def standing_still(model: nn.Module) -> Iterator[None]:
    """Let samples go forward once more without moving the running statistics of grouped norms."""
    norms = _grouped(model)
    for norm in norms:
        norm.still = True
    try:
        yield
    finally:
        for norm in norms:
            norm.still = False


def _grouped(model: nn.Module) -> list[GroupedBatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, GroupedBatchNorm2d)]


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the running statistics, which, like scale and shift, never move."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return [N, C, H, W], normalised."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x_NCHW, mean, var, self.weight, self.bias, False, 0.0, self.eps)


def replace_norm(module: nn.Module, *, norm: Norm, group: int) -> None:
    """Replace every nn.BatchNorm2d below `module`, in place; names of weights do not change.

    `local` leaves them: statistics of the whole batch of this process.
    """
    if norm == "local":
        return
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, _replacement(child, norm=norm, group=group))
        else:
            replace_norm(child, norm=norm, group=group)


def _replacement(old: nn.BatchNorm2d, *, norm: Norm, group: int) -> nn.BatchNorm2d:
    momentum = 0.1 if old.momentum is None else old.momentum
    new: nn.BatchNorm2d
    if norm == "grouped":
        new = GroupedBatchNorm2d(old.num_features, group=group, eps=old.eps, momentum=momentum)
    else:
        new = FrozenBatchNorm2d(old.num_features, eps=old.eps, momentum=momentum)
        new.requires_grad_(False)
    new.load_state_dict(old.state_dict())
    return new
