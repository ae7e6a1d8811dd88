"""The control with labels: the same backbone, images and budget, trained on what archives labelled.

Axes: A samples of the shard set, B of this process, G of the global batch, L labels, C width of the
pooled vector, S side of a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contract import InputError
from ...prep.record import RADIOLOGIST
from ..network.backbone import pooled
from ..network.model import VisionLanguageModel
from .contrast import gather
from .corpus import Corpus
from .task import PictureTask, PretrainBatch
from .views import ViewsConfig

HEAD = "labels"  # among the model's training parts


class LabelsTask(PictureTask):
    """Binds the model, the labels of the split and the views: binary cross-entropy by label.

    `labels` are those of every sample of the shard set, by its ordinal. 1 and 0 count: uncertain
    and absent ones are masked. Trained are the labels of which the split has both, by name, but
    for those that a radiologist gave beside automatic ones: evaluation asks for them.
    Raises InputError when there is none.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        corpus: Corpus,
        labels: Sequence[Mapping[str, float]],
        views: ViewsConfig,
        seed: int,
        films: int = 1,
    ) -> None:
        super().__init__(model=model, corpus=corpus, views=views, seed=seed, films=films)
        told: dict[str, set[float]] = {}
        for ordinal in corpus.ordinals.tolist():
            for name, value in labels[ordinal].items():
                told.setdefault(name, set()).add(value)
        both = (name for name, values in told.items() if {0.0, 1.0} <= values)
        self.names = tuple(sorted(name for name in both if not name.endswith(RADIOLOGIST)))
        if not self.names:
            raise InputError(
                "no label is 1 on one film of the training split and 0 on another",
                todo="the recipe `labels` needs an archive's labels; see the column `labels`",
            )
        rows = [[_known(sample.get(name)) for name in self.names] for sample in labels]
        self.labels_AL = np.array(rows, np.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(model.backbone.width, len(self.names))
        model.training_parts[HEAD] = head.to(self.device)

    def encode(self, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the pooled vectors of each view [B, C]."""
        views_BVSS = batch.views.to(self.device, non_blocking=True)
        views = enumerate(views_BVSS.unbind(1))
        return {f"pooled {v}": pooled(self.model.levels(view_BSS)) for v, view_BSS in views}

    def losses(self, features: Mapping[str, Tensor], batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the mean binary cross-entropy over the known labels of the global batch's views.

        0 for a batch without a known label.
        """
        head = self.model.training_parts[HEAD]
        total = torch.zeros((), device=self.device)
        count = 0
        for view in range(batch.views.shape[1]):
            logits_GL = head(gather(features[f"pooled {view}"]))
            labels_GL = self.labels_AL[self.corpus.ordinals[self.places(batch, view)]]
            known = np.flatnonzero(~np.isnan(labels_GL))
            count += len(known)
            chosen = torch.from_numpy(known).to(self.device, non_blocking=True)
            target = torch.from_numpy(labels_GL.ravel()[known]).to(self.device, non_blocking=True)
            logits = logits_GL.float().flatten().index_select(0, chosen)
            total = total + F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        labels = total / max(count, 1)
        return {"labels": labels, "loss": labels}


def _known(value: float | None) -> float:
    return value if value in (0.0, 1.0) else float("nan")
