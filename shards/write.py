"""From a prepared set to a finished shard set: the plan, a task a shard, the commit."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..contract import Folders, ImitateError, InputError, TooManyFaults
from ..files import digest_of, read_json, set_private, sweep_partials
from ..options import FaultBudget
from ..schema import SCHEMA_VERSION
from ..work import Interrupts, Progress, alone, run_tasks
from .manifest import ShardSet, commit
from .plan import Samples, ShardOptions, plan_shards, scan
from .shard import ShardResult, ShardTask, build_shard
from .source.prepared import Prepared, open_sets

RECORDS = Path(".parts") / "records"  # what the tasks read, while a set is being written
# libraries that make the bytes
LIBRARIES = ("webdataset", "pyarrow", "numpy", "blake3", "opencv-python-headless")
NO_FAULTS = FaultBudget(number=0)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What became of one set; `digest` is None for a dry run, `fresh` if it was up to date.

    `written` names the shards that this run wrote; the others were there and whole.
    """

    dataset: str
    samples: int
    shards: int
    bytes: int
    digest: str | None
    path: Path
    seconds: float
    rejected: Mapping[str, int]
    has_text: bool
    fresh: bool
    written: tuple[str, ...] = ()

    def check(self, budget: FaultBudget) -> None:
        """Raise TooManyFaults when more samples were damaged than the budget allows."""
        faults = sum(self.rejected.values())
        budget.check(faults, self.samples + faults)


def options_for(
    folder: Path,
    *,
    samples: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    codec: str | None = None,
) -> ShardOptions:
    """Return the options asked for; what is None stays as the set in `folder` has it."""
    options = asdict(ShardOptions())
    with contextlib.suppress(ImitateError):
        options |= read_json(folder / "dataset.json").get("options", {})
    asked = {"samples": samples, "bytes": size, "seed": seed, "codec": codec}
    options |= {name: value for name, value in asked.items() if value is not None}
    try:
        return ShardOptions(**options)
    except TypeError:
        raise InputError("the card is damaged", where=str(folder / "dataset.json")) from None


def sources_of(root: Path, name: str) -> list[str]:
    """Return the prepared sets of a shard set: that of its name, or those it was joined from."""
    folders = Folders(root)
    if not folders.prepared(name).is_dir():
        with contextlib.suppress(ImitateError, KeyError):
            return list(read_json(folders.shards(name) / "dataset.json")["source"]["sets"])
    return [name]


def plan_set(
    root: Path, name: str, options: ShardOptions, *, sets: Sequence[str] = ()
) -> ShardReport:
    """Return what `write_shards` would do, and write nothing."""
    start = time.monotonic()
    samples = scan(open_sets(Folders(root), sets or [name]), None, options)
    plans = plan_shards(samples, options)
    return ShardReport(
        dataset=name,
        samples=len(samples.size),
        shards=len(plans),
        bytes=sum(plan.bytes for plan in plans),
        digest=None,
        path=Folders(root).shards(name),
        seconds=time.monotonic() - start,
        rejected={},
        has_text=samples.has_text,
        fresh=False,
    )


