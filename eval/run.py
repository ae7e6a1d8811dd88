"""One evaluation: an encoder and its control, the tasks of a set, and what is written.

    runs/<name>/eval/<dataset>/
        results.csv  results.json  predictions.parquet   what the evaluations so far have found
        <task>/<cell>/…                                  other files that a task keeps
        cells/<state>/<task>-<state>/<cell>.json + …     finished parts; a rerun goes on from them
        features/<state>/*.npy                           what the encoders say of every picture

`state` is a digest of what all cells, or all features, depend on: data, encoder and version, and
below it what the cells of a task depend on. What belongs to another state is removed. A second
reading of a set has a folder of its own beside that of the first, and takes the features there.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import __version__
from ..contract import UsageError
from ..files import digest_of, safe_name
from ..train.bound import pick_device
from ..work import LOCK, Interrupts, alone
from .encoders.crew import Crew
from .encoders.encoder import Encoder, Source
from .encoders.features import Pictures
from .encoders.metadata import DIGEST, NoPixels
from .protocols.setting import Setting, at_fraction, read_setting
from .results.record import Record, forget_others
from .table import CONTROLS, NO_PIXELS, RANDOM, Cell
from .tasks.registry import TASKS
from .tasks.task import SEED, EvalOptions, Task, Work
from .testset import TestSet


class Evaluation:
    """The evaluation of one encoder on one set, in one folder."""

    def __init__(
        self,
        source: Source,
        tests: TestSet,
        folder: Path,
        options: EvalOptions,
        crew: Crew | None = None,
    ) -> None:
        if source.name in CONTROLS:
            raise UsageError(
                f"{source.name} is the name of a control", todo="rename the run or file"
            )
        self.source, self.tests, self.folder, self.options = source, tests, folder, options
        self.crew = crew or Crew()
        seen = [tests.identity, source.digest]
        self.home = folder.with_name(safe_name(tests.shards.name)) if tests.reading else folder
        self.features = self.home / "features" / digest_of(seen)[:16]
        self.settings = {name: read_setting(tests.protocol, name, tests.archive) for name in TASKS}
        self.record = Record(
            folder,
            state=[__version__, SEED, tests.protocol, *seen],
            tasks={
                name: task.state(tests, setting)
                for name, task in TASKS.items()
                if (setting := self.settings[name]) is not None
            },
        )

    def cells(self) -> list[Cell]:
        """Return the cells that the options ask for, in the order of the table.

        Cells of a control carry its seed as pre-training seed and as head seed: the tables have
        no other column that tells one control's predictions from another's. Raises UsageError
        when nothing of what is asked can be done.
        """
        tasks = [TASKS[name] for name in self.options.tasks if name not in self.left_out]
        if not tasks:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise UsageError(f"nothing to evaluate: {why}", todo="choose another --task or encoder")
        controls = range(self.options.seeds if self.options.control else 0)
        cells = [
            cell for seed in (None, *controls) for task in tasks for cell in self._plan(task, seed)
        ]
        return [*cells, *self._without_pixels(cells)]

    def _without_pixels(self, cells: Sequence[Cell]) -> Iterator[Cell]:
        """Yield the control without pixels beside each linear cell of the encoder."""
        if self.options.control:
            for cell in cells:
                if cell.task == "linear" and cell.encoder not in CONTROLS:
                    yield replace(cell, encoder=NO_PIXELS, run_digest=DIGEST, pretrain_seed=None)

    @cached_property
    def left_out(self) -> dict[str, str]:
        """The tasks asked for that cannot be done, each with the reason."""
        reasons = {name: self._why_not(TASKS[name]) for name in self.options.tasks}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def _why_not(self, task: Task) -> str | None:
        if self.settings[task.name] is None:
            return f"the protocol {self.tests.protocol} does not say how"
        return task.why_not(self.source, self.tests)

    def _plan(self, task: Task, seed: int | None) -> Iterator[Cell]:
        """Yield the cells of a task: of the encoder, or of the control with this seed."""
        source = self.source
        for place in task.places(self.options, [seed] if seed is not None else self._seeds):
            yield Cell(
                encoder=source.name if seed is None else RANDOM,
                run_digest=source.digest if seed is None else source.control_digest(seed),
                pretrain_seed=source.seed if seed is None else seed,
                task=task.name,
                fraction=place.fraction,
                draw=place.draw,
                head_seed=place.head_seed,
                protocol=self.tests.protocol,
            )

    @property
    def _seeds(self) -> list[int]:
        return list(range(self.options.seeds))

    def run(
        self, facts: Mapping[str, Any], interrupts: Interrupts, *, resume: bool = True
    ) -> dict[str, Any]:
        """Do what is not done yet, write the results, and return the content of results.json.

        `facts` go into the document as they are. Without `resume` all is done anew, and what other
        calls have found is dropped. Several ranks share the pictures, then the cells; the first
        one writes what belongs to all. Raises Stopped between two cells, or two chunks of
        features, after a signal; what is finished stays. UsageError while another process does
        the same.
        """
        crew, wanted = self.crew, self.cells()
        doing = "evaluating this encoder on this set"
        with alone(self.home, doing) if crew.first else contextlib.nullcontext():
            if crew.first:
                if not resume:
                    _empty(self.folder)
                forget_others(self.features)
                self.record.forget_others()
            crew.meet()
            missing = [cell for cell in wanted if not self.record.has(cell)]
            crew.meet()  # none may commit a cell that another has not looked at yet
            self._do_all(missing, interrupts)
            crew.meet()
            known = {
                "dataset": self.tests.name,
                "reading": self.tests.reading,
                "shards": self.tests.shards.name,
                "dataset_digest": self.tests.shards.digest,
                "protocol": self.tests.protocol,
                "norm": self.tests.norm,
                "labels": list(self.tests.labels),
                "encoder": {"name": self.source.name, "digest": self.source.digest},
            }
            document = self.record.assemble(known | dict(facts), write=crew.first)
            crew.meet()
            return document

    def _do_all(self, missing: Sequence[Cell], interrupts: Interrupts) -> None:
        """Score the cells, encoder by encoder, so that each is loaded once."""
        for own in dict.fromkeys(cell.run_digest for cell in missing):
            cells = [cell for cell in missing if cell.run_digest == own]
            pictures = self._pictures(cells[0], interrupts)
            for need in sorted({need for cell in cells for need in TASKS[cell.task].needs}):
                getattr(pictures, need)
            for cell in cells[self.crew.rank :: self.crew.count]:
                interrupts.check()
                self._do(cell, pictures, interrupts)

    def _do(self, cell: Cell, pictures: Pictures, interrupts: Interrupts) -> None:
        work = Work(
            cell=cell,
            tests=self.tests,
            pictures=pictures,
            setting=self._setting(cell),
            options=self.options,
            device=pick_device(self.options.device),
            folder=self.record.unfinished(cell),
            interrupts=interrupts,
        )
        found = TASKS[cell.task].do(work)
        keys = self.tests.shards.column("key")
        self.record.commit(cell, found, damaged=[str(keys[i]) for i in sorted(found.damaged)])

    def _setting(self, cell: Cell) -> Setting:
        setting = self.settings[cell.task]
        assert setting is not None  # planned only where the protocol says how
        return at_fraction(setting, cell.fraction)

    def _pictures(self, cell: Cell, interrupts: Interrupts) -> Pictures:
        source, device = self.source, pick_device(self.options.device).type
        control = cell.encoder == RANDOM

        def load() -> Encoder:
            return source.control(cell.head_seed, device) if control else source.load(device)

        kind = NoPixels if cell.encoder == NO_PIXELS else Pictures
        return kind(
            tests=self.tests,
            folder=self.features,
            name=f"{RANDOM}-{cell.head_seed}" if control else "own",
            digest=cell.run_digest,
            load=load,
            crew=self.crew,
            workers=self.options.workers,
            progress=self.options.progress,
            interrupts=interrupts,
        )


def _empty(folder: Path) -> None:
    """Remove what earlier calls have left in a folder, but for the lock that is held there."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
