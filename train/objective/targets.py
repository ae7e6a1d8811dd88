"""Targets of the contrastive terms: how much each pair of a batch belongs together.

Everything here is float32 at least, whatever the precision of the model, and has no gradient.
Axes: N samples of a batch that have the section, E width of the frozen text embeddings.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["exp", "gau", "lap", "sigmoid"]
_CONSTANT = 1e-6  # share of a row's length below which what varies in it is rounding


@torch.no_grad()
def correlation(text_NE: Tensor, centre_E: Tensor | None = None) -> Tensor:
    """Return the Pearson correlation of every two rows, [N, N], after subtracting `centre_E`.

    A row without variation correlates with nothing: 0, where the quotient would be NaN.
    """
    text_NE = _wide(text_NE)
    moved_NE = text_NE if centre_E is None else text_NE - centre_E.to(text_NE)
    moved_NE = moved_NE - moved_NE.mean(dim=1, keepdim=True)
    length_N = torch.linalg.vector_norm(moved_NE, dim=1)
    varies_N = length_N > _CONSTANT * torch.linalg.vector_norm(text_NE, dim=1)
    unit_NE = moved_NE / torch.where(varies_N, length_N, torch.inf)[:, None]
    return (unit_NE @ unit_NE.T).clamp(-1, 1)


@torch.no_grad()
def shared_text(same_N: Tensor) -> Tensor:
    """Return P [N, N]: mass 1 of each row, spread evenly over the rows of the same code.

    Equal codes mean an identical text: the sample itself, other images of its study, other
    studies with the same sentence.
    """
    same_NN = (same_N[:, None] == same_N[None, :]).float()
    return same_NN / same_NN.sum(dim=1, keepdim=True)


@torch.no_grad()
def mended_targets(
    text_NE: Tensor, same_N: Tensor, *, centre_E: Tensor | None, alpha: float
) -> Tensor:
    """Return T = (1 − α) P + α Q, [N, N], of which every row sums to 1.

    P is `shared_text`. Q is the positive part of the correlation of the centred embeddings,
    outside P, its rows normalised; a row of which nothing is left has T = P.
    """
    weight_NN = correlation(text_NE, centre_E).clamp(min=0)
    prior_NN = shared_text(same_N).to(weight_NN.dtype)
    weight_NN = weight_NN.masked_fill(prior_NN > 0, 0)
    mass_N1 = weight_NN.sum(dim=1, keepdim=True)
    spread_NN = weight_NN / torch.where(mass_N1 > 0, mass_N1, 1)
    share_N1 = alpha * (mass_N1 > 0)
    return (1 - share_N1) * prior_NN + share_N1 * spread_NN


@torch.no_grad()
def source_targets(text_NE: Tensor, *, temperature: float, kernel: Kernel, ratio: float) -> Tensor:
    """Return T = I + τ g(R), [N, N], as published (arXiv 2310.07355), rows not normalised.

    R is the positive part of the correlation with its diagonal set to 0. g is applied to every
    entry, so that for all kernels but `exp` the diagonal grows by τ g(0) too. Where the published
    code has NaN, for a text without variation, R is 0.
    """
    related_NN = correlation(text_NE).clamp(min=0).fill_diagonal_(0)
    return torch.eye(len(related_NN)).to(related_NN) + temperature * smooth(
        related_NN, kernel=kernel, ratio=ratio
    )


def smooth(r: Tensor, *, kernel: Kernel, ratio: float) -> Tensor:
    """Return g(r) of the four published kernels; only `exp` uses `ratio`, its λ."""
    if kernel == "exp":
        return 1 - torch.exp(-ratio * r)
    if kernel == "gau":
        return torch.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
    if kernel == "lap":
        return torch.exp(-r) / 2
    return torch.sigmoid(r)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
