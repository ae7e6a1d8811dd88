"""A text encoder whose last layers are trained, and the tokens that it reads at each step.

Axes: N texts, T tokens, E width of the embeddings.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....contract import ConfigError
from ..text import TextEncoder, one_vector

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of distinct texts in one row after another; the last text is the empty one.

    Text i has `numbers[starts[i] : starts[i + 1]]`, so that row -1, which stands for a missing
    text, is the empty text.
    """

    numbers: NDArray[np.int32]
    starts: Integers
    pad: int

    def batch(self, rows_N: Integers) -> tuple[Tensor, Tensor]:
        """Return the tokens [N, T] of texts, padded to the longest, and a mask of the real ones."""
        rows_N = np.where(rows_N < 0, len(self.starts) - 2, rows_N)
        first_N, last_N = self.starts[rows_N], self.starts[rows_N + 1]
        at_NT = first_N[:, None] + np.arange((last_N - first_N).max())
        real_NT = at_NT < last_N[:, None]
        found_NT = self.numbers[np.minimum(at_NT, len(self.numbers) - 1)]
        tokens_NT = np.where(real_NT, found_NT, self.pad).astype(np.int64)
        return torch.from_numpy(tokens_NT), torch.from_numpy(real_NT.astype(np.int64))


def tokens_of(encoder: TextEncoder, texts: Sequence[str]) -> Tokens:
    """Return the tokens of texts, and of the empty text after them."""
    found = encoder.tokens([*texts, ""])
    return Tokens(
        numbers=np.concatenate([np.array(one, dtype=np.int32) for one in found]),
        starts=np.cumsum([0, *(len(one) for one in found)], dtype=np.int64),
        pad=int(encoder.tokenizer.pad_token_id),
    )


class LiveText(nn.Module):
    """A copy of a text encoder, of which the last layers are trained.

    It is always in evaluation mode, so that nothing is drawn at random. Raises ConfigError when
    it has fewer layers than are to be trained.
    """

    def __init__(self, encoder: TextEncoder, *, layers: int) -> None:
        super().__init__()
        self.pooling = encoder.config.pooling
        self.net: Any = copy.deepcopy(encoder.net)
        for block in _last_layers(self.net, layers):
            block.requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> LiveText:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def forward(self, tokens_NT: Tensor, real_NT: Tensor) -> Tensor:
        """Return the embeddings [N, E] of texts."""
        states_NTE = self.net(input_ids=tokens_NT, attention_mask=real_NT).last_hidden_state
        return one_vector(states_NTE, real_NT, self.pooling)


def live_text_of(encoder: TextEncoder | None) -> LiveText | None:
    """Return the copy that is trained, or None where the encoder stays frozen."""
    if encoder is None or not encoder.config.trainable_layers:
        return None
    return LiveText(encoder, layers=encoder.config.trainable_layers)


def _last_layers(net: Any, count: int) -> list[nn.Module]:
    """Return the last layers of a network of `transformers`, whatever it calls them."""
    depth = net.config.num_hidden_layers
    stacks = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks or count > depth:
        raise ConfigError([f"text.trainable_layers={count}: the text encoder has {depth} layers"])
    return list(stacks[0])[-count:]
