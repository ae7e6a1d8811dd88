"""The shard set that is evaluated: its labels, its splits, its protocol, its label fractions.

Axes: N samples, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import SPLITS, InputError, UsageError
from ..prep.policy import FRONTAL
from ..prep.protocols.fractions import draw_fraction
from ..prep.protocols.protocol import Protocol, load_protocol
from ..prep.record import RADIOLOGIST
from ..shards.manifest import ShardSet
from ..shards.order import Ordinals
from ..shards.reader import ShardReader
from .encoders.matched import MatchedReader
from .metrics import Floats

CLEAN = "clean"
LEAKING = ("mgca",)  # protocols whose code trains on pictures of other splits too
READ = "radiologist"  # the reading of a test split whose labels a radiologist gave

Labels = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of one split by ascending ordinal; a NaN target is unlabelled or uncertain."""

    ordinals: Ordinals
    targets: Floats

    def only(self, index: Sequence[int] | np.ndarray) -> Samples:
        """Return the samples at the given positions."""
        return Samples(ordinals=self.ordinals[index], targets=self.targets[index])


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """A shard set: the frontal films of each split, and those of them that have labels.

    `protocol` is the one that the set was prepared under. With `norm`, grey levels are brought to
    it on reading, so pictures must come from `reader()`. `reading` tells whose labels the test
    split has where they are not those of the other splits. `pictured` are the films that any
    reading of the set has labels of: what an encoder says of them is computed once for all.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    shards: ShardSet
    labels: tuple[str, ...]
    splits: Mapping[str, Samples]
    films: Mapping[str, Ordinals]
    pictured: Mapping[str, Ordinals]
    protocol: str = CLEAN
    norm: str | None = None
    reading: str | None = None

    def reader(self) -> ShardReader:
        """Return a reader of the set's pictures."""
        return (
            ShardReader(self.shards) if self.norm is None else MatchedReader(self.shards, self.norm)
        )

    @property
    def identity(self) -> list[str | None]:
        """What the pictures depend on, as all that is computed from them does."""
        return [self.shards.digest, self.norm]

    @property
    def name(self) -> str:
        """The name of what is evaluated: the shard set's, and whose reading it is if another's."""
        return f"{self.shards.name}-{self.reading}" if self.reading else self.shards.name

    @property
    def names(self) -> tuple[str, ...]:
        """What the set's prompts may be called: the shard set's name, then that of its archive."""
        return self.shards.name, self.archive

    @property
    def phantom(self) -> bool:
        """Whether the films are drawn by `prep/phantoms`, as the set's name then begins."""
        return self.shards.name.startswith("phantom")

    @property
    def archive(self) -> str:
        """The archive that the set was prepared from."""
        codes, names = self.shards.codes("dataset")
        return str(names[codes[0]])

    @property
    def test(self) -> Samples:
        """The labelled test split."""
        return self.splits["test"]

    def of(self, column: str, samples: Samples) -> list[str | None]:
        """Return a text column of the shard manifest for these samples."""
        values = self.shards.column(column)
        return [values[i] for i in samples.ordinals]

    def fraction(self, split: str, fraction: float, *, draw: int) -> Samples:
        """Return a fraction of the labelled samples of a split, as `drawn` draws it."""
        samples = self.splits[split]
        chosen = self.drawn(samples.ordinals, fraction, draw=draw)
        return samples.only(np.isin(samples.ordinals, chosen))

    def drawn(self, ordinals: Ordinals, fraction: float, *, draw: int) -> Ordinals:
        """Return a fraction of these samples as the set's protocol draws it, ascending.

        Draw 0 has the published seed, each further draw the next one.
        """
        columns = (self.shards.column(name) for name in ("key", "subject_id", "labels"))
        keys, subjects, labels = columns
        place = {str(keys[i]): int(i) for i in ordinals}
        ids = sorted(place)
        chosen = draw_fraction(
            rules_of(self.archive, self.protocol),
            ids,
            fraction,
            subjects={key: str(s) for key in ids if (s := subjects[place[key]]) is not None},
            classes={key: _class(labels[place[key]]) for key in ids},
            draw=draw,
        )
        return np.array(sorted(place[key] for key in chosen), dtype=np.int64)


