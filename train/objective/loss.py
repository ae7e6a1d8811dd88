"""The contrastive losses: embeddings of the global batch in, named scalars out.

Axes: N samples of the global batch that have the section, D joint embedding, E width of the frozen
text embeddings, L labels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ...contract import ConfigError
from .contrast import contrast
from .reports.facts import label_likeness, person_likeness
from .targets import (
    Kernel,
    PriorConfig,
    blended,
    divergence,
    evened,
    mixed_prior,
    shared_text,
    source_targets,
    text_weights,
)

Section = str  # of the report; `report` is Impression and Findings as one text
Branch = str
Term = str  # the name of a branch, or VISION and that name

VISION = "vision_"
LEARNED = "learned"


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which terms, and the targets they are trained on.

    A term is a branch of the model, which aligns it with the section of its name or the one that
    `texts` gives, or `vision_` and a branch, which aligns two views. `targets` of the
    vision-language terms: `mended` (identical texts share the target, and a share of it goes by
    the `prior`), `source` (as published: identity plus smoothed correlation, by `kernel` and its
    `ratio`), `onehot` (InfoNCE). `vision` says how the vision-vision terms are made: `masked` (no
    prior, other images of a study are no negatives) or `source` (prior on the Impression's term,
    no mask). Terms of the branches in `weighted` fade by `findings_weight`.
    """

    terms: tuple[Term, ...] = ("impression", "findings", "vision_impression", "vision_findings")
    texts: Mapping[Branch, Section] = field(default_factory=dict)
    weighted: tuple[Branch, ...] = ("findings",)
    targets: Literal["mended", "source", "onehot"] = "mended"
    vision: Literal["masked", "source"] = "masked"
    temperature: float = 0.07
    vision_temperature: float = 0.2
    prior: PriorConfig = field(default_factory=PriorConfig)
    kernel: Kernel = "exp"
    ratio: float = 0.2

    def __post_init__(self) -> None:
        prior = self.prior
        only = "is for targets mended alone"
        rules = {
            "terms must name at least one term": bool(self.terms),
            "terms must not name a term twice": len(set(self.terms)) == len(self.terms),
            "temperature must be positive": self.temperature > 0,
            "vision_temperature must be positive": self.vision_temperature > 0,
            "ratio must be positive": self.ratio > 0,
            f"prior.knowledge or prior.metadata {only}": self.targets == "mended"
            or not (prior.knowledge or prior.metadata),
            f"prior.adapt {only}": self.targets == "mended" or prior.adapt == "fixed",
        }
        problems = [rule for rule, holds in rules.items() if not holds]
        if problems:
            raise ConfigError(problems)

    @property
    def language(self) -> tuple[Term, ...]:
        """The vision-language terms, which are named as their branches."""
        return tuple(term for term in self.terms if not term.startswith(VISION))

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that the terms train, each once."""
        return tuple(dict.fromkeys(term.removeprefix(VISION) for term in self.terms))

    def section(self, branch: Branch) -> Section:
        """Return the section of the report that a branch is aligned with."""
        return self.texts.get(branch, branch)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections of the report that the terms read, each once."""
        return tuple(dict.fromkeys(self.section(branch) for branch in self.branches))


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is known of one section's texts, and of their samples, without gradients.

    `source` [N, E] are the frozen embeddings, `centre` [E] is their mean over the training split.
    Samples with equal codes in `same` [N] have an identical text, in `study` [N] a common study.
    `facts` are those of `read_facts`, as far as the prior needs them. The prior of sample i is
    that of `others[i]` [N] where this is given: the permuted prior.
    """

    source: Tensor
    centre: Tensor
    same: Tensor
    study: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    others: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """One branch in a global batch: its N samples that have the section, image beside text.

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
    views, which are equal: here it is twice the one. Its only weights are the logits of α, where
    that is learned, one a branch.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.branches if config.prior.adapt == LEARNED else ()
        start = torch.tensor(config.prior.alpha).logit() if learned else torch.zeros(())
        self.alpha_logit = nn.ParameterDict({b: nn.Parameter(start.clone()) for b in learned})

    def forward(self, branches: Mapping[Branch, Aligned], *, epoch: int) -> dict[str, Tensor]:
        """Return each term by name, unweighted, and their weighted sum as `loss`.

        A branch that is not in `branches` had no text in the whole batch: its terms are 0. Where
        α moves, `alpha_<branch>` tells it.
        """
        terms: dict[str, Tensor] = {}
        device = _device(branches)
        # in half precision the prior and small differences of logits would be lost
        with torch.autocast(device.type, enabled=False):
            for term in self.config.terms:
                batch = branches.get(term.removeprefix(VISION))
                make = self._vision if term.startswith(VISION) else self._language
                zero = torch.zeros((), device=device)
                terms[term] = zero if batch is None else make(batch, term, epoch)
            weighted = [self._weight(term, epoch) * value for term, value in terms.items()]
            total = torch.stack(weighted).sum()
        return {**terms, **self._moving(device, epoch), "loss": total}

    def of_language(self) -> ContrastiveLoss:
        """Return this loss, its weights the same, of the vision-language terms alone."""
        other = copy.copy(self)
        other.config = replace(self.config, terms=self.config.language)
        return other

    def alpha(self, branch: Branch, epoch: int) -> float | Tensor:
        """Return the mass of a branch's targets that goes by the prior."""
        if branch in self.alpha_logit:
            return torch.sigmoid(self.alpha_logit[branch])
        return self.config.prior.scheduled(epoch)

    def _weight(self, term: Term, epoch: int) -> float:
        faded = term.removeprefix(VISION) in self.config.weighted
        return findings_weight(epoch) if faded else 1.0

    def _moving(self, device: torch.device, epoch: int) -> dict[str, Tensor]:
        if self.config.prior.adapt == "fixed":
            return {}
        return {
            f"alpha_{branch}": torch.as_tensor(self.alpha(branch, epoch), device=device).detach()
            for branch in self.config.language
        }

    def _language(self, batch: Aligned, term: Term, epoch: int) -> Tensor:
        config, alpha = self.config, self.alpha(term, epoch)
        targets_NN = language_targets(config, batch.texts, alpha)
        terms = [
            contrast(image_ND, batch.text, targets_NN, temperature=config.temperature)
            for image_ND in batch.language
        ]
        if isinstance(alpha, Tensor):  # once for each of the cross-entropies above
            pull = 2 * len(terms) * config.prior.pull
            terms.append(pull * divergence(alpha, config.prior.alpha))
        return torch.stack(terms).sum()

    def _vision(self, batch: Aligned, term: Term, epoch: int) -> Tensor:
        config = self.config
        first_ND, second_ND = batch.vision
        targets_NN = torch.eye(len(first_ND), device=first_ND.device)
        masked_NN = None
        if config.vision == "masked":
            study_N = batch.texts.study
            masked_NN = (study_N[:, None] == study_N[None, :]) & (targets_NN == 0)
        elif term == "vision_impression":
            targets_NN = _source_targets(config, batch.texts, config.vision_temperature)
        return 2 * contrast(
            first_ND,
            second_ND,
            targets_NN,
            temperature=config.vision_temperature,
            masked_NN=masked_NN,
        )


