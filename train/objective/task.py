"""Pre-training as the loop sees it: a model, batches, and the named losses of a batch.

IMITATE, its published form and plain InfoNCE are the same task; its parts' configurations differ.

Axes: B samples of this process, V views, S side of a view, G samples of the global batch, N those
of them that have a section, C width of the pooled vector, W width of the Findings branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...contract import ConfigError
from ..network.backbone import pooled
from ..network.model import VisionLanguageModel
from .corpus import Corpus, Integers
from .loss import (
    VISION,
    Aligned,
    ContrastiveLoss,
    LossConfig,
    Section,
    Term,
    Texts,
    gather,
    language_targets,
)
from .views import ViewsConfig, make_views

# what the channel draws of a view are for, by their numbers
FINDINGS_DRAWS: tuple[Term, ...] = ("findings", "vision_findings")


@dataclass(frozen=True, kw_only=True)
class PretrainBatch:
    """This process's consecutive share of a global batch: uint8 views and ordinals."""

    views: Tensor  # [B, V, S, S]
    ordinals: Integers  # [B]
    step: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The global batch before the heads: one [G, C] a view; by term, one [G, W] a view."""

    pooled: Sequence[Tensor]
    read: Mapping[Term, Sequence[Tensor]]


class PretrainTask:
    """Binds the model, the texts of the split, the views and the loss.

    Raises ConfigError when a vision-vision term is asked for with fewer than two views.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        corpus: Corpus,
        loss: LossConfig,
        views: ViewsConfig,
        seed: int,
    ) -> None:
        if views.count < 2 and set(loss.terms) & set(VISION):
            raise ConfigError(["views.count must be 2 for the vision-vision terms of loss.terms"])
        self.model, self.corpus, self.views, self.seed = model, corpus, views, seed
        self.criterion = ContrastiveLoss(loss)

    def prepare(
        self, images_BHW: NDArray[Any], ordinals_B: Integers, *, step: int, epoch: int
    ) -> PretrainBatch:
        """Return the batch of stored images; works on the CPU, from any thread."""
        keys = [self.corpus.keys[i] for i in self.corpus.positions(ordinals_B)]
        image = self.model.config.image
        views = make_views(images_BHW, keys, self.views, image=image, seed=self.seed, epoch=epoch)
        return PretrainBatch(
            views=torch.from_numpy(views), ordinals=ordinals_B, step=step, epoch=epoch
        )

    def keys(self, batch: PretrainBatch) -> Sequence[str]:
        """Return the keys of the samples of a batch, for messages."""
        return [self.corpus.keys[i] for i in self.corpus.positions(batch.ordinals)]

    def loss(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the terms of the global batch by name, and `loss`, their weighted sum.

        A sample that lacks a section is left out of that section's rows, columns and prior, and
        out of the batch statistics of its heads. A section that fewer than two samples have
        gives 0: nothing could be contrasted.
        """
        device = next(self.model.parameters()).device
        ordinals = gather(torch.tensor(batch.ordinals, device=device)).cpu().numpy()
        encoded = self._encode(batch.views.to(device, non_blocking=True), batch.step)
        places = self.corpus.positions(ordinals)
        sections: dict[Section, Aligned] = {}
        for section in self.criterion.config.sections:
            present = np.flatnonzero(self.corpus.row[section][places] >= 0)
            if len(present) >= 2:
                sections[section] = self._aligned(section, encoded, present, places[present])
        losses: dict[str, Tensor] = self.criterion(sections, epoch=batch.epoch)
        # a batch without any pair of texts still has a gradient: 0
        losses["loss"] = losses["loss"] + 0 * encoded.pooled[0].sum()
        return losses

    def targets(self, section: Section, ordinals_G: Integers) -> tuple[Tensor, Integers]:
        """Return the targets [N, N] of a section in a global batch, and its rows' ordinals [N]."""
        places = self.corpus.positions(ordinals_G)
        has_G = self.corpus.row[section][places] >= 0
        text = self._texts(section, places[has_G], torch.device("cpu"))
        return language_targets(self.criterion.config, text), ordinals_G[has_G]

    def _encode(self, views_BVSS: Tensor, step: int) -> Encoded:
        """Return the features of the global batch: one backbone pass a view."""
        vectors: list[Tensor] = []
        read: dict[Term, list[Tensor]] = {term: [] for term in FINDINGS_DRAWS}
        for view, view_BSS in enumerate(views_BVSS.unbind(1)):
            levels = self.model.levels(view_BSS)
            vectors.append(gather(pooled(levels)))
            for number, term in enumerate(FINDINGS_DRAWS):
                if term in self.criterion.config.terms:
                    draw = self.model.channels.draw("channels", self.seed, step, view, number)
                    read[term].append(gather(self.model.read(levels, draw)))
        return Encoded(pooled=vectors, read=read)

    def _aligned(
        self, section: Section, encoded: Encoded, present: Integers, places: Integers
    ) -> Aligned:
        """Return a section; `present` are the rows of the batch that have it, `places` theirs."""
        device = encoded.pooled[0].device
        rows_N = torch.from_numpy(present).to(device)
        if section == "findings":
            language, vision = (
                [self.model.findings_head(x.index_select(0, rows_N)) for x in encoded.read[term]]
                for term in FINDINGS_DRAWS
            )
        else:
            # without a draw both kinds of terms see the same embedding
            language = vision = [
                self.model.impression_head(x.index_select(0, rows_N)) for x in encoded.pooled
            ]
        texts = self._texts(section, places, device)
        return Aligned(
            language=language, vision=vision, text=self.model.text_head(texts.source), texts=texts
        )

    def _texts(self, section: Section, places: Integers, device: torch.device) -> Texts:
        """Return the texts of a section at places of the split that have it."""
        corpus = self.corpus
        arrays = {
            "source": corpus.embeddings[corpus.row[section][places]],
            "centre": corpus.centre[section],
            "same": corpus.same[section][places],
            "study": corpus.study[places],
        }
        return Texts(**{name: torch.from_numpy(a).to(device) for name, a in arrays.items()})
