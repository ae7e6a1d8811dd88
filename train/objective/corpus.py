"""The text side of a training split: distinct texts, their embeddings, and who shares them.

Axes: n samples of the split, T distinct texts, E width of the frozen text embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contract import ImitateError, key_of
from ..network.language.embeddings import embed_cached
from ..network.language.live import Tokens, tokens_of
from ..network.text import Floats, TextEncoder, neutral_text, normal_form
from .loss import Section
from .reports.comparison import without_comparisons
from .reports.facts import Facts, read_facts

Integers = NDArray[np.int64]
_CHUNK = 65_536  # embeddings read from disk at once
PUBLISHED: tuple[Section, ...] = ("impression", "findings")
REPORT: Section = "report"  # Impression and Findings as one text
# what of a sample's JSON is read, beside its texts
FIELDS = ("key", "dataset", "study_id", "view", "metadata", "report_labels")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What training needs of the reports, by a sample's position in the split.

    `embeddings` [T, E] are those of the distinct texts, memory-mapped. By section: `row` [n] is the
    row of a sample's text, −1 where it is missing; `same` [n] is equal for identical texts;
    `centre` [E] is the mean embedding over the samples that have the section. `study` [n] is equal
    for images of one study, `facts` are those of `read_facts`. `ordinals` [n] ascend. `tokens` are
    those of the distinct texts, where an encoder is trained that reads them.
    """

    ordinals: Integers
    keys: tuple[str, ...]
    study: Integers
    facts: Facts
    embeddings: Floats
    row: Mapping[Section, Integers]
    same: Mapping[Section, Integers]
    centre: Mapping[Section, Floats]
    tokens: Tokens | None = None

    def positions(self, ordinals: Integers) -> Integers:
        """Return the positions of samples, given by their ordinals in the shard set.

        Raises ImitateError, a defect of ours, for a sample that is not of this split.
        """
        found = np.searchsorted(self.ordinals, ordinals).clip(max=len(self.ordinals) - 1)
        if not np.array_equal(self.ordinals[found], ordinals):
            raise ImitateError("a batch holds a sample that is not of the training split")
        return found


def fields_of(sections: Sequence[Section]) -> tuple[str, ...]:
    """Return the fields of a sample's JSON that a corpus of these sections reads."""
    own = [s for s in PUBLISHED if s in sections or REPORT in sections]
    others = set(sections) - {*PUBLISHED, REPORT}
    return (*FIELDS, *own, *(["sections"] if others else []))


def text_of(sample: Mapping[str, Any], section: Section) -> str:
    """Return the text of a section for the encoder, empty when it is missing.

    `report` is the Impression followed by the Findings; a text that fills both counts once. Any
    other name but those two is one of the report's own sections.
    """
    if section in PUBLISHED:
        return neutral_text(sample[section])
    if section != REPORT:
        return neutral_text((sample["sections"] or {}).get(section, ""))
    parts = (neutral_text(sample[name]) for name in PUBLISHED)
    return " ".join(dict.fromkeys(part for part in parts if part))


def build_corpus(
    *,
    ordinals: Integers,
    samples: Sequence[Mapping[str, Any]],
    sections: Sequence[Section],
    encoder: TextEncoder,
    folder: Path,
) -> Corpus:
    """Gather the texts of a split and embed each distinct one once.

    `samples` are the JSON documents of the shards in the ascending order of `ordinals`; the
    embeddings are kept in `folder` and made again only when encoder or texts changed.
    """
    texts = {section: [_read(encoder, s, section) for s in samples] for section in sections}
    distinct = sorted({text for part in texts.values() for text in part if text})
    embeddings = embed_cached(encoder, distinct, embeddings_path(folder, encoder, sections))
    number = {text: i for i, text in enumerate(distinct)}
    row = {s: np.array([number.get(t, -1) for t in part], np.int64) for s, part in texts.items()}
    return Corpus(
        ordinals=np.asarray(ordinals, dtype=np.int64),
        keys=tuple(sample["key"] for sample in samples),
        study=_codes([_study(sample) for sample in samples]),
        facts=read_facts(samples),
        embeddings=embeddings,
        row=row,
        same={section: _codes([normal_form(t) for t in part]) for section, part in texts.items()},
        centre={section: _mean(embeddings, rows) for section, rows in row.items()},
        tokens=tokens_of(encoder, distinct) if encoder.config.trainable_layers else None,
    )


def corpus_without_texts(*, ordinals: Integers, samples: Sequence[Mapping[str, Any]]) -> Corpus:
    """Return what is known of samples without their reports; no term can be trained on it."""
    return Corpus(
        ordinals=np.asarray(ordinals, dtype=np.int64),
        keys=tuple(sample["key"] for sample in samples),
        study=_codes([_study(sample) for sample in samples]),
        facts=read_facts(samples),
        embeddings=np.empty((0, 0), np.float32),
        row={},
        same={},
        centre={},
    )


def _read(encoder: TextEncoder, sample: Mapping[str, Any], section: Section) -> str:
    text = text_of(sample, section)
    return without_comparisons(text) if encoder.config.priors == "mask" else text


def _study(sample: Mapping[str, Any]) -> tuple[str, ...]:
    study = sample["study_id"]
    # a sample of no known study is a study of its own
    return (sample["dataset"], study) if study else (sample["key"],)


def embeddings_path(folder: Path, encoder: TextEncoder, sections: Sequence[Section]) -> Path:
    """Return the file of the embeddings of an encoder, one for each choice of texts."""
    name = encoder.digest
    if set(sections) != set(PUBLISHED):
        name += "".join(f"-{safe}" for safe in sorted(key_of(section) for section in sections))
    return folder / f"{name}{'-mask' if encoder.config.priors == 'mask' else ''}.npy"


def _codes(values: Sequence[Any]) -> Integers:
    """Return a number for each value, the same for equal ones."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _mean(embeddings: Floats, rows: Integers) -> Floats:
    """Return the mean embedding over samples, each counted as often as it occurs; 0 for none."""
    counts = np.bincount(rows[rows >= 0], minlength=len(embeddings)).astype(np.float64)
    total = np.zeros(embeddings.shape[1])
    for start in range(0, len(embeddings), _CHUNK):
        part = slice(start, start + _CHUNK)
        total += counts[part] @ embeddings[part].astype(np.float64)
    return np.asarray(total / max(counts.sum(), 1), dtype=np.float32)
