"""The command `imitate eval`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import (
    IO,
    RESOURCES,
    CacheBytes,
    FaultBudget,
    Json,
    MaxFailures,
    Progress,
    Quiet,
    Resume,
    Root,
    Workers,
    say,
)

if TYPE_CHECKING:
    from .results.outcome import Outcome

WHAT = "What is measured"

Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A prepared set, such as rsna, openi or mimic; all of them: all; or the address of "
        "a shard set.",
    ),
]
Task = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        help="linear, finetune, zeroshot, segment, detect, ground, retrieve or all; again for "
        "more. zeroshot and linear; of all sets, all.",
        rich_help_panel=WHAT,
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="clean, paper, mgca or benchx: the set prepared under it; the set's own.",
        rich_help_panel=WHAT,
    ),
]
Augment = Annotated[
    bool,
    typer.Option(
        "--augment",
        help="Linear layers are trained on the protocol's augmented passes.",
        rich_help_panel=WHAT,
    ),
]
MatchNorm = Annotated[
    bool,
    typer.Option(
        "--match-norm",
        help="Bring grey levels to the norm of the run's training set.",
        rich_help_panel=WHAT,
    ),
]
Fraction = Annotated[
    list[float],
    typer.Option(
        "--fraction", help="Share of the training labels; again for more.", rich_help_panel=WHAT
    ),
]
Draws = Annotated[
    int,
    typer.Option("--draws", min=1, help="Draws of each share below 1.", rich_help_panel=WHAT),
]
Seeds = Annotated[
    int,
    typer.Option(
        "--seeds", min=1, help="Heads and controls, each newly drawn.", rich_help_panel=WHAT
    ),
]
Control = Annotated[
    bool,
    typer.Option(
        "--control/--no-control",
        help="Random weights beside every encoder; linear probes also without pixels.",
        rich_help_panel=WHAT,
    ),
]
RunNames = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        help="Run to evaluate; again for more. The newest finished one.",
        rich_help_panel=IO,
    ),
]
Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        metavar="PATH[,KEY=VALUE…]",
        help="Weights from elsewhere: a ResNet or ViT file or a Hugging Face folder; keys size, "
        "resize, channels, mean, std or norm.",
        rich_help_panel=IO,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=RESOURCES)
]


def register(app: typer.Typer) -> None:
    """Mount the command of this stage."""
    app.command("eval")(evaluate)


def evaluate(
    dataset: Dataset,
    task: Task = None,
    protocol: Protocol = None,
    fraction: Fraction = [1.0],  # noqa: B006 - Typer reads it, nothing changes it
    draws: Draws = 1,
    seeds: Seeds = 1,
    control: Control = True,
    augment: Augment = False,
    match_norm: MatchNorm = False,
    run: RunNames = None,
    encoder: Encoders = None,
    root: Root = Path(),
    cache_bytes: CacheBytes = None,
    device: Device = "auto",
    workers: Workers = 1,
    resume: Resume = True,
    max_failures: MaxFailures = "0",
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Evaluate encoders on a labelled set, with intervals, and keep every prediction."""
    from ..train.bound import pick_device
    from ..train.distribution.group import joined, rank_device
    from ..work import Interrupts
    from .encoders.crew import Crew
    from .session import ALL, Request, evaluate_set
    from .tasks.registry import choose_tasks
    from .tasks.task import EvalOptions

    start = time.monotonic()
    budget = FaultBudget.parse(max_failures or "0")
    request = Request(
        root=root,
        dataset=dataset,
        protocol=protocol,
        match_norm=match_norm,
        cache_bytes=cache_bytes,
        runs=tuple(dict.fromkeys(run or ())),
        encoders=tuple(encoder or ()),
        resume=resume,
        budget=budget,
        quiet=quiet,
        options=EvalOptions(
            tasks=choose_tasks(task or (["all"] if dataset == ALL else []), augment=augment),
            fractions=tuple(fraction),
            draws=draws,
            seeds=seeds,
            control=control,
            device=device,
            workers=workers,
            progress="none" if quiet else progress,
        ),
    )
    with joined(rank_device(pick_device(device))) as ranks, Interrupts() as interrupts:
        outcome = evaluate_set(request, interrupts, Crew(ranks))
    if ranks.first:
        _finish(outcome, start, as_json=as_json)
    mend = "results.json names them, and `imitate verify --repair` mends shards"
    budget.check(len(outcome.damaged), outcome.samples, todo=mend)


def _finish(outcome: Outcome, start: float, *, as_json: bool) -> None:
    """Write the report of each run that was evaluated, and print what was found."""
    from .report.written import write_reports

    reports = [str(path) for path in write_reports(outcome.paths)]
    result = outcome.as_json() | {"reports": reports, "seconds": time.monotonic() - start}
    pages = "".join(f"\nlook at it: {path}" for path in reports)
    say(result, outcome.as_text() + pages, as_json=as_json)
