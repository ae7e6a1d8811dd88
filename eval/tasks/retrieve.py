"""Retrieval: how often a film finds its Impression among all, and an Impression its film.

Similarity is the cosine of the image embedding (of the Impression branch) and the text's.

Axes: N films, T distinct texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...contract import InputError
from ...files import to_arrow
from ...prep.protocols.retrieval import FIVE_BY_200
from ...schema import RETRIEVALS
from ...train.network.text import normal_form
from ..encoders.encoder import Source
from ..metrics import MIN_CASES, Floats
from ..retrieval.queries import Queries, has_five_by_200, read_queries
from ..retrieval.ranking import NEAREST, Collection
from ..retrieval.ranks import retrieval_rows
from ..table import Row
from ..testset import Samples, TestSet
from .task import SEED, EvalOptions, Found, Place, Task, Work, once, result_row
from .zeroshot import unit

TEXTS = 256  # embedded between two looks at signals


class Retrieve(Task):
    """Every film of the queries and its Impression, each looked for by the other."""

    name = "retrieve"
    needs = ("paired",)

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need a text side, and films with an Impression."""
        if not source.reads_text:
            return f"{source.name} has no text side"
        if len(read_queries(tests).ordinals) >= MIN_CASES:
            return None
        where = "5x200 film" if has_five_by_200(tests) else "test film"
        return f"fewer than {MIN_CASES} {where}s of {tests.name} have an Impression"

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan one cell: nothing is trained."""
        return once(head_seeds)

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the protocol's values, and on how many candidates are named."""
        return dict(setting) | {"nearest": NEAREST}

    def do(self, work: Work) -> Found:
        """Embed every distinct Impression and rank all films and texts for each other."""
        found = work.pictures.paired
        queries = read_queries(work.tests).without(found.damaged)
        if len(queries.ordinals) < MIN_CASES:
            raise InputError(
                "nearly every picture to retrieve is damaged",
                where=work.tests.name,
                todo="`imitate verify` names every damaged sample",
            )
        samples = Samples(ordinals=queries.ordinals, targets=np.empty((len(queries.ordinals), 0)))
        rows = list(_rows(work, queries, unit(found.of(samples))))
        findings = Counter(name for name in queries.findings if name is not None)
        return Found(
            rows=[
                result_row(work.tests, work.cell, numbers)
                for numbers in retrieval_rows(rows, seed=SEED)
            ],
            tables=[(RETRIEVALS, to_arrow(RETRIEVALS, rows))],
            facts={
                "of": FIVE_BY_200 if has_five_by_200(work.tests) else "test",
                "films": len(queries.ordinals),
                "texts": len({normal_form(text) for text in queries.texts}),
                "findings": dict(sorted(findings.items())),
            },
            damaged=queries.damaged,
        )


def _rows(work: Work, queries: Queries, image_ND: Floats) -> Iterator[Row]:
    """Yield a row of RETRIEVALS for every film and direction."""
    texts = sorted(set(queries.texts))
    row = {text: i for i, text in enumerate(texts)}
    known = all(name is not None for name in queries.findings)
    collection = Collection(
        images=image_ND,
        texts=_embedded(work, texts),
        text=np.array([row[text] for text in queries.texts], dtype=np.int64),
        same=_codes([normal_form(text) for text in queries.texts]),
        finding=_codes([str(name) for name in queries.findings]) if known else None,
    )
    keys, subjects = (work.tests.shards.column(name) for name in ("key", "subject_id"))
    cell = {name: value for name, value in asdict(work.cell).items() if name in RETRIEVALS.names}
    for ranked in collection.rankings():
        film = ranked.pop("film")
        ordinal = int(queries.ordinals[film])
        nearest = queries.ordinals[ranked["nearest"]].tolist()
        yield (
            cell
            | ranked
            | {
                "key": str(keys[ordinal]),
                "subject_id": subjects[ordinal],
                "finding": queries.findings[film],
                "nearest": [str(keys[i]) for i in nearest],
            }
        )


def _embedded(work: Work, texts: Sequence[str]) -> Floats:
    embed = work.pictures.encoder.embed_texts
    assert embed is not None  # planned only for sources with a text side
    parts = []
    for start in range(0, len(texts), TEXTS):
        work.interrupts.check()
        parts.append(unit(embed(texts[start : start + TEXTS])))
    return np.concatenate(parts)


def _codes(names: Sequence[str]) -> Any:
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1].astype(np.int64)
