"""Zero-shot classification by prompt pairs (`prompts/`).

The score is the softmax of the two cosine similarities (the pair rule of CheXzero, Tiu et al.,
2022): prompt embeddings are normalized, averaged over a list, normalized again. The softmax has no
temperature, so scores lie near 0.5.

Axes: N images, L labels, P prompts, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ..encoders.encoder import Embed, Source
from ..grounding.places import Places, share_of, spread, stored_picture, tinted, to_png
from ..metrics import Floats, Part, Scored, settle_tempered
from ..prompts.pairs import TEMPLATE, Pair, prompts_for
from ..testset import Samples, TestSet
from .labels import found_labels, part, sound_test, without_labels
from .task import EvalOptions, Found, Place, Task, Work, once

SHOWN = 4  # labels of which films are drawn for the report


class ZeroShot(Task):
    """Every label of the test split, scored by how its prompts lie to the picture."""

    name = "zeroshot"
    needs = ("embeddings",)

    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Need a text side and labels."""
        if not source.reads_text:
            return f"{source.name} has no text side"
        return without_labels(tests)

    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Plan one cell: nothing is trained."""
        return once(head_seeds)

    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Depend on the prompts."""
        pairs = pairs_of(tests, setting)
        return [dict(setting), [asdict(pair) for pair in pairs]]

    def do(self, work: Work) -> Found:
        """Embed the prompts and compare them with every picture."""
        embed = work.pictures.encoder.embed_texts
        assert embed is not None  # planned only for sources with a text side
        found = work.pictures.embeddings
        pairs = pairs_of(work.tests, work.setting)
        validate, test = sound_test(work.tests, found)
        scored = zeroshot(embed, pairs, part(found, validate), part(found, test))
        overlays = list(_overlays(work, pairs, test, scored))
        facts = {
            "prompts": {pair.label: asdict(pair) for pair in pairs},
            "overlays": [[key, words] for key, words, _ in overlays],
        }
        answered = found_labels(work, test, scored, facts=facts, damaged=found.damaged)
        return replace(answered, files={f"{key}.png": data for key, _, data in overlays})


def _overlays(
    work: Work, pairs: Sequence[Pair], test: Samples, scored: Scored
) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, words and similarity map of some films, where the encoder embeds places.

    Of the labels with most cases, the case that was scored highest, then the highest of the others.
    """
    encoder, tests = work.pictures.encoder, work.tests
    if encoder.embed_places is None or encoder.embed_texts is None:
        return
    reader, keys = tests.reader(), tests.shards.column("key")
    places = Places(
        encoder=encoder,
        reader=reader,
        ensembles=embed_pairs(encoder.embed_texts, pairs),
        workers=work.options.workers,
    )
    for film, label in shown_films(test.targets, scored.scores):
        ordinal = int(test.ordinals[film])
        ((_, margin_1Lhw),) = places.margins(test.ordinals[film : film + 1])
        picture_HW = stored_picture(reader, ordinal)
        margin_HW = spread(margin_1Lhw[:, label], picture_HW.shape)[0]
        share_HW = share_of(margin_HW, margin_HW.min(), margin_HW.max())
        present = "present" if test.targets[film, label] else "absent"
        words = f"{tests.labels[label]}: {present}, score {scored.scores[film, label]:.3f}"
        yield str(keys[ordinal]), words, to_png(tinted(picture_HW, share_HW))


def shown_films(target_NL: Floats, score_NL: Floats) -> Iterator[tuple[int, int]]:
    """Yield film and label of the pictures to show, each film once, see `_overlays`."""
    cases_L = np.nansum(target_NL, axis=0)
    seen: set[int] = set()
    for label in np.argsort(-cases_L, kind="stable")[:SHOWN].tolist():
        for target in (1, 0):
            films = np.flatnonzero(target_NL[:, label] == target)
            ordered = films[np.argsort(-score_NL[films, label], kind="stable")].tolist()
            film = next((film for film in ordered if film not in seen), None)
            if film is not None:
                seen.add(film)
                yield film, label


def pairs_of(tests: TestSet, setting: Mapping[str, Any]) -> tuple[Pair, ...]:
    """Return the pairs of the set's own prompts, or the plain templates where a protocol has them.

    `prompts: template` in the setting stands for the latter.
    """
    own = setting.get("prompts") != TEMPLATE
    return prompts_for(tests.names if own else (), tests.labels)


def pair_scores(image_ND: Floats, positive_LD: Floats, negative_LD: Floats) -> Floats:
    """Return the softmax share [N, L] of the positive prompt; all rows are unit vectors."""
    margin_NL = image_ND @ (positive_LD - negative_LD).T
    share_NL: Floats = 1 / (1 + np.exp(-margin_NL))
    return share_NL


def embed_pairs(embed: Embed, pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    """Return the ensembles of positive and of negative prompts [L, D], unit rows."""
    texts = sorted({text for pair in pairs for text in pair.positive + pair.negative})
    row = {text: i for i, text in enumerate(texts)}
    text_PD = unit(embed(texts))
    positive_LD, negative_LD = (
        unit(np.stack([text_PD[[row[text] for text in prompts]].mean(axis=0) for prompts in side]))
        for side in ([pair.positive for pair in pairs], [pair.negative for pair in pairs])
    )
    return positive_LD, negative_LD


def unit(x_ND: Floats) -> Floats:
    """Return rows of length one, in float64; a zero row stays zero."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    unit_ND: Floats = np.divide(x_ND, length_N1, out=np.zeros_like(x_ND), where=length_N1 > 0)
    return unit_ND


def zeroshot(embed: Embed, pairs: Sequence[Pair], validate: Part, test: Part) -> Scored:
    """Score the test images; `validate` settles the rest. Features are image embeddings."""
    ensembles = embed_pairs(embed, pairs)
    score_NL = pair_scores(unit(validate.features), *ensembles)
    return Scored(
        scores=pair_scores(unit(test.features), *ensembles),
        settled=settle_tempered(validate.targets, score_NL),
        skipped={},
    )