def write_shards(
    root: Path,
    name: str,
    options: ShardOptions,
    *,
    sets: Sequence[str] = (),
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = True,
    suspect: bool = False,
    budget: FaultBudget = NO_FAULTS,
    interrupts: Interrupts | None = None,
    progress: str = "none",
) -> ShardReport:
    """Write the shards of a prepared set, or find them up to date.

    With `sets`, those prepared sets are joined into one shard set `name`. A set that looks whole
    is up to date; a `suspect` one is read to the last byte, and its damaged shards made again.
    Damaged samples are left out, listed in rejects.parquet and counted in the report; the caller
    ends with `report.check(budget)`. A set with more of them than `budget` is never up to date,
    so that a repaired picture is found by the next run.
    """
    start = time.monotonic()
    folders = Folders(root)
    prepared, folder = open_sets(folders, sets or [name]), folders.shards(name)
    set_private(prepared.access)
    card = _finished(folder, prepared) if resume and not suspect else None
    if card is not None and card["options"] == asdict(options) and _within(card, budget):
        return _report(card, folder, time.monotonic() - start, fresh=True)
    with alone(folder, "writing these shards"):
        records = folder / RECORDS
        records.parent.mkdir(exist_ok=True)
        with records.open("wb") as handle:
            samples = scan(prepared, handle, options)
        tasks = _tasks(prepared, folder, samples, options, resume=resume)
        workers = min(workers, len(tasks))
        building = run_tasks(
            build_shard, tasks, workers=workers, scheduler=scheduler, interrupts=interrupts
        )
        with Progress(f"shard {name}", len(samples.size), progress) as bar:
            results = _in_order(tasks, building, bar)
        card = {"dataset": name} | _card(prepared, samples, options, results)
        commit(folder, card, results, {"workers": workers, "seconds": time.monotonic() - start})
        shutil.rmtree(records.parent)
        sweep_partials(folder)
    written = tuple(result.name for result in results if result.name and not result.kept)
    return _report(card, folder, time.monotonic() - start, fresh=False, written=written)


def _in_order(
    tasks: Sequence[ShardTask], building: Iterable[ShardResult], bar: Progress
) -> list[ShardResult]:
    """Return the results in the order of their tasks, however they come in."""
    done: dict[str, ShardResult] = {}
    for result in building:
        done[result.stem] = result
        bar.advance(result.samples + len(result.rejects))
    return [done[task.stem] for task in tasks]


def _tasks(
    prepared: Prepared, folder: Path, samples: Samples, options: ShardOptions, *, resume: bool
) -> list[ShardTask]:
    return [
        ShardTask(
            folder=folder,
            prepared=prepared.folder,
            records=folder / RECORDS,
            places=np.stack([samples.first[plan.rows], samples.length[plan.rows]], axis=1),
            stem=plan.stem,
            start=plan.start,
            access=prepared.access,
            kind=options.kind,
            resume=resume,
        )
        for plan in plan_shards(samples, options)
    ]


def _finished(folder: Path, prepared: Prepared) -> Mapping[str, Any] | None:
    """Return the card of a whole shard set of this prepared set, or None."""
    try:
        card = ShardSet.open(folder).card
    except InputError:
        return None
    return card if card["source"]["digest"] == prepared.digest else None


def _within(card: Mapping[str, Any], budget: FaultBudget) -> bool:
    faults = sum(card["rejected"].values())
    try:
        budget.check(faults, faults + card["samples"])
    except TooManyFaults:
        return False
    return True


def _card(
    prepared: Prepared,
    samples: Samples,
    options: ShardOptions,
    results: Sequence[ShardResult],
) -> dict[str, Any]:
    """Return the card, all but what the tables decide; InputError when no sample is left."""
    whole = [result for result in results if result.name]
    if not whole:
        raise InputError(
            "every picture of the prepared set is missing or damaged",
            where=str(prepared.folder),
            todo="prepare the set again",
        )
    prep = {name: value for name, value in prepared.card.items() if name != "run"}
    rejected = Counter(reject["reason"] for result in results for reject in result.rejects)
    return {
        "schema_version": SCHEMA_VERSION,
        "access": prepared.access,
        "samples": sum(result.samples for result in whole),
        "shards": len(whole),
        "bytes": sum(result.bytes for result in whole),
        "rejected": dict(rejected),
        "has_text": samples.has_text,
        "options": asdict(options),
        "source": {"digest": prepared.digest, "card": digest_of(prep), "sets": prepared.names},
        "prep": prep,
        "versions": {"imitate": __version__} | {name: version(name) for name in LIBRARIES},
    }


def _report(
    card: Mapping[str, Any],
    folder: Path,
    seconds: float,
    *,
    fresh: bool,
    written: tuple[str, ...] = (),
) -> ShardReport:
    names = ("dataset", "samples", "shards", "bytes", "digest", "rejected", "has_text")
    shared = {name: card[name] for name in names}
    return ShardReport(path=folder, seconds=seconds, fresh=fresh, written=written, **shared)
