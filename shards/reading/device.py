"""The pixel cache in the memory of a device: the array of `PixelFile` as one tensor.

Legend: n pictures of the split, B batch, H rows, W columns.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray

from ...contract import UsageError
from ..order import Ordinals
from .pixels import CHUNK, HostPixels, PixelFile
from .source import Pictures

Signed = NDArray[np.uint8] | NDArray[np.int16]


def check_room(file: PixelFile, device: torch.device) -> None:
    """Raise UsageError when the pictures are more than the free memory of a GPU."""
    if device.type == "cuda" and file.bytes > (free := torch.cuda.mem_get_info(device)[0]):
        raise UsageError(
            f"the pictures take {file.bytes / 1e9:.2f} GB, the GPU has {free / 1e9:.2f} GB free",
            todo="use --cache host",
        )


class DevicePixels:
    """Pictures of a split from a device; `pixels` is uint8 [n, H, W].

    For sets of 16 bits it is int16 with the bits of uint16, which torch cannot index everywhere.

    Each picture is verified while it is copied there. One that was not as prepared is read from
    its shard whenever it is asked for.
    """

    def __init__(self, file: PixelFile, device: torch.device) -> None:
        self.file = file
        self.empty = file.reader.empty
        kind = torch.uint8 if file.kind.itemsize == 1 else torch.int16
        self.pixels = torch.empty(file.shape, dtype=kind, device=device)
        # a stream of its own, so that reading does not wait for the training step
        gpu = device.type == "cuda"
        self._copies = torch.cuda.Stream(device) if gpu else None  # type: ignore[no-untyped-call]
        self._intact = np.ones(file.shape[0], dtype=bool)
        host = HostPixels(file)
        for first in range(0, file.shape[0], CHUNK):
            part = range(first, min(first + CHUNK, file.shape[0]))
            pictures: Pictures = np.zeros((len(part), *file.shape[1:]), dtype=file.kind)
            for picture, position in zip(pictures, part, strict=True):
                host.read(picture, position)
                self._intact[position] = file.intact(picture, position)
            self.pixels[first : first + CHUNK] = torch.from_numpy(_signed(pictures))
        host.close()
        if gpu:
            torch.cuda.synchronize(device)  # the stream of the copies does not wait for these

    def fill(self, pictures: Pictures, ordinals: Ordinals) -> None:
        """Put the pictures into an array made by `empty`; SampleDamaged as the shards' reader."""
        positions = self.file.positions(ordinals)
        with torch.cuda.stream(self._copies) if self._copies else contextlib.nullcontext():
            index = torch.from_numpy(positions).to(self.pixels.device)
            _signed(pictures)[:] = self.pixels[index].cpu().numpy()
        for place in np.flatnonzero(~self._intact[positions]).tolist():
            alone_B = slice(place, place + 1)
            self.file.reader.fill(pictures[alone_B], ordinals[alone_B])

    def advise(self, ordinals: Ordinals) -> None:
        """Do nothing: everything is there."""


def _signed(pictures: Pictures) -> Signed:
    """Return the same memory with 16-bit numbers as signed ones."""
    if pictures.dtype == np.uint8:
        return pictures.view(np.uint8)
    return pictures.view(np.int16)
