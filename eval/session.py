"""What `imitate eval` does: the encoders asked for, the set, one evaluation after another."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..contract import Folders, InputError, Stopped
from ..files import safe_name, set_private
from ..options import FaultBudget
from ..shards.manifest import ShardSet
from ..shards.reading.remote import open_remote
from ..shards.reading.transfer import is_address
from ..shards.write import options_for, write_shards
from ..work import Interrupts
from .chain import Overlap, Run, choose_run, norm_difference, overlap
from .encoders.encoder import OurModel, Source
from .encoders.foreign import parse_encoder
from .run import EvalOptions, Evaluation
from .table import PROTOCOL, render
from .testset import TestSet, open_testset

PHANTOM = "phantom"  # sets whose name begins so are drawn by `prep/phantoms`


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for."""

    root: Path
    dataset: str
    cache_bytes: int | None = None
    run: str | None
    encoders: tuple[str, ...]
    resume: bool
    budget: FaultBudget
    quiet: bool
    options: EvalOptions


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it: the content of each results.json, and where each lies."""

    dataset: str
    documents: Sequence[Mapping[str, Any]]
    paths: Sequence[Path]
    samples: int

    def as_text(self) -> str:
        """Return the tables, and where everything is."""
        return "\n".join(
            f"{render(document)}\nresults and predictions: {path}\n"
            for document, path in zip(self.documents, self.paths, strict=True)
        )

    @property
    def damaged(self) -> list[str]:
        """Keys of the samples that were left out because they are damaged."""
        return sorted({key for document in self.documents for key in document["damaged"]})

    def as_json(self) -> dict[str, Any]:
        """Return the one document of `--json`: the rows of every encoder together."""
        return {
            "dataset": self.dataset,
            "protocol": PROTOCOL,
            "phantom": self.dataset.startswith(PHANTOM),
            "encoders": [document["encoder"]["name"] for document in self.documents],
            "paths": [str(path) for path in self.paths],
            "damaged": len(self.damaged),
            "rows": [row for document in self.documents for row in document["rows"]],
        }


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An encoder to evaluate, the folder its results belong to, and the run it is of."""

    source: Source
    folder: Path
    run: Run | None


def evaluate_set(request: Request, interrupts: Interrupts) -> Outcome:
    """Evaluate every encoder asked for on one set, and return what was found.

    Raises InputError when the set is not prepared or an encoder is not there, UsageError when an
    encoder has seen the test split, Stopped after a signal.
    """
    if not is_address(request.dataset):
        _check_prepared(request.root, safe_name(request.dataset))
    asked = _encoders(request)
    tests = open_testset(_shards(request, interrupts))
    name = safe_name(tests.shards.name)
    documents, paths = [], []
    for each in asked:
        _set_private(tests, each)
        folder = each.folder / "eval" / name
        facts = _facts(request, tests, each)
        if not request.resume:
            shutil.rmtree(folder, ignore_errors=True)
        evaluation = Evaluation(each.source, tests, folder, request.options)
        try:
            documents.append(evaluation.run(facts, interrupts))
        except Stopped as stopped:
            # the command that goes on must not start anew
            stopped.todo = stopped.todo.replace(" --no-resume", "")
            raise
        paths.append(folder)
    samples = sum(len(part.ordinals) for part in tests.splits.values())
    return Outcome(dataset=name, documents=documents, paths=paths, samples=samples)


def _check_prepared(root: Path, name: str) -> None:
    folders = Folders(root)
    if name not in (*folders.names("prepared"), *folders.names("shards")):
        raise InputError(
            f"{name} is not prepared",
            where=str(folders.prepared(name)),
            todo=f"prepare it first: imitate prep {name} SRC",
        )


def _encoders(request: Request) -> list[_Asked]:
    """Return the run, unless only weights from elsewhere are asked for, and those weights."""
    asked = []
    if request.run is not None or not request.encoders:
        run = choose_run(request.root, request.run)
        _tell(request, f"evaluating run {run.name}, finished {run.finished}")
        source: Source = OurModel(
            run.folder / "model", name=run.name, seed=run.seed, access=run.access
        )
        asked.append(_Asked(source=source, folder=run.folder, run=run))
    for text in request.encoders:
        source = parse_encoder(text)
        name = safe_name(f"encoder-{source.name}-{source.digest[:8]}")
        folder = Folders(request.root).run(name)
        asked.append(_Asked(source=source, folder=folder, run=None))
        if "zeroshot" in request.options.tasks and not source.reads_text:
            _tell(request, f"{source.name} has no text side: linear probe only")
    return asked


def _shards(request: Request, interrupts: Interrupts) -> ShardSet:
    """Return the set's shards, written first if they are missing or out of date."""
    folders, name = Folders(request.root), request.dataset
    if is_address(name):
        kept, quiet = request.cache_bytes, request.quiet
        return open_remote(request.root, name, cache_bytes=kept, quiet=quiet)
    if name in folders.names("prepared"):
        folder = folders.shards(name)
        report = write_shards(
            request.root,
            name,
            options_for(folder, samples=None, size=None, seed=None),
            workers=request.options.workers,
            budget=request.budget,
            interrupts=interrupts,
            progress=request.options.progress,
        )
        report.check(request.budget)
    return ShardSet.open(folders.shards(name))


def _facts(request: Request, tests: TestSet, asked: _Asked) -> dict[str, Any]:
    """Return what a reader of the numbers must know beside them; refuse an overlap."""
    seen = Overlap(training_set=asked.source.name, note="weights from elsewhere do not tell")
    if asked.run is not None:
        seen = overlap(tests, asked.run, request.root)
        for line in norm_difference(tests, asked.run, request.root):
            _tell(request, line)
    _tell(request, str(seen))
    seen.check()
    counts = tests.shards.card.get("prep", {}).get("counts", {})
    return {
        "phantom": tests.shards.name.startswith(PHANTOM),
        "access": _access(tests, asked),
        "overlap": asdict(seen),
        "label_source": counts.get("label_source", {}),
        "image": dict(asked.source.image),
    }


def _access(tests: TestSet, asked: _Asked) -> str:
    return max(tests.shards.access, asked.source.access, key=("open", "credentialed").index)


def _set_private(tests: TestSet, asked: _Asked) -> None:
    for access in (tests.shards.access, asked.source.access):
        set_private(access)


def _tell(request: Request, line: str) -> None:
    if not request.quiet:
        sys.stderr.write(f"{line}\n")
