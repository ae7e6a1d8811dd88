"""The commands `imitate shard`, `imitate verify` and `imitate show`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..contract import Folders, InputError, UsageError
from ..options import (
    BEHAVIOUR,
    IO,
    DryRun,
    FaultBudget,
    Json,
    MaxFailures,
    Name,
    Progress,
    Quiet,
    Resume,
    Root,
    Scheduler,
    Workers,
    say,
)

if TYPE_CHECKING:
    from .verify import Verdict
    from .write import ShardReport

Sets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SET]...",
        help="Prepared sets; without any, every one that needs shards.",
    ),
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
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        help="png keeps prep's pictures; jpeg is lossy; as before, else png.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Deep = Annotated[
    bool,
    typer.Option(
        "--deep", help="Decode every picture and compare its pixels.", rich_help_panel=BEHAVIOUR
    ),
]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Make damaged shards again from the prepared set.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Target = Annotated[
    Path, typer.Argument(metavar="PATH", help="Folder of a prepared set, of shards or of a run.")
]
Wanted = Annotated[str, typer.Argument(metavar="KEY|STUDY", help="Key of a sample, or a study.")]
OneSet = Annotated[
    str | None,
    typer.Option("--set", help="Shard set; without it, all of them.", rich_help_panel=IO),
]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", help="File to write the picture to.", rich_help_panel=IO),
]
Mask = Annotated[
    Path | None,
    typer.Option("--mask", help="File to write the mask to.", rich_help_panel=IO),
]


def register(app: typer.Typer) -> None:
    """Mount the commands of this stage."""
    app.command("shard")(shard)
    app.command("verify")(verify)
    app.command("show")(show)


def shard(
    sets: Sets = None,
    name: Name = None,
    root: Root = Path(),
    shard_samples: ShardSamples = None,
    shard_bytes: ShardBytes = None,
    seed: ShardSeed = None,
    codec: Codec = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    resume: Resume = True,
    max_failures: MaxFailures = "0",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Write prepared sets as verified WebDataset shards; with --name, joined into one set.

    In a joined set every key is prefixed with the name of its archive. With --json: one object
    for one set; a list of objects for several.
    """
    from ..work import Interrupts
    from .write import options_for, plan_set, write_shards

    budget = FaultBudget.parse(max_failures or "0")
    reports: list[ShardReport] = []
    for target, sources in _targets(root, sets or [], name).items():
        folder = Folders(root).shards(target)
        options = options_for(
            folder, samples=shard_samples, size=shard_bytes, seed=seed, codec=codec
        )
        if dry_run:
            reports.append(plan_set(root, target, options, sets=sources))
            continue
        with Interrupts() as interrupts:
            report = write_shards(
                root,
                target,
                options,
                sets=sources,
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


def _targets(root: Path, sets: list[str], name: str | None) -> dict[str, list[str]]:
    """Return the prepared sets that each shard set is made from, by its name."""
    from ..files import safe_name
    from .write import sources_of

    chosen = list(dict.fromkeys(safe_name(each) for each in sets)) or _prepared_sets(root)
    if name is None:
        return {each: sources_of(root, each) for each in chosen}
    if len(sets) < 2 or len(chosen) < 2:
        raise UsageError(
            "--name is for sets that are joined",
            todo="name two or more prepared sets: imitate shard A B --name joined",
        )
    if (Folders(root).prepared(safe_name(name)) / "card.json").is_file():
        raise UsageError(
            f"--name {name} is the name of a prepared set, which has shards of its own",
            todo="choose another --name",
        )
    return {name: chosen}


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
    repair: Repair = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Name every damaged, missing or surplus sample of a prepared set, of shards or of a run.

    Of a run: its recipe, weights and checkpoints, the shards it was trained on, and the prepared
    set those were made from. With --json, `problems` are what was found and `left` how many of
    them are left after --repair.
    """
    from ..work import Interrupts
    from .audit.repair import Repaired, verify_and_repair
    from .verify import verify_path

    start = time.monotonic()
    mode = "none" if quiet else progress
    with Interrupts() as interrupts:
        if repair:
            done = verify_and_repair(path, deep=deep, interrupts=interrupts, progress=mode)
        else:
            verdict = verify_path(path, deep=deep, interrupts=interrupts, progress=mode)
            done = Repaired(before=verdict, left=verdict.problems)
    result = {
        "path": str(path),
        "kind": done.before.kind,
        "samples": done.before.samples,
        "problems": [vars(problem) for problem in done.before.problems],
        "repaired": list(done.shards),
        "left": len(done.left),
        "seconds": round(time.monotonic() - start, 3),
    }
    lines = [str(problem) for problem in done.before.problems]
    lines += [f"repaired  -  shards/{name}  made again" for name in done.shards]
    say(result, "\n".join(lines) or _sound(done.before), as_json=as_json)
    if done.left:
        raise InputError(
            "1 problem" if len(done.left) == 1 else f"{len(done.left)} problems",
            where=str(path),
            todo="imitate verify SHARDS --repair makes shards again; prepare what else is damaged",
        )


def _sound(verdict: Verdict) -> str:
    if verdict.kind == "run":
        return f"{verdict.path}: the run, its shards and their prepared set are what the cards tell"
    return f"{verdict.path}: {verdict.samples} samples, all sound"


def show(
    wanted: Wanted,
    name: OneSet = None,
    root: Root = Path(),
    picture: Picture = None,
    mask: Mask = None,
    as_json: Json = False,
) -> None:
    """Print a sample from its shard, reports included, or all samples of a study.

    The text of restricted archives is printed too, as you ask for it: mind where stdout goes.
    With --json: a list of objects.
    """
    from .audit.show import find_samples

    found = find_samples(root, wanted, name=name, picture=picture, mask=mask)
    if as_json:
        typer.echo(json.dumps([shown.as_json() for shown in found], sort_keys=True))
        return
    typer.echo("\n\n".join(shown.as_text() for shown in found))