def rules_of(archive: str, protocol: str) -> Protocol:
    """Return the rules of a protocol for an archive; those of `clean` for any other archive."""
    try:
        return load_protocol(archive, protocol)
    except InputError:  # its splits are lists, which the prepared set has followed
        return load_protocol(archive, protocol, lists=Path())
    except UsageError:
        return Protocol(
            dataset=archive,
            name=CLEAN,
            digest="",
            source="",
            rules=(),
            fractions={"draw": "subject"},
        )


def prepared_under(card: Mapping[str, Any]) -> str:
    """Return the protocol that a prepared set's card names; `clean` where it names none."""
    facts = card.get("archive", {}).get("protocol") or {}
    return str(facts.get("name", CLEAN))


def open_testset(shards: ShardSet) -> TestSet:
    """Gather targets from the manifest's labels: 1 present, 0 absent, all else left out.

    Under a protocol whose code trains on pictures of other splits, they are in train here too.
    Labels that a radiologist gave beside automatic ones are left out: see `open_readings`.
    """
    return open_readings(shards)[0]


def open_readings(shards: ShardSet) -> list[TestSet]:
    """Return the set as `open_testset` does and, if a radiologist read test films, a second one.

    The second is scored by the radiologist: its test split are the films read, its targets there
    the radiologist's under the plain names; train and validate are those of the first.
    """
    told = [_certain(row) for row in shards.column("labels")]
    own = [{n: v for n, v in row.items() if not n.endswith(RADIOLOGIST)} for row in told]
    read = [
        {n.removesuffix(RADIOLOGIST): v for n, v in row.items() if n.endswith(RADIOLOGIST)}
        for row in told
    ]
    films, marks = _films(shards), dict.fromkeys(SPLITS, own)
    first = _labelled(shards, films, marks)
    seen = np.array([i for i in films["test"] if read[i]], dtype=np.int64)
    if not len(seen):
        return [first]
    second = _labelled(shards, {**films, "test": seen}, {**marks, "test": read}, reading=READ)
    both = {s: np.union1d(first.pictured[s], second.pictured[s]) for s in SPLITS}
    return [replace(each, pictured=both) for each in (first, second)]


def _films(shards: ShardSet) -> dict[str, Ordinals]:
    """Return the frontal films of each split."""
    views = shards.column("view")
    seen = {None, *FRONTAL}  # evaluation stays frontal, also in a set prepared with all views
    films = {
        split: np.array([i for i in shards.rows(split) if views[i] in seen], dtype=np.int64)
        for split in SPLITS
    }
    if prepared_under(shards.card.get("prep", {})) in LEAKING:
        films["train"] = np.union1d(films["train"], _also_trained_on(shards, films))
    return films


def _labelled(
    shards: ShardSet,
    films: Mapping[str, Ordinals],
    marks: Mapping[str, Sequence[Labels]],
    *,
    reading: str | None = None,
) -> TestSet:
    """Return the set with the labels that each split's films have in `marks`, by ordinal."""
    labels = tuple(sorted({name for rows in marks.values() for row in rows for name in row}))
    splits = {}
    for split, ordinal_N in films.items():
        told = marks[split]
        rows = np.array([i for i in ordinal_N if told[i]], dtype=np.int64)
        target_NL = np.array([[told[i].get(name, np.nan) for name in labels] for i in rows])
        splits[split] = Samples(ordinals=rows, targets=target_NL.reshape(len(rows), len(labels)))
    return TestSet(
        shards=shards,
        labels=labels,
        splits=splits,
        films=films,
        pictured={split: samples.ordinals for split, samples in splits.items()},
        protocol=prepared_under(shards.card.get("prep", {})),
        reading=reading,
    )


def _also_trained_on(shards: ShardSet, films: Mapping[str, Ordinals]) -> Ordinals:
    """Return the films outside train whose metadata says `also: train`."""
    others = np.sort(np.concatenate([films["validate"], films["test"]]))
    told = ShardReader(shards).texts(others)
    also = [document["metadata"].get("also") == "train" for document in told]
    return np.asarray(others[np.array(also, dtype=bool)])


def _certain(labels: Labels) -> dict[str, float]:
    return {name: value for name, value in dict(labels).items() if value in (0.0, 1.0)}


def _class(labels: Labels) -> str:
    return " ".join(sorted(name for name, value in labels.items() if value == 1))
