"""Checkpoints: tensors as safetensors, the rest as JSON; atomic, verified, never pickled.

A checkpoint is two files named by the samples consumed. The JSON is written last, carries the
BLAKE3 of the tensors and of itself, and is the commit mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..contract import ConfigError, InputError
from ..files import atomic, blake3_file, digest_of, read_json, sweep_partials, write_json


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often a run is saved, and how many checkpoints are kept."""

    every_steps: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1"
            for name, value in (("every_steps", self.every_steps), ("keep", self.keep))
            if value < 1
        ]
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read: the samples consumed, and the tensors."""

    samples: int
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of one run.

    Kept are the last `keep`, counting those at multiples of `every` samples, and the best; one in
    between, from an interrupt, goes when the next is written, so that an interrupted run ends with
    the same files as one that was not.
    """

    def __init__(self, folder: Path, *, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep

    def save(self, samples: int, tensors: Mapping[str, Tensor], *, best: int | None = None) -> None:
        """Write the checkpoint at `samples` consumed, then remove those no longer kept.

        `best` is the best one so far, by its samples.
        """
        mark = self._mark(samples)
        weights = mark.with_suffix(".safetensors")
        with atomic(weights) as partial:
            save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, partial)
        body = {"samples": samples, "tensors_blake3": blake3_file(weights)}
        write_json(mark, {**body, "digest": digest_of(body)})
        self._prune(samples, best)

    def latest(self, tell: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None for a run that has none yet.

        A damaged one is told of and the one before is taken; InputError when none is intact.
        """
        if self.folder.is_dir():
            sweep_partials(self.folder)
        marks = sorted(self.folder.glob("*.json"), reverse=True)
        for mark in marks:
            try:
                return _read(mark)
            except InputError as error:
                tell(f"checkpoint {mark.name} is damaged: {error.what}; trying the one before")
        if marks:
            raise InputError(
                "no checkpoint of this run is intact",
                where=str(self.folder),
                todo="restore one of its files, or start anew with --no-resume",
            )
        return None

    def at(self, samples: int) -> Checkpoint:
        """Return the checkpoint at `samples` consumed; InputError when it is damaged or missing."""
        return _read(self._mark(samples))

    def _mark(self, samples: int) -> Path:
        return self.folder / f"samples-{samples:012d}.json"

    def _prune(self, newest: int, best: int | None) -> None:
        marks = {int(path.stem.removeprefix("samples-")) for path in self.folder.glob("*.json")}
        regular = sorted((n for n in marks - {newest} if n % self.every == 0), reverse=True)
        numbers = (newest, *regular[: self.keep - 1], *(() if best is None else (best,)))
        kept = {self._mark(samples).stem for samples in numbers}
        for path in sorted(self.folder.glob("samples-*")):  # the mark goes before its tensors
            if path.stem not in kept:
                path.unlink()


def _read(mark: Path) -> Checkpoint:
    body = read_json(mark)
    digest = body.pop("digest", None)
    if digest != digest_of(body):
        raise InputError("its JSON is not what was written")
    weights = mark.with_suffix(".safetensors")
    if not weights.is_file():
        raise InputError("its tensors are missing")
    if blake3_file(weights) != body["tensors_blake3"]:
        raise InputError("its tensors are not what was written")
    return Checkpoint(samples=body["samples"], tensors=load_file(weights))


def gather(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a model and of its optimizer under names that tell which is which."""
    tensors = {f"model {name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"{key} {name}"] = tensor
    return tensors


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `gather` returned; InputError when the tensors are of another model."""
    held: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        key, _, name = full.partition(" ")
        held.setdefault(name, {})[key] = tensor
    try:
        model.load_state_dict({n: kinds.pop("model") for n, kinds in held.items()})
        names = {parameter: name for name, parameter in model.named_parameters()}
        order = [p for group in optimizer.param_groups for p in group["params"]]
        states = {
            index: {key: _laid_out(tensor, p) for key, tensor in held[names[p]].items()}
            for index, p in enumerate(order)
            if held[names[p]]
        }
    except (KeyError, RuntimeError):
        raise InputError("the checkpoint holds the weights of another model") from None
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor of a parameter's shape in that one's order of memory, as fused steps need."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)
