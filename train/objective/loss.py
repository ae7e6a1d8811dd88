"""The contrastive losses: embeddings of the global batch in, named scalars out.

Axes: N samples of the global batch that have the section, D joint embedding, E width of the frozen
text embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from ...contract import ConfigError
from .targets import Kernel, mended_targets, source_targets

Section = Literal["impression", "findings", "report"]
Term = Literal["impression", "findings", "vision_impression", "vision_findings", "report"]

SECTION_OF: dict[Term, Section] = {
    "impression": "impression",
    "findings": "findings",
    "vision_impression": "impression",
    "vision_findings": "findings",
    "report": "report",
}
VISION: tuple[Term, ...] = ("vision_impression", "vision_findings")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which terms, and the targets they are trained on.

    `targets` of the vision-language terms: `mended` (identical texts share the target, and the
    share `alpha` goes by the correlation of the texts), `source` (as published: identity plus
    smoothed correlation, by `kernel` and its `ratio`), `onehot` (InfoNCE). `vision` says how the
    vision-vision terms are made: `masked` (no prior, other images of a study are no negatives) or
    `source` (prior on the Impression's term, no mask).
    """

    terms: tuple[Term, ...] = ("impression", "findings", "vision_impression", "vision_findings")
    targets: Literal["mended", "source", "onehot"] = "mended"
    vision: Literal["masked", "source"] = "masked"
    temperature: float = 0.07
    vision_temperature: float = 0.2
    alpha: float = 0.2
    kernel: Kernel = "exp"
    ratio: float = 0.2

    def __post_init__(self) -> None:
        rules = {
            "terms must name at least one term": bool(self.terms),
            "terms must not name a term twice": len(set(self.terms)) == len(self.terms),
            "temperature must be positive": self.temperature > 0,
            "vision_temperature must be positive": self.vision_temperature > 0,
            "alpha must be between 0 and 1": 0 <= self.alpha <= 1,
            "ratio must be positive": self.ratio > 0,
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections of the report that the terms read, each once."""
        return tuple(dict.fromkeys(SECTION_OF[term] for term in self.terms))


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is known of one section's texts, without gradients.

    `source` [N, E] are the frozen embeddings, `centre` [E] is their mean over the training split.
    Samples with equal codes in `same` [N] have an identical text, in `study` [N] a common study.
    """

    source: Tensor
    centre: Tensor
    same: Tensor
    study: Tensor


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """One section of a global batch: its N samples that have it, image beside text.

    `language` and `vision` hold one [N, D] a view: the image embeddings of the vision-language and
    of the vision-vision terms, empty where no term asks for them. `text` [N, D] are the projected
    texts.
    """

    language: Sequence[Tensor]
    vision: Sequence[Tensor]
    text: Tensor
    texts: Texts


class ContrastiveLoss(nn.Module):
    """The sum of the terms, in the form of the published source (arXiv 2310.07355).

    A vision-language term is the sum over the views of `contrast`, which is the sum of two
    directions, not halved. The published vision-vision term runs over both orders of the two
    views, which are equal: here it is twice the one. Terms of Findings are weighted by
    `findings_weight`.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, sections: Mapping[Section, Aligned], *, epoch: int) -> dict[str, Tensor]:
        """Return each term by name, unweighted, and their weighted sum as `loss`.

        A section that is not in `sections` was absent from the whole batch: its terms are 0.
        """
        terms: dict[str, Tensor] = {}
        device = _device(sections)
        # in half precision the prior and small differences of logits would be lost
        with torch.autocast(device.type, enabled=False):
            for term in self.config.terms:
                batch = sections.get(SECTION_OF[term])
                make = self._vision if term in VISION else self._language
                zero = torch.zeros((), device=device)
                terms[term] = zero if batch is None else make(batch, term)
        weights = {"findings": findings_weight(epoch)}
        weights["vision_findings"] = weights["findings"]
        total = torch.stack([weights.get(n, 1.0) * value for n, value in terms.items()]).sum()
        return {**terms, "loss": total}

    def _language(self, batch: Aligned, term: Term) -> Tensor:
        targets_NN = language_targets(self.config, batch.texts)
        terms = [
            contrast(image_ND, batch.text, targets_NN, temperature=self.config.temperature)
            for image_ND in batch.language
        ]
        return torch.stack(terms).sum()

    def _vision(self, batch: Aligned, term: Term) -> Tensor:
        config = self.config
        first_ND, second_ND = batch.vision
        targets_NN = torch.eye(len(first_ND), device=first_ND.device)
        masked_NN = None
        if config.vision == "masked":
            study_N = batch.texts.study
            masked_NN = (study_N[:, None] == study_N[None, :]) & (targets_NN == 0)
        elif term == "vision_impression":
            targets_NN = source_targets(
                batch.texts.source,
                temperature=config.vision_temperature,
                kernel=config.kernel,
                ratio=config.ratio,
            )
        return 2 * contrast(
            first_ND,
            second_ND,
            targets_NN,
            temperature=config.vision_temperature,
            masked_NN=masked_NN,
        )


def language_targets(config: LossConfig, texts: Texts) -> Tensor:
    """Return the targets [N, N] of a vision-language term, as `config.targets` names them."""
    if config.targets == "mended":
        return mended_targets(texts.source, texts.same, centre_E=texts.centre, alpha=config.alpha)
    if config.targets == "source":
        return source_targets(
            texts.source, temperature=config.temperature, kernel=config.kernel, ratio=config.ratio
        )
    return torch.eye(len(texts.source), device=texts.source.device)


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


def findings_weight(epoch: int) -> float:
    """Return λ_e, the published weight of the terms of Findings in an epoch counted from 0."""
    if epoch <= 30:
        return 1.0
    return 1.3 - (epoch - 30) / 20 if epoch < 50 else 0.3


def _device(sections: Mapping[Section, Aligned]) -> torch.device:
    devices = (batch.text.device for batch in sections.values())
    return next(devices, torch.device("cpu"))


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
