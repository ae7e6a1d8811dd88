"""Views of studies: each view of a sample shows another film of its study, where there is one.

Axes: B samples, F films a sample, H and W rows and columns, S side of a view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..augmentation.device import DeferredViews
from ..augmentation.warp import Pixels
from ..network.model import ImageConfig
from .views import ViewsConfig, defer_views, make_views


def sample_views(
    images_BFHW: NDArray[Any],
    keys: Sequence[Sequence[str]],
    config: ViewsConfig,
    *,
    image: ImageConfig,
    seed: int,
    epoch: int,
) -> Tensor | DeferredViews:
    """Return the views of samples [B, V, S, S], drawn here or to be drawn where the model is."""
    if config.mode == "warp" and config.device == "device":
        return defer_views(images_BFHW, keys, config, image=image, seed=seed, epoch=epoch)
    if images_BFHW.shape[1] > 1:
        views = film_views(images_BFHW, keys, config, image=image, seed=seed, epoch=epoch)
    else:
        names = [name for (name,) in keys]
        views = make_views(images_BFHW[:, 0], names, config, image=image, seed=seed, epoch=epoch)
    return torch.from_numpy(views)


def film_views(
    images_BFHW: NDArray[Any],
    keys: Sequence[Sequence[str]],
    config: ViewsConfig,
    *,
    image: ImageConfig,
    seed: int,
    epoch: int,
) -> Pixels:
    """Return one view of each film, uint8 [B, F, S, S]; `keys` [B, F] are those of the films.

    A film that is alone in its study is seen in as many views of its own, which are those that
    `make_views` gives of it.
    """
    out = np.empty((*images_BFHW.shape[:2], image.size, image.size), dtype=np.uint8)
    for b, names in enumerate(keys):
        for name in set(names):
            shown = [f for f, other in enumerate(names) if other == name]
            film_1HW = images_BFHW[b, shown[:1]]
            alone = dataclasses.replace(config, count=len(shown))
            out[b, shown] = make_views(film_1HW, [name], alone, image=image, seed=seed, epoch=epoch)
    return out
