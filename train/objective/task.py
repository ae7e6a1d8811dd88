"""Pre-training as the loop sees it: a model, batches, and the named losses of a batch.

IMITATE, its published form and plain InfoNCE are the same task; its parts' configurations differ.

Axes: B samples of this process, V views, F films a sample, S side of a view, G samples of the
global batch, N those of them that have a section, H and W rows and columns of a stored image.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...contract import ConfigError
from ...shards.order import philox
from ..augmentation.device import DeferredViews
from ..network.backbone import pooled
from ..network.branches import Use
from ..network.model import VisionLanguageModel
from .contrast import gather
from .corpus import Corpus, Integers
from .films import sample_views
from .loss import (
    VISION,
    Aligned,
    Branch,
    ContrastiveLoss,
    LossConfig,
    Section,
    Texts,
    language_targets,
)
from .views import ViewsConfig

USES: tuple[Use, Use] = ("language", "vision")


@dataclass(frozen=True, kw_only=True)
class PretrainBatch:
    """This process's consecutive share of a global batch: uint8 views and ordinals.

    Where a study is drawn, its views show the `films`, and its first film stands for it.
    """

    views: Tensor | DeferredViews  # [B, V, S, S]
    ordinals: Integers  # [B]
    step: int
    epoch: int
    films: Integers | None = None  # [B, V]

    def shown(self, view: int) -> Integers:
        """Return the ordinals of the films that a view shows.  # [B]"""
        return self.ordinals if self.films is None else self.films[:, view]


