"""Targets of the contrastive terms: how much each pair of a batch belongs together.

Everything here is float32 at least, whatever the precision of the model, and has no gradient.
Axes: N samples of a batch that have the section, E width of the frozen text embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...contract import ConfigError

Kernel = Literal["exp", "gau", "lap", "sigmoid"]
PriorKind = Literal["text", "permuted", "uniform", "none"]
_CONSTANT = 1e-6  # share of a row's length below which what varies in it is rounding


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What is known of pairs beforehand, and how much of the targets' mass goes by it.

    `kind`: `text` (correlation of the texts), or its controls: `permuted` (that of other samples
    of the batch), `uniform` (as much mass, spread evenly), `none`. `knowledge` and `metadata` are
    the shares of the prior that go by the findings read in the reports, and by view, sex and age.
    The mass is `alpha`; `adapt` `scheduled` moves it evenly to `final` over `epochs`, `learned`
    learns one a branch, held near `alpha` by `pull` (see `divergence`).
    """

    kind: PriorKind = "text"
    knowledge: float = 0.0
    metadata: float = 0.0
    alpha: float = 0.2
    adapt: Literal["fixed", "scheduled", "learned"] = "fixed"
    final: float = 0.2
    epochs: int = 20
    pull: float = 2.0

    def __post_init__(self) -> None:
        rules = {
            "knowledge and metadata must not be negative, and at most 1 together": (
                min(self.knowledge, self.metadata) >= 0 and self.knowledge + self.metadata <= 1
            ),
            "alpha must be between 0 and 1": 0 <= self.alpha <= 1,
            "final must be between 0 and 1": 0 <= self.final <= 1,
            "alpha must not be 0 or 1 where it is learned": self.adapt != "learned"
            or 0 < self.alpha < 1,
            "epochs must be at least 1": self.epochs >= 1,
            "pull must be positive": self.pull > 0,
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)

    def scheduled(self, epoch: int) -> float:
        """Return the mass in an epoch counted from 0, where it is not learned."""
        if self.adapt != "scheduled":
            return self.alpha
        return self.alpha + (self.final - self.alpha) * min(epoch / self.epochs, 1)


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
def text_weights(text_NE: Tensor, centre_E: Tensor | None) -> Tensor:
    """Return the positive part of the correlation of the centred embeddings, [N, N]."""
    return correlation(text_NE, centre_E).clamp(min=0)


@torch.no_grad()
def mixed_prior(parts: Sequence[tuple[float, Tensor]], positive_NN: Tensor) -> Tensor:
    """Return Q [N, N] of some weights of pairs, each with its share of the whole.

    The weights are taken outside `positive_NN` and their rows normalised; a row of which nothing
    is left by one of them goes by the others alone, and is 0 where nothing is left by any.
    """
    total_NN = torch.zeros_like(positive_NN, dtype=parts[0][1].dtype)
    for share, weight_NN in parts:
        total_NN = total_NN + share * _normalised(weight_NN.masked_fill(positive_NN, 0))
    return _normalised(total_NN)


@torch.no_grad()
def evened(prior_NN: Tensor, positive_NN: Tensor) -> Tensor:
    """Return each row's mass spread evenly outside `positive_NN`, [N, N]: the uniform prior."""
    return _normalised((~positive_NN).to(prior_NN)) * prior_NN.sum(dim=1, keepdim=True)


def blended(shared_NN: Tensor, prior_NN: Tensor, alpha: float | Tensor) -> Tensor:
    """Return T = (1 − α) P + α Q, [N, N], every row of which sums to 1; where Q is 0, T is P."""
    share_N1 = alpha * (prior_NN.sum(dim=1, keepdim=True) > 0)
    return (1 - share_N1) * shared_NN + share_N1 * prior_NN


def mended_targets(
    text_NE: Tensor, same_N: Tensor, *, centre_E: Tensor | None, alpha: float
) -> Tensor:
    """Return `blended` targets of the plain prior: P is `shared_text`, Q goes by the texts."""
    weight_NN = text_weights(text_NE, centre_E)
    shared_NN = shared_text(same_N).to(weight_NN.dtype)
    return blended(shared_NN, mixed_prior([(1.0, weight_NN)], shared_NN > 0), alpha)


def divergence(alpha: Tensor, middle: float) -> Tensor:
    """Return KL(Bernoulli(α) ‖ Bernoulli(middle)), the pull of a learned α to where it started.

    The cross-entropy is linear in α, so that without it α would go to 0 or 1. With the pull β the
    best α has the logit of the middle less (CE(S, Q) − CE(S, P)) / β: the worse the pairs of the
    prior fit what the images say, the less they count.
    """
    return alpha * torch.log(alpha / middle) + (1 - alpha) * torch.log((1 - alpha) / (1 - middle))


@torch.no_grad()
def source_targets(
    text_NE: Tensor, *, temperature: float, kernel: Kernel, ratio: float, even: bool = False
) -> Tensor:
    """Return T = I + τ g(R), [N, N], as published (arXiv 2310.07355), rows not normalised.

    R is the positive part of the correlation with its diagonal set to 0. g is applied to every
    entry, so that for all kernels but `exp` the diagonal grows by τ g(0) too. Where the published
    code has NaN, for a text without variation, R is 0. `even` replaces the entries of a row off
    the diagonal by their mean.
    """
    related_NN = correlation(text_NE).clamp(min=0).fill_diagonal_(0)
    prior_NN = temperature * smooth(related_NN, kernel=kernel, ratio=ratio)
    one_NN = torch.eye(len(related_NN)).to(related_NN)
    if even:
        prior_NN = evened(prior_NN * (1 - one_NN), one_NN > 0) + prior_NN * one_NN
    return one_NN + prior_NN


def smooth(r: Tensor, *, kernel: Kernel, ratio: float) -> Tensor:
    """Return g(r) of the four published kernels; only `exp` uses `ratio`, its λ."""
    if kernel == "exp":
        return 1 - torch.exp(-ratio * r)
    if kernel == "gau":
        return torch.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
    if kernel == "lap":
        return torch.exp(-r) / 2
    return torch.sigmoid(r)


def _normalised(weight_NN: Tensor) -> Tensor:
    mass_N1 = weight_NN.sum(dim=1, keepdim=True)
    return weight_NN / torch.where(mass_N1 > 0, mass_N1, 1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
