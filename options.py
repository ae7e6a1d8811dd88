"""The options that commands share, declared once, and how a command says its result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .contract import TooManyFaults, UsageError

IO, RESOURCES, BEHAVIOUR = "Input and output", "Resources", "Behaviour"

Root = Annotated[
    Path, typer.Option("--root", help="Folder that holds data/ and runs/.", rich_help_panel=IO)
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name other than the default.", rich_help_panel=IO)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=IO)
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", "-j", min=1, help="Processes; 1 works in this one.", rich_help_panel=RESOURCES
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", help="Address of a running Dask scheduler.", rich_help_panel=RESOURCES
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every draw.", rich_help_panel=BEHAVIOUR)]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Take only the first N.", rich_help_panel=BEHAVIOUR),
]
Resume = Annotated[
    bool,
    typer.Option("--resume/--no-resume", help="Go on where it stopped.", rich_help_panel=BEHAVIOUR),
]
CacheBytes = Annotated[
    int | None,
    typer.Option(
        "--cache-bytes",
        min=1,
        help="Most bytes of fetched shards kept in data/cache; without it, all are kept.",
        rich_help_panel=RESOURCES,
    ),
]
MaxFailures = Annotated[
    str | None,
    typer.Option(
        "--max-failures", help="Faults allowed: a number or N%.", rich_help_panel=BEHAVIOUR
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", "-n", help="Say what would be done; write nothing.", rich_help_panel=BEHAVIOUR
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no log.", rich_help_panel=BEHAVIOUR)
]
Progress = Annotated[
    str,
    typer.Option("--progress", help="auto, bar, lines or none.", rich_help_panel=BEHAVIOUR),
]


NAMED = "the rejects table names each with its reason"


@dataclass(frozen=True)
class FaultBudget:
    """How many faults a stage may have: a number, or a share of all it saw."""

    number: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> FaultBudget:
        """Read `N` or `N%`; UsageError for anything else."""
        if not re.fullmatch(r"\d+(\.\d+)?%|\d+", text):
            raise UsageError(
                f"--max-failures {text!r} is neither a number nor a percentage",
                todo="for example: --max-failures 20, or --max-failures 5%",
            )
        if text.endswith("%"):
            return cls(share=float(text[:-1]) / 100)
        return cls(number=int(text))

    def check(self, faults: int, total: int, *, todo: str = NAMED) -> None:
        """Raise TooManyFaults when `faults` of `total` are over the budget."""
        allowed = self.number if self.number is not None else (self.share or 0.0) * total
        if faults > allowed:
            raise TooManyFaults(
                f"{faults} of {total} are faulty, more than the {allowed:g} that "
                "--max-failures allows; everything else is done",
                todo=f"{todo}; raise --max-failures to accept",
            )


def say(result: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    """Print a command's result on stdout: one JSON document, or one closing sentence."""
    typer.echo(json.dumps(result, sort_keys=True) if as_json else sentence)


def reasons_text(counts: Mapping[str, int]) -> str:
    """Return `12 no_text, 3 truncated`, the most frequent first, or `none`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {code}" for code, n in ordered) or "none"
