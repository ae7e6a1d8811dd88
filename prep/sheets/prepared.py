"""A finished prepared set, read to be looked at: its card, its tables, and seeded samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ...contract import InputError, UsageError
from ...files import digest_of, read_json, read_table
from ...schema import MANIFEST, REJECTS

if TYPE_CHECKING:
    import pyarrow as pa

# those of the manifest that a report of a set says something about
COLUMNS = (
    *("key", "subject_id", "study_id", "view", "split", "image", "height", "width", "bits"),
    *("source", "source_height", "source_width", "scale_x", "scale_y", "offset_x", "offset_y"),
    *("norm", "pixel_blake3", "findings", "impression", "section_source"),
    *("labels", "label_source", "boxes", "mask", "report_labels", "metadata"),
)


@dataclass(frozen=True, kw_only=True)
class PreparedSet:
    """A prepared set's card, manifest (`COLUMNS`) and rejects."""

    folder: Path
    card: Mapping[str, Any]
    manifest: pa.Table
    rejects: pa.Table

    @classmethod
    def open(cls, folder: Path) -> PreparedSet:
        """Read a set; InputError when the folder or a table is missing or damaged.

        Raises UsageError for a folder that is no finished prepared set.
        """
        if not folder.is_dir():
            raise InputError("no such folder", where=str(folder))
        if not all((folder / name).is_file() for name in ("card.json", "manifest.parquet")):
            raise UsageError(
                "neither a finished prepared set nor a run",
                where=str(folder),
                todo="give data/prepared/NAME that `imitate prep` has finished, or runs/NAME",
            )
        return cls(
            folder=folder,
            card=read_json(folder / "card.json"),
            manifest=read_table(folder / "manifest.parquet", MANIFEST, COLUMNS),
            rejects=read_table(folder / "rejects.parquet", REJECTS),
        )

    @property
    def rows(self) -> int:
        """Number of prepared films."""
        return int(self.manifest.num_rows)

    def where(self, column: str, value: str | None) -> np.ndarray:
        """Return the rows whose `column` is `value`."""
        data = self.manifest[column]
        mask = pc.is_null(data) if value is None else pc.equal(data, value)
        return np.flatnonzero(np.asarray(pc.fill_null(mask, False)))

    def sample(self, purpose: str, rows: np.ndarray, number: int) -> list[dict[str, Any]]:
        """Return `number` of these rows of the manifest, drawn by the set's seed, in order."""
        chosen = draw(rows, number, seed=digest_of([purpose, self.card["seed"]]))
        found: list[dict[str, Any]] = self.manifest.take(chosen).to_pylist()
        return found

    def rejected(self, reason: str, number: int) -> list[dict[str, Any]]:
        """Return at most `number` rows left out for a reason, evenly spaced among them."""
        places = np.flatnonzero(np.asarray(pc.equal(self.rejects["reason"], reason)))
        steps = np.arange(min(len(places), number), dtype=np.int64)
        found: list[dict[str, Any]] = self.rejects.take(
            places[steps * len(places) // max(len(steps), 1)]
        ).to_pylist()
        return found

    def original(self, source: str) -> Path | None:
        """Return the original of a row where it still lies where it was read."""
        for folder in self.card["run"].get("archive", ()):
            path = Path(folder) / source
            if path.is_file():
                return path
        return None


def draw(rows: np.ndarray, number: int, *, seed: str) -> np.ndarray:
    """Return `number` of `rows`, a function of them and of the seed (hex) alone, in order."""
    draws = np.random.Philox(key=int(seed[:32], 16)).random_raw(len(rows))
    return np.sort(rows[np.argsort(draws, kind="stable")[:number]])


def counts_of(table: pa.Table, *columns: str) -> dict[tuple[Any, ...], int]:
    """Return how many rows have which values in `columns`, the most frequent first."""
    groups = table.select(list(columns)).group_by(list(columns)).aggregate([([], "count_all")])
    rows = zip(*(groups[name].to_pylist() for name in (*columns, "count_all")), strict=True)
    counts = {row[:-1]: int(row[-1]) for row in rows}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], *map(str, item[0]))))


def distinct(column: pa.ChunkedArray) -> int:
    """Return how many values a column has, null not counted."""
    return int(pc.count_distinct(column).as_py())
