"""From a prepared set to a finished shard set: the plan, a task a shard, the commit."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..contract import (
    SCHEMA_VERSION,
    Folders,
    ImitateError,
    InputError,
    TooManyFaults,
)
from ..files import digest_of, read_json, set_private, sweep_partials
from ..options import FaultBudget
from ..work import Interrupts, Progress, alone, run_tasks
from .manifest import ShardSet, commit
from .plan import Prepared, Samples, ShardOptions, plan_shards, scan
from .shard import ShardResult, ShardTask, build_shard

RECORDS = Path(".parts") / "records"  # what the tasks read, while a set is being written
LIBRARIES = ("webdataset", "pyarrow", "numpy", "blake3")  # those that make the bytes
NO_FAULTS = FaultBudget(number=0)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What became of one set; `digest` is None for a dry run, `fresh` if it was up to date."""

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

    def check(self, budget: FaultBudget) -> None:
        """Raise TooManyFaults when more samples were damaged than the budget allows."""
        faults = sum(self.rejected.values())
        budget.check(faults, self.samples + faults)


def options_for(
    folder: Path, *, samples: int | None, size: int | None, seed: int | None
) -> ShardOptions:
    """Return the options asked for; what is None stays as the set in `folder` has it."""
    options = asdict(ShardOptions())
    with contextlib.suppress(ImitateError):
        options |= read_json(folder / "dataset.json").get("options", {})
    asked = {"samples": samples, "bytes": size, "seed": seed}
    options |= {name: value for name, value in asked.items() if value is not None}
    try:
        return ShardOptions(**options)
    except TypeError:
        raise InputError("the card is damaged", where=str(folder / "dataset.json")) from None


def plan_set(root: Path, name: str, options: ShardOptions) -> ShardReport:
    """Return what `write_shards` would do, and write nothing."""
    start = time.monotonic()
    samples = scan(Prepared.open(Folders(root).prepared(name)), None)
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
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = True,
    budget: FaultBudget = NO_FAULTS,
    interrupts: Interrupts | None = None,
    progress: str = "none",
) -> ShardReport:
    """Write the shards of a prepared set, or find them up to date.

    Damaged samples are left out, listed in rejects.parquet and counted in the report; the caller
    ends with `report.check(budget)`. A set with more of them than `budget` is never up to date,
    so that a repaired picture is found by the next run.
    """
    start = time.monotonic()
    folders = Folders(root)
    prepared, folder = Prepared.open(folders.prepared(name)), folders.shards(name)
    set_private(prepared.access)
    card = _finished(folder, prepared) if resume else None
    if card is not None and card["options"] == asdict(options) and _within(card, budget):
        return _report(card, folder, time.monotonic() - start, fresh=True)
    with alone(folder, "writing these shards"):
        records = folder / RECORDS
        records.parent.mkdir(exist_ok=True)
        with records.open("wb") as handle:
            samples = scan(prepared, handle)
        tasks = _tasks(prepared, folder, samples, options, resume=resume)
        done: dict[str, ShardResult] = {}
        workers = min(workers, len(tasks))
        with Progress(f"shard {name}", len(samples.size), progress) as bar:
            for result in run_tasks(
                build_shard, tasks, workers=workers, scheduler=scheduler, interrupts=interrupts
            ):
                done[result.stem] = result
                bar.advance(result.samples + len(result.rejects))
        results = [done[task.stem] for task in tasks]
        card = _card(prepared, samples, options, results)
        commit(folder, card, results, {"workers": workers, "seconds": time.monotonic() - start})
        shutil.rmtree(records.parent)
        sweep_partials(folder)
    return _report(card, folder, time.monotonic() - start, fresh=False)


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
        "dataset": prepared.folder.name,
        "access": prepared.access,
        "samples": sum(result.samples for result in whole),
        "shards": len(whole),
        "bytes": sum(result.bytes for result in whole),
        "rejected": dict(rejected),
        "has_text": samples.has_text,
        "options": asdict(options),
        "source": {"digest": prepared.digest, "card": digest_of(prep)},
        "prep": prep,
        "versions": {"imitate": __version__} | {name: version(name) for name in LIBRARIES},
    }


def _report(card: Mapping[str, Any], folder: Path, seconds: float, *, fresh: bool) -> ShardReport:
    names = ("dataset", "samples", "shards", "bytes", "digest", "rejected", "has_text")
    shared = {name: card[name] for name in names}
    return ShardReport(path=folder, seconds=seconds, fresh=fresh, **shared)
