"""Retrieval within a split: how often a picture finds its text, and a text its picture.

Reports repeat, so an exact pair cannot always be found: on Open-i the Impressions of 3,164 samples
are 1,208 texts. So each number is given twice: the text or picture of this very sample, and any
whose text is the same.

Axes: N samples that have the section, T distinct texts, D joint embedding, C samples of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

RANKS = (1, 5, 10)  # the K of recall@K
CHUNK = 512  # samples whose scores are held at once


@torch.no_grad()
def recalls(
    image_ND: Tensor, text_TD: Tensor, *, text_N: Tensor, same_N: Tensor
) -> dict[str, float]:
    """Return recall@1, 5 and 10 by name, in both directions, for the exact pair and the same text.

    Embeddings have length 1. `text_N` is the row of each sample's text, `same_N` is equal where
    texts count as the same. The exact pair among candidates that score as high is found with the
    chance that an order drawn at random would give it.
    """
    image_ND, text_TD = image_ND.float(), text_TD.float()
    # scores of one text are taken from one product, so that equal texts have equal scores
    towards_text = (image_C @ text_TD.T for image_C in torch.split(image_ND, CHUNK))
    towards_image = (text_TD[rows_C] @ image_ND.T for rows_C in torch.split(text_N, CHUNK))
    found = {
        "image_to_text": _recalls((scores_CT[:, text_N] for scores_CT in towards_text), same_N),
        "text_to_image": _recalls(towards_image, same_N),
    }
    return {
        f"{direction}/{kind}": value
        for direction, values in found.items()
        for kind, value in values.items()
    }


def _recalls(chunks: Iterator[Tensor], same_N: Tensor) -> dict[str, float]:
    """Return the recalls of queries, whose scores [C, N] for all candidates come in chunks."""
    N = len(same_N)
    hits = {f"{kind}/r@{k}": 0.0 for kind in ("pair", "same") for k in RANKS}
    first = 0
    for scores_CN in chunks:
        place_C = torch.arange(first, first + len(scores_CN), device=same_N.device)
        first += len(scores_CN)
        own_C1 = scores_CN.gather(1, place_C[:, None])
        above_C = (scores_CN > own_C1).sum(dim=1)
        level_C = (scores_CN == own_C1).sum(dim=1)
        same_CN = same_N[place_C, None] == same_N[None, :]
        best_C1 = scores_CN.masked_fill(~same_CN, -torch.inf).amax(dim=1, keepdim=True)
        before_C = ((scores_CN >= best_C1) & ~same_CN).sum(dim=1)
        for k in RANKS:
            hits[f"pair/r@{k}"] += float(((k - above_C) / level_C).clamp(0, 1).sum())
            hits[f"same/r@{k}"] += float((before_C < k).sum())
    return {name: value / N for name, value in hits.items()}
