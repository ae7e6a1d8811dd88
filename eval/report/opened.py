"""What lies in the folder of a run or of evaluated weights, read to be looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...contract import Access, Folders, InputError, UsageError
from ...files import read_json
from ...shards.manifest import ShardSet
from ...train.logbook import read_metrics
from ..statistics.kept import TODO, Kept
from ..statistics.written import FILE
from ..table import CONTROLS, Row

# of results.json, besides what every reader of it needs
NEEDED = (
    *("archive", "protocol", "norm", "access", "phantom", "dataset_digest", "encoder"),
    *("overlap", "published", "notes", "label_source", "damaged", "reading", "shards"),
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One evaluation: what it found, its statistics, and its shards where they still are."""

    kept: Kept
    statistics: Mapping[str, Any]
    shards: ShardSet | None

    @classmethod
    def of(cls, folder: Path, folders: Folders) -> Opened:
        """Read an evaluation; InputError when it is damaged or of an earlier version."""
        kept = Kept.open(folder)
        if missing := [name for name in NEEDED if name not in kept.document]:
            where = str(folder / "results.json")
            raise InputError(f"the fields {', '.join(missing)} are missing", where=where, todo=TODO)
        path = folder / FILE
        return cls(
            kept=kept,
            statistics=read_json(path) if path.is_file() else {},
            shards=_shards(folders, kept.document["shards"], kept.document["dataset_digest"]),
        )

    @property
    def document(self) -> Mapping[str, Any]:
        """The content of results.json."""
        return self.kept.document

    @property
    def name(self) -> str:
        """What was evaluated: a set, or another reading of its labels."""
        return str(self.document["dataset"])

    @property
    def set(self) -> str:
        """The shard set that was evaluated."""
        return str(self.document["shards"])

    @property
    def rows(self) -> Sequence[Row]:
        """The rows of results.json."""
        rows: Sequence[Row] = self.document["rows"]
        return rows

    @property
    def tasks(self) -> list[str]:
        """The tasks that were measured, in the order of the tables."""
        return list(dict.fromkeys(row["task"] for row in self.rows))

    def cells(self, task: str, *, controls: bool) -> list[Mapping[str, Any]]:
        """Return what results.json tells of the cells of a task that show it best.

        Those of the largest share of labels, its first draw and seed: the encoder's, and with
        `controls` also one of each control.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for told in self.document["cells"]:
            cell = told["cell"]
            own = cell["encoder"] not in CONTROLS
            if cell["task"] == task and (own or controls):
                best = found.setdefault(cell["encoder"], told)
                if cell["fraction"] > best["cell"]["fraction"]:
                    found[cell["encoder"]] = told
        return list(found.values())


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run: its card (empty for weights from elsewhere), its metrics, its evaluations."""

    folder: Path
    card: Mapping[str, Any]
    evaluations: tuple[Opened, ...]

    @classmethod
    def open(cls, folder: Path) -> RunFolder:
        """Read a run; InputError for a damaged one, UsageError for a folder that is none."""
        if not is_run(folder):
            raise UsageError(
                "not the folder of a run",
                where=str(folder),
                todo="give a folder below runs/, or of a prepared set below data/prepared",
            )
        card = folder / "card.json"
        folders = Folders(folder.resolve().parents[1])
        paths = sorted((folder / "eval").glob("*/results.json"))
        return cls(
            folder=folder,
            card=read_json(card) if card.is_file() else {},
            evaluations=tuple(Opened.of(path.parent, folders) for path in paths),
        )

    @cached_property
    def sets(self) -> dict[str, Opened]:
        """The first evaluation of each shard set, by its name; a second reading is no other set."""
        found: dict[str, Opened] = {}
        for each in self.evaluations:
            found.setdefault(each.set, each)
        return found

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.resolve().name

    @property
    def trained(self) -> bool:
        """Whether it is a run of `imitate train`, not weights from elsewhere."""
        return (self.folder / "recipe.yaml").is_file()

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one a step; none for weights from elsewhere."""
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def access(self) -> Access:
        """Credentialed as soon as the run or one of its test sets is."""
        told = [self.card.get("access", "open"), *(e.document["access"] for e in self.evaluations)]
        return "open" if set(told) == {"open"} else "credentialed"

    @property
    def phantom(self) -> bool:
        """Whether all that the run was measured on, or else trained on, is phantom data."""
        if self.evaluations:
            return all(each.document["phantom"] for each in self.evaluations)
        return str(self.card.get("dataset", {}).get("name", "")).startswith("phantom")

    @cached_property
    def training(self) -> ShardSet | None:
        """The shards that the run was trained on, where they still are."""
        told = self.card.get("dataset", {})
        folders = Folders(self.folder.resolve().parents[1])
        return _shards(folders, told.get("name"), told.get("digest")) if told else None


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run or of evaluated weights."""
    return (folder / "recipe.yaml").is_file() or any((folder / "eval").glob("*/results.json"))


def _shards(folders: Folders, name: object, digest: object) -> ShardSet | None:
    """Return the local shards of a set if they are those evaluated; nothing is fetched."""
    with contextlib.suppress(InputError):
        shards = ShardSet.open(folders.shards(str(name)))
        return shards if shards.digest == digest else None
    return None
