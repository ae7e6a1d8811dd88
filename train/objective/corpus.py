"""The text side of a training split: distinct texts, their embeddings, and who shares them.

Axes: n samples of the split, T distinct texts, E width of the frozen text embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contract import ImitateError
from ..network.text import Floats, TextEncoder, embed_cached, neutral_text, normal_form
from .loss import Section

Integers = NDArray[np.int64]
_CHUNK = 65_536  # embeddings read from disk at once


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What training needs of the reports, by a sample's position in the split.

    `embeddings` [T, E] are those of the distinct texts, memory-mapped. By section: `row` [n] is the
    row of a sample's text, −1 where it is missing; `same` [n] is equal for identical texts;
    `centre` [E] is the mean embedding over the samples that have the section. `study` [n] is equal
    for images of one study. `ordinals` [n] ascend.
    """

    ordinals: Integers
    keys: tuple[str, ...]
    study: Integers
    embeddings: Floats
    row: Mapping[Section, Integers]
    same: Mapping[Section, Integers]
    centre: Mapping[Section, Floats]

    def positions(self, ordinals: Integers) -> Integers:
        """Return the positions of samples, given by their ordinals in the shard set.

        Raises ImitateError, a defect of ours, for a sample that is not of this split.
        """
        found = np.searchsorted(self.ordinals, ordinals).clip(max=len(self.ordinals) - 1)
        if not np.array_equal(self.ordinals[found], ordinals):
            raise ImitateError("a batch holds a sample that is not of the training split")
        return found


def text_of(sample: Mapping[str, Any], section: Section) -> str:
    """Return the text of a section for the encoder, empty when it is missing.

    `report` is the Impression followed by the Findings; a text that fills both counts once.
    """
    if section != "report":
        return neutral_text(sample[section])
    parts = (neutral_text(sample[name]) for name in ("impression", "findings"))
    return " ".join(dict.fromkeys(part for part in parts if part))


def build_corpus(
    *,
    ordinals: Integers,
    samples: Iterable[Mapping[str, Any]],
    sections: Sequence[Section],
    encoder: TextEncoder,
    folder: Path,
) -> Corpus:
    """Gather the texts of a split and embed each distinct one once.

    `samples` are the JSON documents of the shards in the ascending order of `ordinals`; the
    embeddings are kept in `folder` and made again only when encoder or texts changed.
    """
    keys: list[str] = []
    studies: list[tuple[str, ...]] = []
    texts: dict[Section, list[str]] = {section: [] for section in sections}
    for sample in samples:
        keys.append(sample["key"])
        study = sample["study_id"]
        # a sample of no known study is a study of its own
        studies.append((sample["dataset"], study) if study else (sample["key"],))
        for section in sections:
            texts[section].append(text_of(sample, section))
    distinct = sorted({text for part in texts.values() for text in part if text})
    embeddings = embed_cached(encoder, distinct, embeddings_path(folder, encoder, sections))
    number = {text: i for i, text in enumerate(distinct)}
    row = {s: np.array([number.get(t, -1) for t in part], np.int64) for s, part in texts.items()}
    return Corpus(
        ordinals=np.asarray(ordinals, dtype=np.int64),
        keys=tuple(keys),
        study=_codes(studies),
        embeddings=embeddings,
        row=row,
        same={section: _codes([normal_form(t) for t in part]) for section, part in texts.items()},
        centre={section: _mean(embeddings, rows) for section, rows in row.items()},
    )


def embeddings_path(folder: Path, encoder: TextEncoder, sections: Sequence[Section]) -> Path:
    """Return the file of the embeddings of an encoder."""
    name = "-report" if "report" in sections else ""
    return folder / f"{encoder.digest}{name}.npy"


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
