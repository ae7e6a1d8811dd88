"""A sample in a shard: its JSON, the members of its span, and its row in the manifest.

A span is the bytes of one sample in a tar file: `KEY.json`, `KEY.mask.png` if there is a mask,
`KEY.png` (or `KEY.jpg`, which is the first), each a 512-byte header and the data padded to 512. As
the headers are a pure function of name and size, every byte of a shard can be told from its rows
and members.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import blake3

from ..contract import InputError
from ..files import canonical_json
from ..schema import MANIFEST

BLOCK = tarfile.BLOCKSIZE
SHORT_NAME = 100  # bytes of a member name that fit the header block
FILE_MODE = 0o444
MEMBERS = ("jpg", "json", "mask.png", "png")  # in the order of their names, that of the tar
PICTURES = ("png", "jpg")  # kinds of the picture, one of them in a sample

_GEOMETRY = (
    *("height", "width", "bits", "source_height", "source_width", "orientation"),
    *("scale_x", "scale_y", "offset_x", "offset_y", "norm"),
)
# paths and hashes of files of the prepared set
_ELSEWHERE = ("image", "mask", "png_blake3", "mask_blake3", "pixel_blake3")
_PLAIN = tuple(name for name in MANIFEST.names if name not in _GEOMETRY + _ELSEWHERE)


def document_of(row: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of a prepared sample; `row` is one of contract.MANIFEST."""
    value = {name: row[name] for name in _PLAIN}
    value["geometry"] = {name: row[name] for name in _GEOMETRY}
    try:
        return canonical_json(value)
    except ValueError:
        raise InputError(
            "a label, box or scale is not a finite number", where=f"key {row['key']}"
        ) from None


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of contract.SHARD_MANIFEST that follow from a sample's JSON."""
    plain = ("key", "dataset", "split", "subject_id", "study_id", "view", "source", "labels")
    geometry = document["geometry"]
    return {name: document[name] for name in plain} | {
        "width": geometry["width"],
        "height": geometry["height"],
        "bits": geometry["bits"],
        "n_findings": len(document["findings"].split()),
        "n_impression": len(document["impression"].split()),
        "weight": 1.0,
    }


class Member(NamedTuple):
    """One file of a span: its name, where its header and data lie in the shard, its size."""

    name: str
    kind: str
    header: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """First byte after the padded data."""
        return self.data + padded(self.size)


def padded(size: int) -> int:
    """Return a size rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK


def header_size(name: str) -> int:
    """Return the bytes of a member's header: one block, or three when the name is long."""
    return BLOCK if len(name) <= SHORT_NAME else 3 * BLOCK


def tar_format(keys: Iterable[str]) -> int:
    """Return the tar format of these samples: USTAR, or PAX when a name is too long for it."""
    longest = max(map(len, keys)) + len(".mask.png")
    return tarfile.USTAR_FORMAT if longest <= SHORT_NAME else tarfile.PAX_FORMAT


def header_of(name: str, size: int) -> bytes:
    """Return the header of a member as the shard writer makes it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, FILE_MODE
    return info.tobuf(tarfile.PAX_FORMAT)


def members_of(key: str, sizes: Mapping[str, int], offset: int) -> Iterator[Member]:
    """Yield the members of a span that starts at `offset`, from the sizes of its files."""
    for kind in MEMBERS:
        if kind in sizes:
            name = f"{key}.{kind}"
            data = offset + header_size(name)
            yield Member(name, kind, offset, data, sizes[kind])
            offset = data + padded(sizes[kind])


def span_size(key: str, sizes: Mapping[str, int]) -> int:
    """Return the bytes that a sample takes in a shard."""
    return sum(header_size(f"{key}.{kind}") + padded(size) for kind, size in sizes.items())


def hash16(data: bytes | memoryview) -> bytes:
    """Return the first 16 bytes of the BLAKE3 of `data`."""
    return bytes(blake3.blake3(data).digest(16))


@functools.cache  # asked for several times a sample
def prefix(kind: str) -> str:
    """Return the prefix of a member's columns in the manifest: json, mask, or png for a picture."""
    return "png" if kind in PICTURES else kind.split(".", maxsplit=1)[0]


def sizes_of(row: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of a sample's files by member kind, from its manifest row."""
    kinds = ("json", "mask.png", row["codec"])
    lengths = ((kind, row[f"{prefix(kind)}_len"]) for kind in kinds)
    return {kind: length for kind, length in lengths if length is not None}
