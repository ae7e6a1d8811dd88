"""What is told of a film beside its pixels: view, sex, age, where it comes from, its first size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ...shards.manifest import ShardSet
from ...shards.order import Ordinals
from ...shards.reader import SampleDamaged, ShardReader

AGES = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79"), (999, "80 and over"))


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an archive tells of a film; None where it does not. Age in years, sides in pixels."""

    view: str | None = None
    sex: str | None = None
    age: float | None = None
    origin: str | None = None
    height: int | None = None
    width: int | None = None

    @property
    def age_group(self) -> str | None:
        """The age by groups, those of children apart."""
        if self.age is None or self.age < 0:
            return None
        return next((name for below, name in AGES if self.age < below), None)


NAMES = tuple(field.name for field in fields(Told))


def read_told(shards: ShardSet, ordinals: Ordinals) -> list[Told]:
    """Return what is told of samples, from their JSON in the shards; nothing of a damaged one."""
    reader = ShardReader(shards)
    try:
        return [_told(document) for document in reader.texts(ordinals)]
    except SampleDamaged:
        return [_one(reader, ordinal) for ordinal in ordinals]


def _one(reader: ShardReader, ordinal: int) -> Told:
    try:
        (document,) = reader.texts(np.array([ordinal]))
    except SampleDamaged:
        return Told()
    return _told(document)


def _told(document: Mapping[str, Any]) -> Told:
    person, geometry = document["metadata"], document["geometry"]
    return Told(
        view=document["view"],
        sex=person.get("sex"),
        age=_number(person.get("age")),
        origin=person.get("origin"),
        height=geometry["source_height"],
        width=geometry["source_width"],
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def sample_rows(keys: Sequence[str], told: Sequence[Told]) -> list[dict[str, Any]]:
    """Return rows of SAMPLES, sorted by key."""
    rows = [{"key": key} | asdict(one) for key, one in zip(keys, told, strict=True)]
    return sorted(rows, key=lambda row: str(row["key"]))


def told_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Told]:
    """Return what rows of SAMPLES tell, by key."""
    return {str(row["key"]): Told(**{name: row[name] for name in NAMES}) for row in rows}
