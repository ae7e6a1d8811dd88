"""The commands `imitate shard` and `imitate verify`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..contract import Folders, InputError
from ..options import (
    BEHAVIOUR,
    DryRun,
    FaultBudget,
    Json,
    MaxFailures,
    Progress,
    Quiet,
    Resume,
    Root,
    Scheduler,
    Workers,
    say,
)

if TYPE_CHECKING:
    from .write import ShardReport

Set = Annotated[
    str | None,
    typer.Argument(metavar="SET", help="Prepared set; without it, every one that needs shards."),
]
ShardSamples = Annotated[
    int | None,
    typer.Option(
        "--shard-samples",
        min=1,
        help="Most samples in a shard; as before, else 2048.",
        rich_help_panel=BEHAVIOUR,
    ),
]
ShardBytes = Annotated[
    int | None,
    typer.Option(
        "--shard-bytes",
        min=1,
        help="Most bytes in a shard; as before, else 268435456 (256 MiB).",
        rich_help_panel=BEHAVIOUR,
    ),
]
ShardSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="Seed of the order that fills the shards; as before, else 0.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Deep = Annotated[
    bool,
    typer.Option(
        "--deep", help="Decode every picture and compare its pixels.", rich_help_panel=BEHAVIOUR
    ),
]
Target = Annotated[
    Path, typer.Argument(metavar="PATH", help="Folder of a prepared set or of shards.")
]


def register(app: typer.Typer) -> None:
    """Mount the commands of this stage."""
    app.command("shard")(shard)
    app.command("verify")(verify)


def shard(
    name: Set = None,
    root: Root = Path(),
    shard_samples: ShardSamples = None,
    shard_bytes: ShardBytes = None,
    seed: ShardSeed = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    resume: Resume = True,
    max_failures: MaxFailures = "0",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Write prepared sets as verified WebDataset shards.

    With --json: one object for one set; a list of objects where several sets are prepared and
    none is named.
    """
    from ..files import safe_name
    from ..work import Interrupts
    from .write import options_for, plan_set, write_shards

    budget = FaultBudget.parse(max_failures or "0")
    names = [safe_name(name)] if name else _prepared_sets(root)
    reports: list[ShardReport] = []
    for each in names:
        folder = Folders(root).shards(each)
        options = options_for(folder, samples=shard_samples, size=shard_bytes, seed=seed)
        if dry_run:
            reports.append(plan_set(root, each, options))
            continue
        with Interrupts() as interrupts:
            report = write_shards(
                root,
                each,
                options,
                workers=workers,
                scheduler=scheduler,
                resume=resume,
                budget=budget,
                interrupts=interrupts,
                progress="none" if quiet else progress,
            )
        reports.append(report)
    _say(reports, as_json=as_json)
    for report in reports:
        report.check(budget)


def _prepared_sets(root: Path) -> list[str]:
    names = Folders(root).names("prepared")
    if not names:
        raise InputError(
            "no prepared set to write shards of",
            where=str(Folders(root).prepared("*")),
            todo="prepare one first: imitate prep --help lists the archives",
        )
    return names


def _say(reports: list[ShardReport], *, as_json: bool) -> None:
    if as_json:
        documents = [_document(report) for report in reports]
        typer.echo(json.dumps(documents[0] if len(documents) == 1 else documents, sort_keys=True))
        return
    for report in reports:
        typer.echo(_sentence(report))


def _document(report: ShardReport) -> dict[str, object]:
    return {
        "dataset": report.dataset,
        "samples": report.samples,
        "shards": report.shards,
        "bytes": report.bytes,
        "digest": report.digest,
        "path": str(report.path),
        "seconds": round(report.seconds, 3),
        "rejected": dict(report.rejected),
    }


def _sentence(report: ShardReport) -> str:
    size = f"{report.samples} samples in {report.shards} shards, {report.bytes / 1e6:.1f} MB"
    if report.digest is None:
        return f"{report.dataset}: would write {size} to {report.path}"
    state = "up to date" if report.fresh else "written"
    damaged = sum(report.rejected.values())
    lost = f"; {damaged} damaged samples left out, see rejects.parquet" if damaged else ""
    command = "imitate train" if report.has_text else f"imitate eval {report.dataset}"
    digest = report.digest[:12]
    return f"{report.dataset}: {state}, {size}, digest {digest}{lost}; next: {command}"


def verify(
    path: Target,
    deep: Deep = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Name every damaged, missing or surplus sample of a prepared set or of shards."""
    from ..work import Interrupts
    from .verify import verify_path

    start = time.monotonic()
    with Interrupts() as interrupts:
        mode = "none" if quiet else progress
        verdict = verify_path(path, deep=deep, interrupts=interrupts, progress=mode)
    result = {
        "path": str(path),
        "kind": verdict.kind,
        "samples": verdict.samples,
        "problems": [vars(problem) for problem in verdict.problems],
        "seconds": round(time.monotonic() - start, 3),
    }
    lines = [str(problem) for problem in verdict.problems]
    say(
        result, "\n".join(lines) or f"{path}: {verdict.samples} samples, all sound", as_json=as_json
    )
    if lines:
        raise InputError(
            f"{len(lines)} problems",
            where=str(path),
            todo="repair or prepare what is damaged, then write the shards again: imitate shard",
        )
