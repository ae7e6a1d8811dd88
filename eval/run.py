"""One evaluation: an encoder and its control, the tasks of a labelled set, and what is written.

    runs/<name>/eval/<dataset>/
        results.csv  results.json  predictions.parquet   what the evaluations so far have found
        cells/<state>/<cell>.json + .parquet             finished parts; a rerun goes on from them
        features/<state>/*.npy                           what the encoders say of every picture

`state` is a digest of what all cells, or all features, depend on: data and encoder, for cells also
prompts and version. What belongs to another state is out of date and is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from .. import __version__
from ..contract import InputError, UsageError
from ..files import (
    blake3_file,
    digest_of,
    read_json,
    read_table,
    sweep_partials,
    write_json,
    write_table,
    write_text,
)
from ..schema import PREDICTIONS
from ..train.run import pick_device
from ..work import Interrupts, alone
from .encoders.encoder import Encoder, Source
from .encoders.features import Features, Pictures
from .linear import GRID, probe
from .metrics import Part
from .table import PROTOCOL, Cell, prediction_table, result_rows, to_csv
from .testset import Samples, TestSet, subset
from .zeroshot import prompts_for, zeroshot

SEED = 0  # of label draws and bootstrap; `--draws` and `--seeds` give the variety
TASKS = ("zeroshot", "linear")
CONTROL = "random"


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What is asked of every encoder.

    `seeds` is the number of controls, each with newly drawn weights; the linear head is convex and
    has no seed. Raises UsageError for what cannot be.
    """

    tasks: tuple[str, ...] = TASKS
    fractions: tuple[float, ...] = (1.0,)
    draws: int = 1
    seeds: int = 1
    control: bool = True
    device: str = "auto"
    workers: int = 1
    progress: str = "auto"

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise UsageError(
                    f"--fraction {fraction:g} is not a share of the training labels",
                    todo="give a number above 0 and at most 1, such as 0.01",
                )


def cells_of(source: Source, tests: TestSet, options: EvalOptions) -> list[Cell]:
    """Return the cells that the options ask of an encoder, in the order of the table.

    Cells of a control carry its seed as pre-training seed and as head seed: the tables have no
    other column that tells one control's predictions from another's. Raises UsageError when
    nothing of what is asked can be done.
    """
    seeds = [None, *range(options.seeds if options.control else 0)]
    cells = [cell for seed in seeds for cell in _cells(source, tests, options, seed=seed)]
    if not cells:
        reasons = {
            "zeroshot": f"{source.name} has no text side",
            "linear": f"{tests.shards.name} has no labelled training split",
        }
        why = "; ".join(f"{task}: {reasons[task]}" for task in options.tasks)
        raise UsageError(f"nothing to evaluate: {why}", todo="choose another --task or encoder")
    return cells


def _cells(
    source: Source, tests: TestSet, options: EvalOptions, *, seed: int | None
) -> Iterator[Cell]:
    known = Cell(
        encoder=source.name if seed is None else CONTROL,
        run_digest=source.digest if seed is None else source.control_digest(seed),
        pretrain_seed=source.seed if seed is None else seed,
        task="zeroshot",
        fraction=0.0,
        draw=0,
        head_seed=seed or 0,
    )
    if "zeroshot" in options.tasks and source.reads_text:
        yield known
    if "linear" in options.tasks and len(tests.splits["train"].ordinals):
        for fraction in sorted(set(options.fractions)):
            for draw in range(options.draws if fraction < 1 else 1):
                yield replace(known, task="linear", fraction=fraction, draw=draw)


