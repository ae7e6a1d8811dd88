"""A task: which cells it plans for a set and an encoder, and what it does for a cell.

A cell is one set of scores: an encoder, a task, a fraction of the training labels, a draw of it
and a seed of the head. The evaluation (`run.py`) plans the cells of all tasks, has each scored by
its task, commits it, and assembles the committed ones; a task knows nothing of files of results.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import torch

from ...contract import UsageError
from ...schema import RESULTS, Table
from ...work import Interrupts, check_progress
from ..encoders.encoder import Source
from ..encoders.features import Pictures
from ..heads.training import Teacher
from ..table import Cell, Row
from ..testset import Samples, TestSet

SEED = 0  # of label draws and bootstrap; `--draws` and `--seeds` give the variety
Need = Literal["features", "embeddings", "paired"]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What is asked of every encoder.

    `seeds` is the number of heads with newly drawn weights, and of controls. Raises UsageError for
    what cannot be.
    """

    tasks: tuple[str, ...] = ("zeroshot", "linear")
    fractions: tuple[float, ...] = (1.0,)
    draws: int = 1
    seeds: int = 1
    control: bool = True
    device: str = "auto"
    workers: int = 1
    progress: str = "auto"

    def __post_init__(self) -> None:
        check_progress(self.progress)
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise UsageError(
                    f"--fraction {fraction:g} is not a share of the training labels",
                    todo="give a number above 0 and at most 1, such as 0.01",
                )

    def shares(self) -> list[tuple[float, int]]:
        """Return every fraction with each of its draws; the whole has one."""
        return [
            (fraction, draw)
            for fraction in sorted(set(self.fractions))
            for draw in range(self.draws if fraction < 1 else 1)
        ]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a cell stands among the cells of its task and encoder."""

    fraction: float = 0.0
    draw: int = 0
    head_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """One cell to score, and all that a task has for it.

    `setting` is what the protocol says of this task on this set (`eval/protocols`). `folder` is the
    cell's own, for what a later call goes on from, such as finished epochs; it need not exist, and
    is removed when the cell is committed. A long task asks `interrupts.check()` now and then, and
    must give the same bytes whatever `workers`, interruptions and folders are.
    """

    cell: Cell
    tests: TestSet
    pictures: Pictures
    setting: Mapping[str, Any]
    options: EvalOptions
    device: torch.device
    folder: Path
    interrupts: Interrupts

    @property
    def teacher(self) -> Teacher:
        """How heads of this cell are trained."""
        return Teacher(
            name=f"{self.cell.encoder} {self.cell.task}",
            seed=self.cell.head_seed,
            folder=self.folder,
            interrupts=self.interrupts,
            progress=self.options.progress,
        )

    def train(self) -> Samples:
        """Return the labelled training samples that this cell may use: its draw of its fraction."""
        return self.tests.fraction("train", self.cell.fraction, draw=self.cell.draw)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a cell.

    `rows` are rows of RESULTS (see `result_row`). `tables` are what was predicted, each a table of
    the schema, PREDICTIONS among them where a label has a score; tables of all cells are joined to
    `<name>.parquet`. `files` are others, such as overlays, by name. `facts` go into the cell's part
    of results.json. `damaged` are ordinals of samples that had to be left out.
    """

    rows: Sequence[Row]
    tables: Sequence[tuple[Table, pa.Table]]
    files: Mapping[str, bytes] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    damaged: frozenset[int] = frozenset()


class Task(abc.ABC):
    """One kind of measurement; it holds no state, so one object serves every evaluation.

    `needs` names what of an encoder is computed once for all cells, on all ranks together, before
    the first of them: `pictures.features`, `.embeddings` or `.paired`.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()

    @abc.abstractmethod
    def why_not(self, source: Source, tests: TestSet) -> str | None:
        """Return why this encoder cannot be measured so on this set; None if it can."""

    @abc.abstractmethod
    def places(self, options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
        """Return the cells of one encoder, in the order of the table.

        `head_seeds` are the seeds of an encoder's heads, a control's own only; a head without a
        draw takes the first.
        """

    @abc.abstractmethod
    def state(self, tests: TestSet, setting: Mapping[str, Any]) -> object:
        """Return all that decides the numbers, besides data, encoder, cell and version, as JSON."""

    @abc.abstractmethod
    def do(self, work: Work) -> Found:
        """Score one cell. Raises Stopped after a signal, InputError when nothing can be scored."""


def once(head_seeds: Sequence[int]) -> list[Place]:
    """Return the one place of a task that trains nothing."""
    return [Place(head_seed=head_seeds[0])]


def by_share(options: EvalOptions, head_seeds: Sequence[int]) -> list[Place]:
    """Return the places of a task that trains heads: every fraction, draw and seed."""
    return [
        Place(fraction=fraction, draw=draw, head_seed=seed)
        for fraction, draw in options.shares()
        for seed in head_seeds
    ]


def result_row(tests: TestSet, cell: Cell, numbers: Mapping[str, Any]) -> Row:
    """Return a row of RESULTS: the cell's columns, and `numbers` by column; others are empty."""
    known = {"dataset": tests.name} | asdict(cell) | dict(numbers)
    return {column: known.get(column) for column in RESULTS.names}
