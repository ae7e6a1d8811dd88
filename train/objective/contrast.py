"""Contrast: the soft cross-entropy of two sets of embeddings, over the batch of all ranks.

Axes: N samples of the global batch, D joint embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed


def contrast(
    x_ND: Tensor,
    y_ND: Tensor,
    targets_NN: Tensor,
    *,
    temperature: float,
    masked_NN: Tensor | None = None,
) -> Tensor:
    """Return CE(S, T) + CE(Sᵀ, T), S = x̂ ŷᵀ / τ of rows of length 1.

    CE is the mean over rows of −Σ T log softmax(S). Row i of T is the target of anchor i in both
    directions. Pairs in the symmetric `masked_NN` are no negatives: they leave the softmax.
    """
    x_ND, y_ND = _unit(x_ND), _unit(y_ND)
    logits_NN = x_ND @ y_ND.T / temperature
    if masked_NN is not None:
        # the lowest finite number, as minus infinity times a target of 0 would be NaN
        logits_NN = logits_NN.masked_fill(masked_NN, torch.finfo(logits_NN.dtype).min)
    targets_NN = targets_NN.to(logits_NN.dtype)
    return _cross_entropy(logits_NN, targets_NN) + _cross_entropy(logits_NN.T, targets_NN)


def _cross_entropy(logits_NN: Tensor, targets_NN: Tensor) -> Tensor:
    return -(targets_NN * F.log_softmax(logits_NN, dim=1)).sum(dim=1).mean()


def _unit(x_ND: Tensor) -> Tensor:
    return F.normalize(x_ND.to(torch.promote_types(x_ND.dtype, torch.float32)), dim=1)


def gather(x: Tensor) -> Tensor:
    """Return the global batch of which `x` is this rank's consecutive share, along its first axis.

    One process: `x` itself. Else every rank gets the same tensor and computes the same loss from
    it; gradients are right when they are then averaged over the ranks, as DDP does.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    if distributed.get_world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x) if x.requires_grad else _gathered(x)  # type: ignore[no-untyped-call]
    return gathered


def _gathered(x: Tensor) -> Tensor:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.share = len(x)
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # every rank has the same loss, so its own rows hold the whole gradient; averaging over
        # the ranks will divide by their number
        first = distributed.get_rank() * ctx.share
        return grad[first : first + ctx.share] * distributed.get_world_size()
