"""The pixel cache: the pictures of a split, decoded once into one array on disk.

The shards stay the truth. A picture is verified by the hash of its pixels when it is decoded and
each time it is read; one that is not there as it was prepared is read from its shard instead, so
that a batch is the same to the bit with and without the cache.

Legend: n pictures of the split, B batch, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from ...contract import InputError, UsageError
from ...files import atomic, digest_of, sweep_partials
from ...work import Progress, alone
from ..order import Ordinals
from ..reader import SampleDamaged, ShardReader
from .source import Pictures

FOLDER = "pixels"  # below the shard set
CHUNK = 256  # pictures that a thread decodes at a time


class PixelFile:
    """Which pictures a cache is of, in which shape, and in which file of the shard set.

    `rows` are ascending ordinals. Raises UsageError when their pictures differ in size or bits.
    """

    def __init__(self, reader: ShardReader, rows: Ordinals) -> None:
        self.reader, self.rows = reader, rows
        shards = reader.shards
        columns = (reader.heights[rows], reader.widths[rows], reader.bits[rows])
        shapes = np.unique(np.stack(columns), axis=1)
        if shapes.shape[1] != 1:
            raise UsageError(
                "pictures of different sizes cannot be kept decoded",
                where=str(shards.folder),
                todo="use --cache none, or prepare them at one size: imitate prep … --size 256",
            )
        height, width, bits = shapes[:, 0].tolist()
        self.shape: tuple[int, int, int] = (len(rows), height, width)
        self.kind: np.dtype[Any] = np.dtype("|u1" if bits == 8 else "<u2")
        self.bytes = int(np.prod(self.shape, dtype=np.int64)) * self.kind.itemsize
        self.hashes: NDArray[np.uint8] = np.asarray(shards.column("pixel_blake3"))[rows]  # [n, 16]
        name = digest_of([shards.digest, blake3.blake3(rows.astype("<i8").tobytes()).hexdigest()])
        self.path = shards.folder / FOLDER / f"{name}.npy"

    @property
    def there(self) -> bool:
        """Tell whether the file is whole; it appears under its name only when it is."""
        with contextlib.suppress(OSError, ValueError, EOFError):
            found = np.load(self.path, mmap_mode="r", allow_pickle=False)
            return bool(found.shape == self.shape and found.dtype == self.kind)
        return False

    def positions(self, ordinals: Ordinals) -> Ordinals:
        """Return the place of each picture in the array; UsageError for one that is not in it."""
        found = np.searchsorted(self.rows, ordinals).clip(max=len(self.rows) - 1)
        if not np.array_equal(self.rows[found], ordinals):
            raise UsageError("a picture is asked for that is not of the cached split")
        return found

    def intact(self, picture: Pictures, position: int) -> bool:
        """Tell whether these are the pixels that were prepared.  # [H, W]"""
        found: bytes = blake3.blake3(picture.data.cast("B")).digest(16)
        return found == bytes(self.hashes[position])

    def build(self, *, workers: int, progress: str, tell: Callable[[str], None]) -> None:
        """Decode every picture into the file, with `workers` threads, unless it is there.

        A file of a killed process is begun anew. Raises InputError when the disk has no room,
        UsageError while another process is at it.
        """
        if self.there:
            return
        with alone(self.path.parent, "decoding the pictures of this shard set"):
            sweep_partials(self.path.parent)
            n, size = self.shape[0], f"{self.bytes / 1e9:.2f} GB"
            tell(f"pixel cache: {n} pictures will take {size} in {self.path}")
            free = shutil.disk_usage(self.path.parent).free
            if self.bytes > free:
                raise self._no_room(f"only {free / 1e9:.2f} GB are free")
            bad = 0
            self.reader.shards.expect(self.rows)
            try:
                with Progress("decode pictures", n, progress) as bar, atomic(self.path) as partial:
                    for done, intact in _written(self, partial, workers):
                        bar.advance(done)
                        bad += done - intact
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise self._no_room("it became full") from None
            if bad:
                tell(f"pixel cache: {bad} of {n} not as prepared; read from their shards instead")

    def decoded(self, first: int) -> Pictures:
        """Return CHUNK pictures from a place on; zeros for what cannot be read.  # [B, H, W]"""
        rows = self.rows[first : first + CHUNK]
        pictures: Pictures = np.zeros((len(rows), *self.shape[1:]), dtype=self.kind)
        with contextlib.suppress(SampleDamaged):
            self.reader.fill(pictures, rows)
            return pictures
        for place in range(len(rows)):
            with contextlib.suppress(SampleDamaged):
                self.reader.fill(pictures[place : place + 1], rows[place : place + 1])
        return pictures

    def _no_room(self, what: str) -> InputError:
        return InputError(
            f"the disk has no room for the pixel cache of {self.bytes / 1e9:.2f} GB: {what}",
            where=str(self.path.parent),
            todo="make room, or train with --cache none",
        )


def _written(file: PixelFile, path: Path, workers: int) -> Iterator[tuple[int, int]]:
    """Write the array and yield, for each part, the number of its pictures and of intact ones."""
    with path.open("wb") as handle:
        header = {"descr": file.kind.str, "fortran_order": False, "shape": file.shape}
        np.lib.format.write_array_header_1_0(handle, header)
        handle.flush()
        start, each = handle.tell(), file.bytes // file.shape[0]

        def write(first: int) -> tuple[int, int]:
            pictures = file.decoded(first)
            view = pictures.data.cast("B")
            while view:  # a disk may take less than it was given
                place = start + (first * each) + pictures.nbytes - len(view)
                view = view[os.pwrite(handle.fileno(), view, place) :]
            intact = sum(file.intact(picture, first + i) for i, picture in enumerate(pictures))
            return len(pictures), intact

        pool = ThreadPoolExecutor(workers, thread_name_prefix="imitate-decode")
        try:
            yield from pool.map(write, range(0, file.shape[0], CHUNK))
        finally:
            pool.shutdown(cancel_futures=True)


class HostPixels:
    """Pictures from the file of decoded pixels: one read and one hash a picture."""

    def __init__(self, file: PixelFile) -> None:
        self.file = file
        self.empty = file.reader.empty
        self._handle = os.open(file.path, os.O_RDONLY)
        self._start = os.fstat(self._handle).st_size - file.bytes
        self._each = file.bytes // file.shape[0]
        self.close = weakref.finalize(self, os.close, self._handle)

    def fill(self, pictures: Pictures, ordinals: Ordinals) -> None:
        """Put the pictures into an array made by `empty`; SampleDamaged as the shards' reader."""
        for place, position in enumerate(self.file.positions(ordinals).tolist()):
            self.read(pictures[place], position)
            if not self.file.intact(pictures[place], position):
                alone_B = slice(place, place + 1)
                self.file.reader.fill(pictures[alone_B], ordinals[alone_B])

    def read(self, picture: Pictures, position: int) -> None:
        """Put the picture at a place of the file into an array, as it is there.  # [H, W]"""
        with contextlib.suppress(OSError):
            os.preadv(self._handle, [picture.data], self._start + position * self._each)

    def advise(self, ordinals: Ordinals) -> None:
        """Ask the system to read pictures ahead."""
        if not hasattr(os, "posix_fadvise"):
            return
        for position in self.file.positions(ordinals).tolist():
            with contextlib.suppress(OSError):
                place = self._start + position * self._each
                os.posix_fadvise(self._handle, place, self._each, os.POSIX_FADV_WILLNEED)
