"""A corpus kept on disk, so that a later start need not read and compare every report again.

Two files beside the embeddings: the numbers as safetensors, and a JSON mark, written last, that
says what they were made from and carries their hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ...contract import InputError
from ...files import atomic, blake3_file, read_json, write_json
from ..network.text import TextEncoder
from .corpus import Corpus, Integers, embeddings_path
from .loss import Section

VERSION = 2  # of `neutral_text`, `normal_form`, `text_of`: another one makes other numbers
PARTS = ("row", "same", "centre")  # what a corpus has by section
FACT = "fact"  # the first word of the names of facts


class SavedCorpus:
    """Where the corpus of some rows of a shard set, read by one encoder, is kept.

    `digest` is that of the shard set, `keys` [n] are those of the rows `ordinals` [n].
    """

    def __init__(
        self,
        *,
        folder: Path,
        digest: str,
        encoder: TextEncoder,
        ordinals: Integers,
        keys: Sequence[str],
        sections: Sequence[Section],
    ) -> None:
        self.ordinals, self.keys, self.sections = ordinals, keys, sections
        self.embeddings = embeddings_path(folder, encoder, sections)
        self.numbers = self.embeddings.with_suffix(".safetensors")
        self.mark = self.numbers.with_name(f"{self.numbers.stem}.corpus.json")
        self.source: dict[str, Any] = {
            "version": VERSION,
            "shards": digest,
            "rows": blake3.blake3(np.asarray(ordinals, "<i8").tobytes()).hexdigest(),
            "sections": list(sections),
        }

    def load(self) -> Corpus | None:
        """Return the corpus, or None when it is not there, damaged, or of something else."""
        try:
            told = read_json(self.mark)
            if told != self._told():
                return None
        except (InputError, OSError):
            return None
        held = load_file(self.numbers)
        row, same, centre = ({s: held[f"{part} {s}"] for s in self.sections} for part in PARTS)
        return Corpus(
            ordinals=self.ordinals,
            keys=tuple(self.keys),
            study=held["study"],
            facts={
                n.removeprefix(f"{FACT} "): a for n, a in held.items() if n.startswith(f"{FACT} ")
            },
            embeddings=np.load(self.embeddings, mmap_mode="r"),
            row=row,
            same=same,
            centre=centre,
        )

    def save(self, corpus: Corpus) -> None:
        """Keep a corpus that was built from whole reports."""
        by_section: dict[str, Mapping[Section, NDArray[Any]]] = {
            part: getattr(corpus, part) for part in PARTS
        }
        arrays = {f"{part} {s}": a for part, found in by_section.items() for s, a in found.items()}
        arrays |= {f"{FACT} {name}": a for name, a in corpus.facts.items()}
        self.mark.unlink(missing_ok=True)
        with atomic(self.numbers) as partial:
            save_file({"study": corpus.study, **arrays}, partial)
        write_json(self.mark, self._told())

    def _told(self) -> dict[str, Any]:
        files = {"numbers": self.numbers, "embeddings": self.embeddings}
        return self.source | {name: blake3_file(path) for name, path in files.items()}
