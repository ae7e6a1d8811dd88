"""Single samples found by key or study: where each lies, and what its shard holds of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...contract import Folders, InputError, UsageError, key_of
from ...files import safe_name, set_private, write_bytes
from ..manifest import ShardSet
from ..order import Ordinals
from ..reader import ShardReader

NEAR = 5  # keys named when there is no such one


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample: its shard set, where its span lies there, and its JSON, compared with its hash.

    `mask` is the bytes of its mask's PNG, None without one.
    """

    set: str
    shard: Path
    ordinal: int
    offset: int
    size: int
    mask: int | None
    sample: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the sample as `--json` prints it."""
        return vars(self) | {"shard": str(self.shard)}

    def as_text(self) -> str:
        """Return the sample as readable lines; control characters of a report are replaced."""
        return "\n".join(_visible(line) for line in _lines(self))


def find_samples(
    root: Path,
    wanted: str,
    *,
    name: str | None = None,
    picture: Path | None = None,
    mask: Path | None = None,
) -> list[Shown]:
    """Return every sample with this key, or else of this study, from one set or from all.

    With `picture` or `mask`, that of the only sample found is written there as its shard holds
    it, after its hash was compared. Raises InputError when nothing is found, when what was found
    is damaged or has no mask to be written, UsageError when one is to be written and several
    samples are found.
    """
    folders = Folders(root)
    names = folders.names("shards") if name is None else [safe_name(name)]
    if not names:
        raise InputError(
            "no shard set", where=str(folders.shards("*")), todo="write one with: imitate shard"
        )
    sets = [ShardSet.open(folders.shards(each)) for each in names]
    found = [(shards, _ordinals(shards, wanted)) for shards in sets]
    total = sum(len(ordinals) for _, ordinals in found)
    if not total:
        raise _unknown(sets, wanted)
    wishes: dict[Literal["png", "mask"], Path] = {} if picture is None else {"png": picture}
    wishes |= {} if mask is None else {"mask": mask}
    if wishes and total > 1:
        raise UsageError(
            f"{total} samples found, but --picture and --mask write one",
            todo="give the key of one sample, and its --set",
        )
    return [
        sample
        for shards, ordinals in found
        if len(ordinals)
        for sample in _read(shards, ordinals, wishes)
    ]


def _ordinals(shards: ShardSet, wanted: str) -> Ordinals:
    keys = np.asarray(shards.column("key"))
    same = np.isin(keys, [wanted, key_of(wanted)])
    if not same.any():
        same = np.asarray(shards.column("study_id")) == wanted
    return np.flatnonzero(same).astype(np.int64)


def _unknown(sets: list[ShardSet], wanted: str) -> InputError:
    part = key_of(wanted)
    keys = {str(key) for shards in sets for key in shards.column("key")}
    near = sorted(key for key in keys if part in key)
    told = f"keys that hold it: {', '.join(near[:NEAR])}{', …' if len(near) > NEAR else ''}"
    return InputError(
        "no sample has this key or study",
        where=", ".join(f"set {shards.name}" for shards in sets),
        todo=told if near else "the column `key` of manifest.parquet lists all",
    )


def _read(
    shards: ShardSet, ordinals: Ordinals, wishes: Mapping[Literal["png", "mask"], Path]
) -> Iterator[Shown]:
    reader = ShardReader(shards)
    masks = np.asarray(shards.column("mask_len"))
    for kind, path in wishes.items():
        data = next(reader.members(ordinals, kind))
        if not data:
            raise InputError("this sample has no mask", where=f"set {shards.name}")
        set_private(shards.access)
        write_bytes(path, data)
    for ordinal, sample in zip(ordinals.tolist(), reader.texts(ordinals), strict=True):
        yield Shown(
            set=shards.name,
            shard=shards.folder / "shards" / shards.column("shard")[ordinal],
            ordinal=ordinal,
            offset=int(shards.column("offset")[ordinal]),
            size=int(shards.column("size")[ordinal]),
            mask=None if masks[ordinal] < 0 else int(masks[ordinal]),
            sample=sample,
        )


def _lines(shown: Shown) -> Iterator[str]:
    sample, geometry = shown.sample, shown.sample["geometry"]
    yield f"{sample['key']}"
    yield f"  set        {shown.set}, ordinal {shown.ordinal}, split {sample['split']}"
    yield f"  shard      {shown.shard}, {shown.size} bytes from {shown.offset}"
    for name in ("dataset", "subject_id", "study_id", "image_id", "source"):
        yield f"  {name:<10} {_or_dash(sample[name])}"
    yield f"  view       {_or_dash(sample['view'])} (from {sample['view_source']})"
    yield (
        f"  picture    {geometry['width']} x {geometry['height']}, {geometry['bits']} bits, "
        f"norm {geometry['norm']}"
    )
    yield (
        f"  original   {geometry['source_width']} x {geometry['source_height']}, orientation "
        f"{geometry['orientation']}; x = {geometry['scale_x']:g} x_src {geometry['offset_x']:+g}, "
        f"y = {geometry['scale_y']:g} y_src {geometry['offset_y']:+g}"
    )
    labels = ", ".join(f"{name} {value:g}" for name, value in sorted(sample["labels"].items()))
    yield f"  labels     {labels or '-'} (from {_or_dash(sample['label_source'])})"
    yield f"  mask       {f'{shown.mask} bytes' if shown.mask else '-'}"
    for box in sample["boxes"]:
        places = ", ".join(f"{side} {box[side]:g}" for side in ("x", "y", "w", "h"))
        yield f"  box        {box['label']}: {places}"
    yield f"  sections   from {sample['section_source']}"
    texts = {name: sample[name] for name in ("findings", "impression")} | {
        f"section {name}": text for name, text in sample["sections"].items()
    }
    for name, text in texts.items():
        yield f"  {name}:"
        yield from (f"    {line}" for line in (text or "-").splitlines())


def _or_dash(value: str | None) -> str:
    return "-" if value is None else value


def _visible(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
