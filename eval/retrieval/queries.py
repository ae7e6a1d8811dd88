"""The films of a set that look for their Impression, and the Impressions that look for them.

They are the test films with an Impression; of CheXpert the films of 5x200 (`prep/protocols`), which
the official training list holds, each with the one finding that it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...prep.protocols.retrieval import FINDINGS, FIVE_BY_200
from ...shards.order import Ordinals
from ...shards.reader import SampleDamaged, ShardReader
from ...train.network.text import neutral_text
from ..testset import TestSet

CHEXPERT = "chexpert"
STEP = 4096  # samples whose JSON is held at once


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Films by ascending ordinal, the Impression of each, and its finding where that is known."""

    ordinals: Ordinals
    texts: tuple[str, ...]
    findings: tuple[str | None, ...]
    damaged: frozenset[int] = frozenset()

    def without(self, damaged: frozenset[int]) -> Queries:
        """Return the queries but those of damaged pictures, which are named besides."""
        kept = np.flatnonzero(~np.isin(self.ordinals, sorted(damaged)))
        return Queries(
            ordinals=self.ordinals[kept],
            texts=tuple(self.texts[i] for i in kept),
            findings=tuple(self.findings[i] for i in kept),
            damaged=self.damaged | damaged,
        )


def has_five_by_200(tests: TestSet) -> bool:
    """Tell whether retrieval in the set is that of 5x200, not of its test split."""
    return tests.archive == CHEXPERT


def read_queries(tests: TestSet) -> Queries:
    """Return the queries of a set, from the JSON in its shards; damaged samples are left out."""
    found: dict[int, tuple[str, str | None]] = {}
    damaged: set[int] = set()
    five, reader = has_five_by_200(tests), ShardReader(tests.shards)
    for ordinal, document in _documents(reader, _worded(tests)):
        if document is None:
            damaged.add(ordinal)
            continue
        finding = document["metadata"].get(FIVE_BY_200)
        text = neutral_text(document["impression"])
        if text and not (five and finding is None):
            found[ordinal] = text, finding
    return Queries(
        ordinals=np.array(list(found), dtype=np.int64),
        texts=tuple(text for text, _ in found.values()),
        findings=tuple(finding for _, finding in found.values()),
        damaged=frozenset(damaged),
    )


def _worded(tests: TestSet) -> Ordinals:
    """Return the films with an Impression that may be queries, by what the manifest tells."""
    films = tests.films["test"]
    if has_five_by_200(tests):
        labels = tests.shards.column("labels")
        pool = np.union1d(tests.films["train"], tests.films["validate"]).tolist()
        alone = [i for i in pool if sum(labels[i].get(name) == 1 for name in FINDINGS) == 1]
        films = np.array(alone, dtype=np.int64)
    words_N = np.asarray(tests.shards.column("n_impression"))
    return films[words_N[films] > 0]


def _documents(
    reader: ShardReader, ordinals: Ordinals
) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """Yield the JSON of each sample; None for one that is damaged."""
    for start in range(0, len(ordinals), STEP):
        part = ordinals[start : start + STEP]
        texts: Sequence[Mapping[str, Any] | None]
        try:
            texts = reader.texts(part)
        except SampleDamaged:
            texts = [_one(reader, ordinal) for ordinal in part.tolist()]
        yield from zip(part.tolist(), texts, strict=True)


def _one(reader: ShardReader, ordinal: int) -> Mapping[str, Any] | None:
    try:
        (document,) = reader.texts(np.array([ordinal]))
    except SampleDamaged:
        return None
    return document
