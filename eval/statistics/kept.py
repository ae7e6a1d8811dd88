"""A written evaluation, read back: what each of its cells answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...contract import InputError
from ...files import blake3_file, digest_of, read_json, read_rows, read_table
from ...schema import DETECTIONS, PREDICTIONS, REGIONS, RETRIEVALS, Table
from ..metrics import Settled
from ..retrieval.ranks import Ranks
from .answers import Answers
from .evidence import Boxes, Evidence, Masks

PLACE = ("encoder", "task", "protocol", "fraction", "draw", "head_seed")
TODO = "evaluate again: imitate eval"
Kind = tuple[Table, Callable[[list[dict[str, Any]]], Evidence]]
KINDS: dict[str, Kind] = {
    "segment": (REGIONS, Masks.of),
    "detect": (DETECTIONS, Boxes.of),
    "ground": (REGIONS, Masks.of),
    "retrieve": (RETRIEVALS, Ranks.of),
}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The folder of an evaluation and the content of its results.json."""

    folder: Path
    document: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Kept:
        """Open an evaluation; InputError when it is not there or a field is missing."""
        document = read_json(folder / "results.json")
        missing = [name for name in ("dataset", "labels", "cells", "rows") if name not in document]
        if missing:
            where = str(folder / "results.json")
            raise InputError(f"the fields {', '.join(missing)} are missing", where=where, todo=TODO)
        return cls(folder=folder, document=document)

    @cached_property
    def predictions(self) -> pa.Table:
        """Every prediction of every cell."""
        return read_table(self.folder / "predictions.parquet", PREDICTIONS)

    @property
    def digest(self) -> str:
        """What all numbers follow from: the predictions, and what was settled before them."""
        names = dict.fromkeys([PREDICTIONS.name, *(table.name for table, _ in KINDS.values())])
        paths = [self.folder / f"{name}.parquet" for name in names]
        hashed = [blake3_file(path) for path in paths if path.is_file()]
        return digest_of([hashed, self.document["dataset"], self.document["cells"]])

    @cached_property
    def answered(self) -> list[tuple[Mapping[str, Any], Answers]]:
        """Each cell that scored labels, and its answers."""
        cells = (told for told in self.document["cells"] if "settled" in told)
        return [(told["cell"], self._answers(told)) for told in cells]

    @cached_property
    def evidence(self) -> list[tuple[Mapping[str, Any], Evidence]]:
        """Each cell that can be compared with others, and what it found."""
        found: list[tuple[Mapping[str, Any], Evidence]] = [*self.answered]
        for task, (table, kind) in KINDS.items():
            cells = [
                told["cell"] for told in self.document["cells"] if told["cell"]["task"] == task
            ]
            rows = read_rows(self.folder / f"{table.name}.parquet", table) if cells else []
            for cell in cells:
                own = [row for row in rows if all(row[name] == cell[name] for name in PLACE)]
                found.append((cell, kind(own)))
        return found

    def _answers(self, told: Mapping[str, Any]) -> Answers:
        labels = list(self.document["labels"])
        mask = pc.and_kleene(*[_equal(self.predictions, told["cell"], n) for n in PLACE[:2]])
        for name in PLACE[2:]:
            mask = pc.and_kleene(mask, _equal(self.predictions, told["cell"], name))
        rows = self.predictions.filter(mask)
        keys, row_K = np.unique(np.array(rows["key"].to_pylist(), dtype=str), return_inverse=True)
        place = {label: i for i, label in enumerate(labels)}
        label_K = np.array([place[label] for label in rows["label"].to_pylist()], dtype=np.int64)
        target_NL = np.full((len(keys), len(labels)), np.nan)
        score_NL = target_NL.copy()
        target_NL[row_K, label_K] = rows["target"].to_numpy()
        score_NL[row_K, label_K] = rows["score"].to_numpy()
        subjects = dict(zip(rows["key"].to_pylist(), rows["subject_id"].to_pylist(), strict=True))
        samples = [(str(key), subjects[key]) for key in keys]
        settled = [Settled(**told["settled"][label]) for label in labels]
        exclusive = told.get("exclusive", False)
        return Answers.of(labels, samples, target_NL, score_NL, settled, exclusive=exclusive)


def _equal(table: pa.Table, cell: Mapping[str, Any], name: str) -> Any:
    return pc.equal(table[name], pa.scalar(cell[name], type=table[name].type))
