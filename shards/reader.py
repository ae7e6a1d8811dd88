"""Verified reading: one pread a member, its BLAKE3, one decode into the batch's own array.

Legend: B batch, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import blake3
import numpy as np

from ..contract import InputError, TooManyFaults, UsageError
from ..options import FaultBudget
from .manifest import TODO, ShardSet
from .order import Ordinals, philox
from .reading.png import decode
from .reading.source import Pictures, PictureSource, advised

OPEN_SHARDS = 256  # file descriptors kept; shards beyond them are opened for each read
CHUNK = 32  # samples a thread reads before it takes other ones
ONE_IN_100_000 = FaultBudget(share=1e-5)


class SampleDamaged(InputError):
    """A sample that a shard no longer holds as it was written: its ordinal, key and shard."""

    def __init__(self, ordinal: int, *, key: str, shard: str, detail: str) -> None:
        self.ordinal, self.key, self.shard, self.detail = ordinal, key, shard, detail
        super().__init__(
            f"a sample is damaged: {detail}", where=f"key {key}, shard {shard}", todo=TODO
        )


class ShardReader:
    """Pictures and texts of a shard set by ordinal; safe to use from several threads.

    With `verify`, every member is compared with its BLAKE3 and read once more before it counts as
    damaged. File descriptors stay open until `close`, or until the reader is forgotten.
    """

    def __init__(self, shards: ShardSet, *, verify: bool = True) -> None:
        self.shards = shards
        self.verify = verify
        self.heights, self.widths, self.bits = (
            np.asarray(shards.column(name)) for name in ("height", "width", "bits")
        )
        self._codes, self._names = shards.codes("shard")
        self._members = {kind: _Members(shards, kind) for kind in ("json", "png")}
        self._lock = threading.Lock()
        self._files: dict[int, int] = {}
        self.close = weakref.finalize(self, _close_all, self._files)

    def images(self, ordinals: Ordinals) -> Pictures:
        """Return pictures: uint8, or uint16 for sets of 16 bits.  # [B, H, W]

        Raises SampleDamaged, and UsageError when the pictures differ in size.
        """
        pictures = self.empty(ordinals)
        self.fill(pictures, ordinals)
        return pictures

    def empty(self, ordinals: Ordinals) -> Pictures:
        """Return an array for these pictures, not yet filled.  # [B, H, W]"""
        columns = (self.heights, self.widths, self.bits)
        shapes = np.unique(np.stack([column[ordinals] for column in columns]), axis=1)
        if shapes.shape[1] != 1:
            raise UsageError(
                "the pictures of a batch differ in size or bits, or there are none",
                where=str(self.shards.folder),
                todo="prepare them at one size: imitate prep … --size 256",
            )
        height, width, bits = shapes[:, 0].tolist()
        pictures: Pictures = np.empty(
            (len(ordinals), height, width), np.dtype(np.uint8 if bits == 8 else np.uint16)
        )
        return pictures

    def fill(self, pictures: Pictures, ordinals: Ordinals) -> None:
        """Decode pictures into an array made by `empty`."""
        for place, (ordinal, png) in enumerate(
            zip(ordinals.tolist(), self.members(ordinals, "png"), strict=True)
        ):
            if not decode(png, pictures[place]):
                raise self._damaged(ordinal, "png does not decode to its size")

    def texts(self, ordinals: Ordinals) -> list[dict[str, Any]]:
        """Return the JSON of each sample, parsed; pictures are not read.  # [B]"""
        self.shards.expect(ordinals)
        texts = []
        for ordinal, data in zip(ordinals.tolist(), self.members(ordinals, "json"), strict=True):
            try:
                texts.append(json.loads(data))
            except ValueError:
                raise self._damaged(ordinal, "json is not readable") from None
        return texts

    def members(self, ordinals: Ordinals, kind: Literal["json", "mask", "png"]) -> Iterator[bytes]:
        """Yield the bytes of one member of each sample, as they were written.  # [B]

        Without a mask they are empty.
        """
        if kind not in self._members:
            self._members[kind] = _Members(self.shards, kind)
        members = self._members[kind]
        for ordinal, shard, offset, length in zip(
            ordinals.tolist(),
            self._codes[ordinals].tolist(),
            members.offset[ordinals].tolist(),
            members.length[ordinals].tolist(),
            strict=True,
        ):
            data, fault = b"", ""
            if length < 0:
                yield data
                continue
            for _ in range(2):  # once more, as a network disk may err for a moment
                data, fault = self._read(shard, offset, length)
                hashed = members.hashes[16 * ordinal : 16 * ordinal + 16]
                if not fault and self.verify and blake3.blake3(data).digest(16) != hashed:
                    fault = "no longer has its hash"
                if not fault:
                    break
                self.shards.doubt(self._names[shard])
            else:
                raise self._damaged(ordinal, f"{kind} {fault}")
            yield data

    def advise(self, ordinals: Ordinals) -> None:
        """Ask the system to read pictures ahead, of the shards that are open already."""
        self.shards.expect(ordinals)
        if not hasattr(os, "posix_fadvise"):
            return
        members = self._members["png"]
        for place in ordinals.tolist():
            handle = self._files.get(int(self._codes[place]))
            span = int(members.offset[place]), int(members.length[place])
            with contextlib.suppress(OSError):  # a hint, which some file systems do not take
                if handle is not None:
                    os.posix_fadvise(handle, *span, os.POSIX_FADV_WILLNEED)

    def _read(self, shard: int, offset: int, length: int) -> tuple[bytes, str]:
        """Return the bytes, and what went wrong or an empty string."""
        try:
            data = self._pread(shard, offset, length)
        except OSError:
            return b"", "cannot be read"
        return data, "" if len(data) == length else "is cut off"

    def _pread(self, shard: int, offset: int, length: int) -> bytes:
        handle = self._files.get(shard)
        if handle is not None:
            return os.pread(handle, length, offset)
        handle = self.shards.open_shard(self._names[shard])
        try:
            return os.pread(handle, length, offset)
        finally:
            with self._lock:
                room = self.shards.keeps_open and len(self._files) < OPEN_SHARDS
                if keep := room and shard not in self._files:
                    self._files[shard] = handle
            if not keep:
                os.close(handle)

    def _damaged(self, ordinal: int, detail: str) -> SampleDamaged:
        key = self.shards.column("key")[ordinal]
        shard = self._names[self._codes[ordinal]]
        return SampleDamaged(ordinal, key=key, shard=shard, detail=detail)


