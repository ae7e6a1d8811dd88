"""What `imitate eval` does: the encoders asked for, the set, one evaluation after another."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..contract import Folders, InputError, Stopped, UsageError
from ..files import read_json, safe_name, set_private
from ..options import FaultBudget
from ..prep.commands import app as archives
from ..prep.protocols.protocol import PROTOCOLS
from ..shards.manifest import ShardSet
from ..shards.reading.remote import open_remote
from ..shards.reading.transfer import is_address
from ..shards.write import options_for, write_shards
from ..work import Interrupts
from .chain import Run, choose_run, foreign_overlap, norm_difference, overlap
from .encoders.crew import Crew
from .encoders.encoder import SUPERVISED, OurModel, Source
from .encoders.foreign import parse_encoder
from .encoders.matched import check_matchable
from .results.outcome import Outcome
from .results.papers import write_tables
from .retrieval.queries import has_five_by_200, read_queries
from .run import Evaluation
from .statistics.published import comparable
from .statistics.written import write_statistics
from .tasks.registry import OF_LABELS
from .tasks.retrieve import Retrieve
from .tasks.task import EvalOptions
from .testset import CLEAN, TestSet, open_readings, prepared_under

ALL = "all"  # every prepared set


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for."""

    root: Path
    dataset: str
    protocol: str | None = None
    match_norm: bool = False
    cache_bytes: int | None = None
    runs: tuple[str, ...]
    encoders: tuple[str, ...]
    resume: bool
    budget: FaultBudget
    quiet: bool
    options: EvalOptions


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """An encoder to evaluate, the folder its results belong to, and the run it is of."""

    source: Source
    folder: Path
    run: Run | None