class Evaluation:
    """The evaluation of one encoder on one set, in one folder."""

    def __init__(self, source: Source, tests: TestSet, folder: Path, options: EvalOptions) -> None:
        if source.name == CONTROL:
            raise UsageError(f"{CONTROL} is the name of the control", todo="rename the run or file")
        self.source, self.tests, self.folder, self.options = source, tests, folder, options
        self.pairs = prompts_for(tests.names, tests.labels)
        state = {
            "version": __version__,
            "dataset": tests.shards.digest,
            "encoder": source.digest,
            "prompts": [asdict(pair) for pair in self.pairs],
            "grid": GRID,
            "seed": SEED,
        }
        self.cells = folder / "cells" / digest_of(state)[:16]
        seen = [tests.shards.digest, source.digest]
        self.features = folder / "features" / digest_of(seen)[:16]

    def run(self, facts: Mapping[str, Any], interrupts: Interrupts) -> dict[str, Any]:
        """Do what is not done yet, write the results, and return the content of results.json.

        `facts` go into the document as they are. Raises Stopped between two cells, or two chunks
        of features, after a signal; what is finished stays.
        """
        wanted = cells_of(self.source, self.tests, self.options)
        with alone(self.folder, "evaluating this encoder on this set"):
            for kept in (self.cells, self.features):
                _forget_others(kept)
            self._do_all([cell for cell in wanted if not self._has(cell)], interrupts)
            return self._assemble(facts)

    def _do_all(self, missing: Sequence[Cell], interrupts: Interrupts) -> None:
        """Score the cells, encoder by encoder, so that each is loaded once."""
        whose = {(cell.encoder, cell.head_seed): cell for cell in missing}
        for encoder, first in whose.items():
            pictures = self._pictures(first, interrupts)
            for cell in missing:
                if (cell.encoder, cell.head_seed) == encoder:
                    interrupts.check()
                    self._do(cell, pictures)

    def _has(self, cell: Cell) -> bool:
        """Tell whether a cell is done; damaged samples may be back, so it is tried again then."""
        mark, table = (self.cells / f"{cell.name}{end}" for end in (".json", ".parquet"))
        if not (mark.is_file() and table.is_file()):
            return False
        told = read_json(mark)
        return bool(told["predictions"] == blake3_file(table) and not told["damaged"])

    def _pictures(self, cell: Cell, interrupts: Interrupts) -> Pictures:
        source, device = self.source, pick_device(self.options.device).type

        def load() -> Encoder:
            if cell.encoder == CONTROL:
                return source.control(cell.head_seed, device)
            return source.load(device)

        return Pictures(
            tests=self.tests,
            folder=self.features,
            name=f"{CONTROL}-{cell.head_seed}" if cell.encoder == CONTROL else "own",
            digest=cell.run_digest,
            load=load,
            workers=self.options.workers,
            progress=self.options.progress,
            interrupts=interrupts,
        )

    def _do(self, cell: Cell, pictures: Pictures) -> None:
        """Score one cell and commit it: its predictions, then its numbers, which mark it done."""
        found = pictures.features if cell.task == "linear" else pictures.embeddings
        validate, test = (found.sound(self.tests.splits[s]) for s in ("validate", "test"))
        if not len(test.ordinals):
            raise InputError(
                "every labelled picture of the test split is damaged", where=self.tests.shards.name
            )
        if cell.task == "linear":
            drawn = subset(self.tests.splits["train"], cell.fraction, seed=SEED, draw=cell.draw)
            parts = [_part(found, samples) for samples in (found.sound(drawn), validate, test)]
            scored = probe(*parts)
        else:
            embed = pictures.encoder.embed_texts
            assert embed is not None  # cells of this task are planned for sources with a text side
            scored = zeroshot(embed, self.pairs, _part(found, validate), _part(found, test))
        whole = replace(self.tests, splits={**self.tests.splits, "test": test})
        table = self.cells / f"{cell.name}.parquet"
        write_table(table, PREDICTIONS, prediction_table(whole, cell, scored))
        labels = self.tests.labels
        mark = {
            "cell": asdict(cell),
            "rows": result_rows(whole, cell, scored, seed=SEED),
            "thresholds": dict(zip(labels, scored.thresholds, strict=True)),
            "skipped": {labels[label]: reason for label, reason in scored.skipped.items()},
            "strength": scored.strength,
            "damaged": sorted(self._keys(found.damaged)),
            "predictions": blake3_file(table),
        }
        write_json(table.with_suffix(".json"), mark)

    def _keys(self, ordinals: frozenset[int]) -> list[str]:
        keys = self.tests.shards.column("key")
        return [str(keys[ordinal]) for ordinal in ordinals]

    def _assemble(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write results and predictions of every finished cell, the table's order everywhere."""
        marks = [read_json(path) for path in self.cells.glob("*.json")]
        marks.sort(key=lambda mark: _place(mark["cell"]))
        names = [Cell(**mark["cell"]).name for mark in marks]
        predictions = [read_table(self.cells / f"{name}.parquet", PREDICTIONS) for name in names]
        told = ("cell", "thresholds", "skipped", "strength")
        document = {
            "dataset": self.tests.shards.name,
            "dataset_digest": self.tests.shards.digest,
            "protocol": PROTOCOL,
            "labels": list(self.tests.labels),
            "prompts": {pair.label: asdict(pair) for pair in self.pairs},
            "encoder": {"name": self.source.name, "digest": self.source.digest},
            "cells": [{name: mark[name] for name in told} for mark in marks],
            "damaged": sorted({key for mark in marks for key in mark["damaged"]}),
            "rows": [row for mark in marks for row in mark["rows"]],
            **facts,
        }
        write_table(self.folder / "predictions.parquet", PREDICTIONS, pa.concat_tables(predictions))
        write_text(self.folder / "results.csv", to_csv(document["rows"]))
        write_json(self.folder / "results.json", document)
        sweep_partials(self.folder)
        return document


def _forget_others(folder: Path) -> None:
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)


def _part(found: Features, samples: Samples) -> Part:
    return Part(features=found.of(samples), targets=samples.targets)


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a cell's place in the table: the encoder first, its controls after it."""
    task = TASKS.index(cell["task"])
    return (cell["encoder"] == CONTROL, task, cell["fraction"], cell["draw"], cell["head_seed"])
