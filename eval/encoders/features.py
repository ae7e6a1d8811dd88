"""What an encoder says of every picture, computed once, kept in a verified file.

The samples, their order and the batches are fixed by the rows alone, so the file has the same bytes
after any interruption. A damaged sample takes a blank picture's place in its batch, so that its
neighbours' numbers do not change; its row is NaN and its ordinal is listed. Several ranks share the
chunks, so their number changes no byte either.

Axes: B samples of a batch, N all samples, H rows, W columns, C channels of a feature.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...contract import InputError, UsageError
from ...files import atomic, blake3_file, digest_of, read_json, write_json
from ...shards.order import Ordinals, stripe
from ...shards.reader import SampleDamaged, ShardReader, iterate
from ...work import Interrupts, Ledger, Progress, save_chunk
from ..metrics import Floats
from ..retrieval.queries import read_queries
from ..testset import Samples, TestSet
from .crew import Crew
from .encoder import Encoder, Forward

BATCH = 64
CHUNK = 8 * BATCH  # rows between two commits, and that a rank takes at a time


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features [N, C] of samples by ascending ordinal, and which of the samples are damaged."""

    ordinals: Ordinals
    values: npt.NDArray[np.float32]
    damaged: frozenset[int]

    def sound(self, samples: Samples) -> Samples:
        """Return the samples that are not damaged."""
        return samples.only(~np.isin(samples.ordinals, sorted(self.damaged)))

    def of(self, samples: Samples) -> Floats:
        """Return the features of these samples in float64."""
        rows = np.searchsorted(self.ordinals, samples.ordinals)
        return np.asarray(self.values[rows], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are computed: the pictures, the encoder's pass, and how work is watched."""

    reader: ShardReader
    forward: Forward
    workers: int
    progress: str
    interrupts: Interrupts
    crew: Crew = field(default_factory=Crew)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A set as one encoder sees it; nothing is loaded or computed before it is asked for.

    All cells of an encoder share `encoder`: who trains its network trains a copy of it.
    """

    tests: TestSet
    folder: Path
    name: str
    digest: str
    load: Callable[[], Encoder]
    crew: Crew
    workers: int
    progress: str
    interrupts: Interrupts

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded once."""
        return self.load()

    @cached_property
    def features(self) -> Features:
        """Pooled features of every split."""
        return self._labelled("features", "train", "validate", "test")

    @cached_property
    def embeddings(self) -> Features:
        """Embeddings of the splits that zero-shot classification needs."""
        return self._labelled("embeddings", "validate", "test")

    @cached_property
    def paired(self) -> Features:
        """Embeddings of the films that retrieval looks for, labelled or not."""
        return self._all("paired", read_queries(self.tests).ordinals)

    def _labelled(self, kind: str, *splits: str) -> Features:
        """Return what all readings of a set share; damaged are only films of this one."""
        ordinals = [self.tests.pictured[split] for split in splits]
        found = self._all(kind, np.sort(np.concatenate(ordinals)))
        own = {int(i) for split in splits for i in self.tests.splits[split].ordinals}
        return replace(found, damaged=found.damaged & own)

    def _all(self, kind: str, ordinal_N: Ordinals) -> Features:
        inputs = {
            "kind": kind,
            "encoder": self.digest,
            "dataset": self.tests.identity,
            "ordinals": digest_of(ordinal_N.tolist()),
        }
        path = self.folder / f"{self.name}-{kind}.npy"
        found = cached(path, ordinal_N, inputs)
        if found is not None:
            return found
        forward = self.encoder.features if kind == "features" else self.encoder.embed_images
        if forward is None:
            raise UsageError("the encoder has no text side, so it embeds no picture beside texts")
        work = Extraction(
            reader=self.tests.reader(),
            forward=forward,
            workers=self.workers,
            progress=self.progress,
            interrupts=self.interrupts,
            crew=self.crew,
        )
        return extract(work, ordinal_N, path=path, inputs=inputs)


def cached(path: Path, ordinal_N: Ordinals, inputs: Mapping[str, Any]) -> Features | None:
    """Return the features at `path` if they are whole and of these inputs, else None."""
    mark = path.with_suffix(".json")
    if not (path.is_file() and mark.is_file()):
        return None
    try:
        told = read_json(mark)
    except InputError:  # a damaged mark marks nothing
        return None
    if told["inputs"] != digest_of(inputs) or told["blake3"] != blake3_file(path):
        return None
    value_NC = np.load(path, mmap_mode="r")
    return Features(ordinals=ordinal_N, values=value_NC, damaged=frozenset())


def extract(
    work: Extraction, ordinal_N: Ordinals, *, path: Path, inputs: Mapping[str, Any]
) -> Features:
    """Compute the features of the samples by chunks, and keep them at `path` if all are whole.

    `inputs` names all that decides the values. Raises InputError when the encoder gives something
    else than numbers, Stopped between chunks after a signal.
    """
    with work.crew.first_before():  # which empties a ledger of other inputs
        ledger = Ledger(path.parent / f".parts-{path.stem}", dict(inputs))
    chunks = range(0, len(ordinal_N), CHUNK)
    _own_chunks(work, ledger, [ordinal_N[start : start + CHUNK] for start in chunks], path.stem)
    work.crew.meet()
    parts = [np.load(_part(ledger, i)) for i in range(len(chunks))]
    damaged = sorted(o for i in range(len(chunks)) for o in ledger.load(i)["damaged"])
    value_NC = np.concatenate(parts)
    work.crew.meet()  # all have read the parts
    if work.crew.first and not damaged:  # else a set that is repaired would keep its holes
        with atomic(path) as partial, partial.open("wb") as handle:
            np.save(handle, value_NC)
        mark = {"inputs": digest_of(inputs), "blake3": blake3_file(path)}
        write_json(path.with_suffix(".json"), mark)
    if work.crew.first:
        ledger.clear()
    work.crew.meet()
    return Features(ordinals=ordinal_N, values=value_NC, damaged=frozenset(damaged))


def _own_chunks(work: Extraction, ledger: Ledger, chunks: list[Ordinals], what: str) -> None:
    """Compute this rank's chunks that are not there yet."""
    index, counts = stripe(np.arange(len(chunks)), rank=work.crew.rank, ranks=work.crew.count)
    own = index[counts].tolist()
    with Progress(what, sum(len(chunks[i]) for i in own), work.progress) as progress:
        progress.start_at(sum(len(chunks[i]) for i in own if ledger.has(i)))
        for i in own:
            work.interrupts.check()
            if ledger.has(i):
                continue
            value_BC, damaged = _chunk(work, chunks[i])
            with atomic(_part(ledger, i)) as partial, partial.open("wb") as handle:
                np.save(handle, value_BC)
            save_chunk(ledger.path(i), {"damaged": damaged})
            progress.advance(len(chunks[i]))


def _part(ledger: Ledger, index: int) -> Path:
    return ledger.path(index).with_suffix(".npy")


def _chunk(work: Extraction, rows: Ordinals) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Return the features [B, C] of the rows, and which of them are damaged."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    values, damaged = [], []
    try:
        for batch in iterate(work.reader, batches, workers=work.workers):
            values.append(work.forward(to_bytes(batch.images)))
    except SampleDamaged:
        for batch_rows in batches[len(values) :]:
            picture_BHW, bad = _one_by_one(work.reader, batch_rows)
            values.append(work.forward(picture_BHW))
            damaged += bad
    value_BC = np.concatenate(values).astype(np.float32)
    if not np.isfinite(value_BC).all():
        raise InputError("the encoder gives something else than finite numbers")
    value_BC[np.isin(rows, damaged)] = np.nan
    return value_BC, damaged


def _one_by_one(reader: ShardReader, rows: Ordinals) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Return pictures [B, H, W] with a blank one for each damaged sample, and those samples."""
    found: dict[int, npt.NDArray[np.uint8]] = {}
    for ordinal in rows:
        with contextlib.suppress(SampleDamaged):
            found[int(ordinal)] = to_bytes(reader.images(np.array([ordinal])))[0]
    if not found:
        raise InputError(
            f"all of {len(rows)} pictures in a row are damaged",
            todo="`imitate verify` names every damaged sample",
        )
    blank = np.zeros_like(next(iter(found.values())))
    damaged = [int(ordinal) for ordinal in rows if int(ordinal) not in found]
    return np.stack([found.get(int(ordinal), blank) for ordinal in rows]), damaged


def to_bytes(image_BHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return pictures with 8 bits a pixel; of 16 bits the upper half."""
    if image_BHW.dtype == np.uint16:
        return (image_BHW >> 8).astype(np.uint8)
    return image_BHW.astype(np.uint8, copy=False)