class PictureTask(abc.ABC):
    """What all tasks have in common: a model that is shown views of the films of a split.

    A sample shows one film, or where a study is drawn, `films` of them, each in one view.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        corpus: Corpus,
        views: ViewsConfig,
        seed: int,
        films: int = 1,
    ) -> None:
        self.model, self.corpus, self.views, self.seed = model, corpus, views, seed
        self.films = films

    def held_out(self, corpus: Corpus) -> Self:
        """Return this task, its weights the same, for another split: one view, not augmented."""
        other = copy.copy(self)
        other.corpus, other.films = corpus, 1
        other.views = replace(self.views, mode="none", count=1)
        return other

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def prepare(
        self, images_BHW: NDArray[Any], ordinals_B: Integers, *, step: int, epoch: int
    ) -> PretrainBatch:
        """Return the batch of stored images, `films` a sample; on the CPU, from any thread."""
        names = [self.corpus.keys[i] for i in self.corpus.positions(ordinals_B)]
        drawn: Any = {"image": self.model.config.image, "seed": self.seed, "epoch": epoch}
        films_BF = ordinals_B.reshape(-1, self.films)
        images_BFHW = images_BHW.reshape(*films_BF.shape, *images_BHW.shape[1:])
        keys_BF = np.array(names).reshape(films_BF.shape).tolist()
        return PretrainBatch(
            views=sample_views(images_BFHW, keys_BF, self.views, **drawn),
            ordinals=films_BF[:, 0],
            step=step,
            epoch=epoch,
            films=films_BF if self.films > 1 else None,
        )

    def keys(self, batch: PretrainBatch) -> Sequence[str]:
        """Return the keys of the samples of a batch, for messages."""
        return [self.corpus.keys[i] for i in self.corpus.positions(batch.ordinals)]

    def loss(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the terms of the global batch by name, and `loss`, their weighted sum."""
        return self.losses(self.encode(batch), batch)

    def cut(self, batch: PretrainBatch, size: int) -> list[PretrainBatch]:
        """Return the batch in consecutive parts of at most `size` samples."""
        return [
            replace(
                batch,
                views=batch.views[first : first + size],
                ordinals=batch.ordinals[first : first + size],
                films=None if batch.films is None else batch.films[first : first + size],
            )
            for first in range(0, len(batch.ordinals), size)
        ]

    @abc.abstractmethod
    def encode(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return all that the losses need of the pictures, by name, one row a sample.

        One backbone pass a view. A sample's rows do not depend on how the batch was cut, where
        its parts hold whole groups of the backbone's norm.
        """

    @abc.abstractmethod
    def losses(self, features: Mapping[str, Tensor], batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the losses of the global batch from what `encode` gave of this process's share."""

    def places(self, batch: PretrainBatch, view: int) -> Integers:
        """Return where in the corpus the films are that a view of the global batch shows.  # [G]"""
        # on the CPU, so that no step waits for a GPU to finish
        return self.corpus.positions(gather(torch.tensor(batch.shown(view))).numpy())


class PretrainTask(PictureTask):
    """Binds the model, the texts of the split, the views and the loss.

    Raises ConfigError when a vision-vision term is asked for with fewer than two views, or a
    prior goes by labels that no report has.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        corpus: Corpus,
        loss: LossConfig,
        views: ViewsConfig,
        seed: int,
        films: int = 1,
    ) -> None:
        super().__init__(model=model, corpus=corpus, views=views, seed=seed, films=films)
        if views.count < 2 and any(term.startswith(VISION) for term in loss.terms):
            raise ConfigError(["views.count must be 2 for the vision-vision terms of loss.terms"])
        if loss.prior.knowledge and not corpus.facts["labels"].any():
            raise ConfigError(
                ["loss.prior.knowledge goes by labels of the reports, which this set has not"],
                todo="prepare it with --report-labels, or set loss.prior.knowledge=0",
            )
        self.criterion = ContrastiveLoss(loss).to(self.device)
        model.training_parts["criterion"] = self.criterion

    def held_out(self, corpus: Corpus) -> Self:
        """Return the task for another split, with its vision-language terms alone."""
        other = super().held_out(corpus)
        other.criterion = self.criterion.of_language()
        return other

    def encode(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return pooled vectors and those of the token branches, of each view [B, …]."""
        views_BVSS = batch.views.to(self.device, non_blocking=True)
        features: dict[str, Tensor] = {}
        for view, view_BSS in enumerate(views_BVSS.unbind(1)):
            levels = self.model.levels(view_BSS)
            features[f"pooled {view}"] = pooled(levels)
            for branch, use in self._read():
                draw = self.model.draw(branch, "channels", self.seed, batch.step, view, use=use)
                features[f"{branch} {use} {view}"] = self.model.read(branch, levels, draw)
        if self.model.live_text is not None:
            places = self.corpus.positions(batch.shown(0))
            for section in self.criterion.config.sections:
                features[f"text {section}"] = self.text_vectors(self.corpus.row[section][places])
        return features

    def text_vectors(self, rows_N: Integers) -> Tensor:
        """Return the embeddings [N, E] of distinct texts that the text head reads.

        Those of the trained encoder where there is one, to which row -1 is the empty text.
        """
        live, tokens = self.model.live_text, self.corpus.tokens
        if live is None or tokens is None:
            return _moved(self.corpus.embeddings[rows_N], self.device)
        vectors: Tensor = live(*(part.to(self.device) for part in tokens.batch(rows_N))).float()
        return vectors

    def _read(self) -> list[tuple[Branch, Use]]:
        """Return the token branches that the terms need, and for which kind of terms."""
        terms, language, vision = self.criterion.config.terms, *USES
        found: list[tuple[Branch, Use]] = []
        for branch in (b for b in self.criterion.config.branches if b in self.model.branches):
            found += [(branch, language)] if branch in terms else []
            found += [(branch, vision)] if f"{VISION}{branch}" in terms else []
        return found

    def losses(self, features: Mapping[str, Tensor], batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the losses of the global batch from what `encode` gave of this process's share.

        A sample that lacks a section is left out of that section's rows, columns and prior, and
        out of the batch statistics of its heads. A section that fewer than two samples have
        gives 0: nothing could be contrasted.
        """
        whole = {name: gather(feature) for name, feature in features.items()}
        places_VG = [self.places(batch, view) for view in range(batch.views.shape[1])]
        branches: dict[Branch, Aligned] = {}
        for branch in self.criterion.config.branches:
            row_G = self.corpus.row[self.criterion.config.section(branch)][places_VG[0]]
            present = np.flatnonzero(row_G >= 0)
            if len(present) >= 2:
                places_VN = [place_G[present] for place_G in places_VG]
                branches[branch] = self._aligned(branch, whole, present, places_VN, batch.step)
        losses: dict[str, Tensor] = self.criterion(branches, epoch=batch.epoch)
        # a batch without any pair of texts still has a gradient: 0
        losses["loss"] = losses["loss"] + 0 * whole["pooled 0"].sum()
        return losses

    def targets(
        self, branch: Branch, ordinals_G: Integers, *, step: int, epoch: int
    ) -> tuple[Tensor, Integers]:
        """Return a branch's targets [N, N] in a global batch, and its rows' ordinals [N]."""
        places = self.corpus.positions(ordinals_G)
        section = self.criterion.config.section(branch)
        has_G = self.corpus.row[section][places] >= 0
        texts = self._texts(section, places[has_G], torch.device("cpu"), step)
        mass = self.criterion.alpha(branch, epoch)
        targets_NN = language_targets(
            self.criterion.config, texts, mass.item() if isinstance(mass, Tensor) else mass
        )
        return targets_NN, ordinals_G[has_G]

    def _aligned(
        self,
        branch: Branch,
        whole: Mapping[str, Tensor],
        present: Integers,
        places_VN: Sequence[Integers],
        step: int,
    ) -> Aligned:
        """Return a branch; `present` are the rows of the batch that have its section."""
        rows_N = _moved(present, self.device)
        lateral_VN = [
            _moved(self.corpus.facts["lateral"][place_N], self.device) for place_N in places_VN
        ]

        def embedded(name: str) -> list[Tensor]:
            names = (f"{name} {view}" for view in range(len(places_VN)))
            return [
                self.model.project(branch, whole[name].index_select(0, rows_N), lateral_N)
                for name, lateral_N in zip(names, lateral_VN, strict=True)
                if name in whole
            ]

        if branch in self.model.branches:
            language, vision = (embedded(f"{branch} {use}") for use in USES)
        else:
            # without a draw both kinds of terms see the same embedding
            language = vision = embedded("pooled")
        section = self.criterion.config.section(branch)
        texts = self._texts(section, places_VN[0], self.device, step)
        live = whole.get(f"text {section}")
        source_NE = texts.source if live is None else live.index_select(0, rows_N)
        return Aligned(
            language=language, vision=vision, text=self.model.text_head(source_NE), texts=texts
        )

    def _texts(self, section: Section, places: Integers, device: torch.device, step: int) -> Texts:
        """Return the texts of a section at places of the split that have it."""
        corpus, prior = self.corpus, self.criterion.config.prior
        arrays: dict[str, NDArray[Any]] = {
            "source": corpus.embeddings[corpus.row[section][places]],
            "centre": corpus.centre[section],
            "same": corpus.same[section][places],
            "study": corpus.study[places],
        }
        if prior.kind == "permuted":
            bits = philox("permuted prior", self.seed, step, section).bit_generator
            arrays["others"] = np.argsort(bits.random_raw(len(places)), kind="stable")
        facts = corpus.facts if prior.knowledge or prior.metadata else {}
        return Texts(
            **{name: _moved(array, device) for name, array in arrays.items()},
            facts={name: _moved(array[places], device) for name, array in facts.items()},
        )


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