def evaluate_set(request: Request, interrupts: Interrupts, crew: Crew) -> Outcome:
    """Evaluate every encoder asked for on one set, or on all, and return what was found.

    Raises InputError when the set is not prepared or an encoder is not there, UsageError for a
    protocol that there is not or an encoder that has seen the test split, Stopped after a signal.
    """
    root, name, protocol = request.root, request.dataset, request.protocol
    if protocol not in (None, *PROTOCOLS):
        raise UsageError(f"--protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if name != ALL:
        chosen = name if is_address(name) else choose_set(root, safe_name(name), protocol)
        request = replace(request, dataset=chosen)
        return _on_set(request, _encoders(request, crew), interrupts, crew)
    names, asked = all_sets(root, protocol), _encoders(request, crew)
    outcomes = []
    for name in names:
        try:
            outcomes.append(_on_set(replace(request, dataset=name), asked, interrupts, crew))
        except UsageError as error:  # of this set, such as one that the encoder has seen
            _tell(request, crew, f"{name} is left out: {error.what}")
    if not outcomes:
        raise UsageError("no prepared set can be evaluated", where=str(root))
    paths = [path for outcome in outcomes for path in outcome.paths]
    folders = list(dict.fromkeys(path.parent for path in paths))
    tables = write_tables(folders, write=crew.first)
    return Outcome(
        dataset=ALL,
        documents=[document for outcome in outcomes for document in outcome.documents],
        paths=paths,
        samples=sum(outcome.samples for outcome in outcomes),
        tables=tables,
    )


def _on_set(
    request: Request, asked: Sequence[_Asked], interrupts: Interrupts, crew: Crew
) -> Outcome:
    """Evaluate every encoder asked for on one set, then on its second reading if it has one."""
    with crew.first_before():
        opened = _shards(request, interrupts)
    first, *others = open_readings(opened)
    if request.protocol not in (None, first.protocol):
        raise UsageError(
            f"{opened.name} was prepared under the protocol {first.protocol}, not "
            f"{request.protocol}",
            todo=f"prepare the archive with --protocol {request.protocol}, and evaluate that set",
        )
    found = _on_reading(request, first, asked, interrupts, crew, only=not others)
    tasks = tuple(task.name for task in OF_LABELS if task.name in request.options.tasks)
    # what stderr says of a set holds for all its readings
    again = replace(request, quiet=True, options=replace(request.options, tasks=tasks))
    for tests in others if tasks else ():
        found |= _on_reading(again, tests, asked, interrupts, crew, only=False)
    if not found:
        raise UsageError(f"nothing to evaluate in {opened.name}", todo="choose another --task")
    return Outcome(
        dataset=safe_name(opened.name),
        documents=list(found.values()),
        paths=list(found),
        samples=sum(len(films) for films in first.films.values()),
    )


def _on_reading(
    request: Request,
    tests: TestSet,
    asked: Sequence[_Asked],
    interrupts: Interrupts,
    crew: Crew,
    *,
    only: bool,
) -> dict[Path, dict[str, Any]]:
    """Evaluate the encoders on one reading of a set; return what each results.json holds.

    An encoder that cannot be measured on it is left out, unless it is the `only` reading.
    """
    found = {}
    for each in asked:
        _set_private(tests, each)
        folder = each.folder / "eval" / safe_name(tests.name)
        matched, facts = _facts(request, tests, each, crew)
        options = _unseen(request, tests, each, crew)
        evaluation = Evaluation(each.source, matched, folder, options, crew)
        missing = evaluation.left_out
        nothing = len(missing) == len(options.tasks)
        if missing and not (nothing and only):  # of which the evaluation itself tells
            told = "; ".join(f"{task}: {why}" for task, why in missing.items())
            _tell(request, crew, f"not measured on {tests.name}: {told}")
        if nothing and not only:
            continue
        try:
            found[folder] = evaluation.run(facts, interrupts, resume=request.resume)
        except Stopped as stopped:
            # the command that goes on must not start anew
            stopped.todo = stopped.todo.replace(" --no-resume", "")
            raise
    if crew.first and found:
        write_statistics(list(found), tests)
    return found


def choose_set(root: Path, name: str, protocol: str | None) -> str:
    """Return the prepared or sharded set of this name and protocol.

    Under another protocol than `clean` an archive's set is called `<archive>-<protocol>`. Raises
    InputError when it is not there.
    """
    folders = Folders(root)
    there = (*folders.names("prepared"), *folders.names("shards"))
    names = [name] if protocol in (None, CLEAN) else [f"{name}-{protocol}", name]
    for each in names:
        if each in there:
            return each
    more = f" --protocol {protocol}" if protocol not in (None, CLEAN) else ""
    todo = f"prepare it first: imitate prep {name} SRC{more}"
    if name not in {command.name for command in archives.registered_commands}:
        known = f"prepared are {', '.join(sorted({*there}))}; " if there else ""
        todo = f"{known}imitate prep --help lists the archives"
    raise InputError(
        f"{names[0]} is not prepared", where=str(folders.prepared(names[0])), todo=todo
    )


def all_sets(root: Path, protocol: str | None) -> list[str]:
    """Return the names of all prepared sets, or of those of a protocol; InputError without one."""
    folders = Folders(root)
    names = [
        name
        for name in folders.names("prepared")
        if protocol in (None, prepared_under(read_json(folders.prepared(name) / "card.json")))
    ]
    if not names:
        raise InputError(
            "no set is prepared" + (f" under the protocol {protocol}" if protocol else ""),
            where=str(folders.root / "data" / "prepared"),
            todo="prepare one first: imitate prep rsna SRC",
        )
    return names


def _encoders(request: Request, crew: Crew) -> list[_Asked]:
    """Return the runs asked for, the newest if nothing is, and the weights from elsewhere."""
    asked = []
    for name in request.runs or (() if request.encoders else (None,)):
        run = choose_run(request.root, name)
        _tell(request, crew, f"evaluating run {run.name}, finished {run.finished}")
        source: Source = OurModel(
            run.folder / "model", name=run.name, seed=run.seed, access=run.access
        )
        asked.append(_Asked(source=source, folder=run.folder, run=run))
    for text in request.encoders:
        source = parse_encoder(text)
        plain = source.name.removesuffix(SUPERVISED)
        folder = Folders(request.root).run(safe_name(f"encoder-{plain}-{source.digest[:8]}"))
        asked.append(_Asked(source=source, folder=folder, run=None))
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


def _facts(
    request: Request, tests: TestSet, asked: _Asked, crew: Crew
) -> tuple[TestSet, dict[str, Any]]:
    """Return the set as this encoder is to see it, and what a reader of the numbers must know.

    Raises UsageError for an overlap under `clean`, and for grey levels that cannot be matched.
    """
    seen = foreign_overlap(tests, asked.source)
    differs = None
    if asked.run is not None:
        seen = overlap(tests, asked.run, request.root)
        differs = norm_difference(tests, asked.run, request.root)
    if differs and request.match_norm:
        check_matchable(differs.trained, differs.tested)
        tests = replace(tests, norm=differs.trained)
    elif differs:
        _tell(request, crew, f"{differs}; --match-norm brings them nearer")
    _tell(request, crew, str(seen))
    if tests.protocol == CLEAN:
        seen.check()
    prepared = tests.shards.card.get("prep", {})
    return tests, {
        "archive": tests.archive,
        "phantom": tests.phantom,
        "access": _access(tests, asked),
        "overlap": asdict(seen),
        "notes": list(prepared.get("notes", [])),
        "label_source": prepared.get("counts", {}).get("label_source", {}),
        "image": dict(asked.source.image),
        "published": [asdict(number) for number in comparable(tests)],
    }


def _unseen(request: Request, tests: TestSet, asked: _Asked, crew: Crew) -> EvalOptions:
    """Return the options, under `clean` without retrieval in films that the run was trained on.

    The films of 5x200 are of the archive's training list. UsageError when nothing else is asked.
    """
    options = request.options
    others = tuple(task for task in options.tasks if task != Retrieve.name)
    if asked.run is None or len(others) == len(options.tasks) or not has_five_by_200(tests):
        return options
    films = {**tests.films, "test": read_queries(tests).ordinals}
    seen = overlap(replace(tests, films=films), asked.run, request.root)
    try:
        if tests.protocol == CLEAN:
            seen.check()
    except UsageError as error:
        if not others:
            raise
        _tell(request, crew, f"no retrieval in 5x200: {error.what}")
        return replace(options, tasks=others)
    return options


def _access(tests: TestSet, asked: _Asked) -> str:
    return max(tests.shards.access, asked.source.access, key=("open", "credentialed").index)


def _set_private(tests: TestSet, asked: _Asked) -> None:
    for access in (tests.shards.access, asked.source.access):
        set_private(access)


def _tell(request: Request, crew: Crew, line: str) -> None:
    if not request.quiet and crew.first:
        sys.stderr.write(f"{line}\n")
