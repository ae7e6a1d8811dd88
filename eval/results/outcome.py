"""What came of a call of `imitate eval`: the tables it prints, and the one document of `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..statistics.lines import statistics_text
from ..table import render
from .beside import by_set, side_by_side


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it: the content of each results.json, and where each lies.

    `tables` are the files of the tables over all sets, where all were evaluated.
    """

    dataset: str
    documents: Sequence[Mapping[str, Any]]
    paths: Sequence[Path]
    samples: int
    tables: Sequence[Path] = ()

    def as_text(self) -> str:
        """Return a table of all encoders for each set, and where everything is."""
        place = dict(zip(map(id, self.documents), self.paths, strict=True))
        parts = []
        for together in by_set(self.documents):
            paths = [place[id(document)] for document in together]
            document = side_by_side(together)
            where = "".join(f"results and predictions: {path}\n" for path in paths)
            parts.append(f"{render(document)}\n{statistics_text(document, paths)}{where}")
        return "\n".join([*parts, *(f"table of all sets: {path}" for path in self.tables)])

    @property
    def damaged(self) -> list[str]:
        """Keys of the samples that were left out because they are damaged."""
        return sorted({key for document in self.documents for key in document["damaged"]})

    def as_json(self) -> dict[str, Any]:
        """Return the one document of `--json`: the rows of every encoder and set together."""
        documents = self.documents
        return {
            "dataset": self.dataset,
            "protocols": sorted({document["protocol"] for document in documents}),
            "phantom": any(document["phantom"] for document in documents),
            "encoders": list(dict.fromkeys(doc["encoder"]["name"] for doc in documents)),
            "paths": [str(path) for path in self.paths],
            "tables": [str(path) for path in self.tables],
            "damaged": len(self.damaged),
            "rows": [row for document in documents for row in document["rows"]],
        }
