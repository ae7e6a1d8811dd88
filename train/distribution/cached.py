"""Cached gradients: a batch too large for the memory goes through the network in parts.

The loss contrasts the whole global batch, so gradients of its parts cannot simply be summed.
First all parts go forward without a graph; the loss of their joined features gives the gradient
of each feature; then each part goes forward again with a graph, and backward from these (Gao et
al., 2021, "Scaling deep contrastive learning batch size under memory limited setup").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..network.norm import standing_still


class Task(Protocol):
    """What is trained: a model, and the named losses of a batch.

    `loss(batch)` is `losses(encode(batch), batch)`.
    """

    @property
    def model(self) -> nn.Module:
        """Everything that is trained and saved."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Return named scalars; `loss` is their total, which is minimized."""

    def cut(self, batch: Any, size: int) -> list[Any]:
        """Return the batch in consecutive parts of at most `size` samples."""

    def encode(self, batch: Any) -> dict[str, Tensor]:
        """Return what the losses need of the pictures, by name, one row a sample."""

    def losses(self, features: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Return the named scalars of a batch from its features."""

    def keys(self, batch: Any) -> Sequence[str]:
        """Return the keys of the samples of a batch, for messages."""


Casting = Callable[[], AbstractContextManager[Any]]  # makes the context of mixed precision


class Whole:
    """The losses of a batch and their gradients, the graph of the whole batch in memory."""

    def __init__(self, task: Task, casting: Casting) -> None:
        self.task, self.casting = task, casting

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return the named losses of a batch."""
        with self.casting():
            return self.task.loss(batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, the total of the last batch, perhaps scaled."""
        torch.autograd.backward(loss)


class InParts:
    """The same losses and gradients, the graph of at most `size` samples in memory."""

    def __init__(self, task: Task, casting: Casting, *, size: int) -> None:
        self.task, self.casting, self.size = task, casting, size
        self._parts: list[Any] = []
        self._features: dict[str, Tensor] = {}

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Return the named losses of a batch."""
        self._parts = self.task.cut(batch, self.size)
        # a context by itself: it keeps the cast weights until its end, here without a graph
        with self.casting(), torch.no_grad():
            encoded = [self.task.encode(part) for part in self._parts]
        self._features = {
            name: torch.cat([features[name] for features in encoded]).requires_grad_()
            for name in encoded[0]
        }
        with self.casting():
            return self.task.losses(self._features, batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, the total of the last batch, perhaps scaled."""
        torch.autograd.backward(loss)
        first = 0
        with standing_still(self.task.model):
            for part in self._parts:
                with self.casting():
                    features = self.task.encode(part)
                first += self._backward(features, first)

    def _backward(self, features: Mapping[str, Tensor], first: int) -> int:
        """Go backward from the features of the samples from `first` on; return their number."""
        size = len(next(iter(features.values())))
        pairs = [
            (feature, grad[first : first + size])
            for name, feature in features.items()
            if (grad := self._features[name].grad) is not None and feature.requires_grad
        ]
        if pairs:
            torch.autograd.backward([f for f, _ in pairs], [g for _, g in pairs])
        return size