class _Members:
    """Where one kind of member lies in its shard, and its hashes in one row of bytes."""

    def __init__(self, shards: ShardSet, kind: str) -> None:
        inside = np.asarray(shards.column(f"{kind}_off"))
        self.offset = np.asarray(shards.column("offset")).astype(np.int64) + inside
        self.length = np.asarray(shards.column(f"{kind}_len"))
        self.hashes = np.asarray(shards.column(f"{kind}_blake3")).reshape(-1).data


def _close_all(files: dict[int, int]) -> None:
    while files:
        os.close(files.popitem()[1])


class DamagePolicy:
    """What training does with damaged samples: replace them by others and count them.

    The replacement is drawn from `rows`, the ordinals of the training split, by a generator keyed
    with (seed, step, the damaged ordinal): it does not depend on ranks, threads or on what was
    read before. `quarantine` holds every damaged sample that this process met.

    Raises TooManyFaults when more samples are damaged than `budget` allows of all rows.
    """

    def __init__(self, rows: Ordinals, *, seed: int, budget: FaultBudget = ONE_IN_100_000) -> None:
        self.rows, self.seed, self.budget = rows, seed, budget
        self.quarantine: dict[int, SampleDamaged] = {}
        self._lock = threading.Lock()

    def fill(
        self, reader: PictureSource, pictures: Pictures, ordinals: Ordinals, *, step: int
    ) -> Ordinals:
        """Fill `pictures` and return the ordinals they are of, replacements included."""
        asked, taken = ordinals, ordinals.copy()
        draws: dict[int, np.random.Generator] = {}
        while True:
            try:
                reader.fill(pictures, taken)
                return taken
            except SampleDamaged as damage:
                self._count(damage)
                for slot in np.flatnonzero(taken == damage.ordinal).tolist():
                    wanted = int(asked[slot])
                    if slot not in draws:
                        draws[slot] = philox("replacement", self.seed, step, wanted)
                    raw = int(draws[slot].bit_generator.random_raw())
                    taken[slot] = self.rows[raw % len(self.rows)]

    def _count(self, damage: SampleDamaged) -> None:
        with self._lock:
            self.quarantine[damage.ordinal] = damage
            faults = len(self.quarantine)
        try:
            self.budget.check(faults, len(self.rows))
        except TooManyFaults:
            self._give_up(faults, damage)
        if faults >= len(self.rows):
            self._give_up(faults, damage)

    def _give_up(self, faults: int, damage: SampleDamaged) -> None:
        raise TooManyFaults(
            f"{faults} of {len(self.rows)} training samples are damaged, more than --max-failures "
            f"allows; the last one: {damage.detail}",
            where=damage.where,
            todo=TODO,
        ) from None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures of a batch and the ordinals they are of."""

    ordinals: Ordinals  # [B]
    images: Pictures  # [B, H, W]


def iterate(
    reader: PictureSource,
    batches: Iterable[Ordinals],
    *,
    workers: int,
    prefetch: int = 4,
    damage: DamagePolicy | None = None,
    first_step: int = 0,
) -> Iterator[Batch]:
    """Yield the batches in order, read ahead by `workers` threads (0 reads in this one).

    At most `prefetch` batches are held at a time, and the source is told of those that follow.
    The result does not depend on the number of threads. `first_step` is the step of the first
    batch, from which replacements are drawn.
    Raises SampleDamaged, or with a `damage` policy TooManyFaults, at the batch concerned.
    """
    if workers < 0 or prefetch < 1:
        raise UsageError("reading needs 0 or more threads and at least one batch ahead")
    filling = (
        _Filling(reader, ordinals, damage, first_step + place)
        for place, ordinals in enumerate(advised(reader, batches))
    )
    if workers == 0:
        for batch in filling:
            yield batch.joined([batch.part(first) for first in batch.parts])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="imitate-read")
    ahead: deque[tuple[_Filling, list[Future[Ordinals]]]] = deque()
    try:
        while True:
            for batch in islice(filling, prefetch - len(ahead)):
                ahead.append((batch, [pool.submit(batch.part, first) for first in batch.parts]))
            if not ahead:
                return
            batch, futures = ahead.popleft()
            yield batch.joined([future.result() for future in futures])
    finally:
        pool.shutdown(cancel_futures=True)


class _Filling:
    """A batch whose pictures are being read, a part of it at a time."""

    def __init__(
        self, reader: PictureSource, ordinals: Ordinals, damage: DamagePolicy | None, step: int
    ) -> None:
        self.reader, self.ordinals, self.damage, self.step = reader, ordinals, damage, step
        self.images = reader.empty(ordinals)
        self.parts = range(0, len(ordinals), CHUNK)

    def part(self, first: int) -> Ordinals:
        """Read the pictures from place `first` on and return the ordinals they are of."""
        ordinals = self.ordinals[first : first + CHUNK]
        pictures = self.images[first : first + CHUNK]
        if self.damage is not None:
            return self.damage.fill(self.reader, pictures, ordinals, step=self.step)
        self.reader.fill(pictures, ordinals)
        return ordinals

    def joined(self, parts: list[Ordinals]) -> Batch:
        """Return the batch whose parts are of these ordinals."""
        return Batch(ordinals=np.concatenate(parts), images=self.images)