def language_targets(config: LossConfig, texts: Texts, alpha: float | Tensor) -> Tensor:
    """Return the targets [N, N] of a vision-language term, as `config.targets` names them."""
    if config.targets == "mended":
        shared_NN = shared_text(texts.same)
        return blended(shared_NN, _prior(config.prior, texts, shared_NN > 0), alpha)
    if config.targets == "source":
        return _source_targets(config, texts, config.temperature)
    return torch.eye(len(texts.source), device=texts.source.device)


def _source_targets(config: LossConfig, texts: Texts, temperature: float) -> Tensor:
    if config.prior.kind == "none":
        return torch.eye(len(texts.source), device=texts.source.device)
    return source_targets(
        _of_others(texts, texts.source),
        temperature=temperature,
        kernel=config.kernel,
        ratio=config.ratio,
        even=config.prior.kind == "uniform",
    )


def _of_others(texts: Texts, x: Tensor) -> Tensor:
    return x if texts.others is None else x[texts.others]


def _prior(config: PriorConfig, texts: Texts, positive_NN: Tensor) -> Tensor:
    """Return Q [N, N] of the kinds of knowledge that have a share in it."""
    if config.kind == "none":
        return torch.zeros_like(positive_NN, dtype=torch.float32)
    shares = {
        "text": 1 - config.knowledge - config.metadata,
        "knowledge": config.knowledge,
        "metadata": config.metadata,
    }
    makers = {
        "text": lambda: text_weights(_of_others(texts, texts.source), texts.centre),
        "knowledge": lambda: label_likeness(_of_others(texts, texts.facts["labels"])),
        "metadata": lambda: person_likeness(
            *(_of_others(texts, texts.facts[name]) for name in ("view", "sex", "age"))
        ),
    }
    parts = [(share, makers[name]()) for name, share in shares.items() if share > 1e-9]
    prior_NN = mixed_prior(parts, positive_NN)
    return evened(prior_NN, positive_NN) if config.kind == "uniform" else prior_NN


def findings_weight(epoch: int) -> float:
    """Return λ_e, the published weight of the terms of Findings in an epoch counted from 0."""
    if epoch <= 30:
        return 1.0
    return 1.3 - (epoch - 30) / 20 if epoch < 50 else 0.3


def _device(branches: Mapping[Branch, Aligned]) -> torch.device:
    devices = (batch.text.device for batch in branches.values())
    return next(devices, torch.device("cpu"))
