"""The command `imitate report`; everything heavy is imported inside its body."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...contract import UsageError
from ...options import IO, Json, say

Shareable = Annotated[
    bool,
    typer.Option(
        "--shareable",
        help="Without pictures, texts and ids; no count below 10.",
        rich_help_panel=IO,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="File to write; without it report.html or report-shareable.html in PATH.",
        rich_help_panel=IO,
    ),
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute",
        help="Compute every number of a run's evaluations from what was predicted, and compare.",
    ),
]


def register(app: typer.Typer) -> None:
    """Mount `imitate report`."""
    app.command("report")(report)


def report(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Folder of a prepared set or of a run; with --recompute, of a run."
        ),
    ],
    recompute: Recompute = False,
    shareable: Shareable = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write the report of a prepared set or of a run: one HTML file that needs no network.

    `imitate prep` and `imitate eval` write it too, as their last step. That of a restricted
    archive shows patients' films, and is readable for its owner alone.
    """
    if recompute:
        if shareable or out is not None:
            raise UsageError("--recompute writes no report; leave --shareable and --out away")
        _recompute(path, as_json=as_json)
        return
    written = _write(path, out=out, shareable=shareable)
    say({"path": str(written)}, f"wrote {written}", as_json=as_json)


def _write(path: Path, *, out: Path | None, shareable: bool) -> Path:
    from .opened import is_run

    if out is not None and out.is_dir():
        raise UsageError("--out is a folder", where=str(out), todo="name the file to write")
    if is_run(path):
        from .written import write_run_report

        return write_run_report(path, out=out, shareable=shareable)
    from ...prep.pixels.decoder import Decoder
    from ...prep.sheets.report import write_report

    with Decoder() as decoder:
        return write_report(path, decoder, out=out, shareable=shareable)


def _recompute(path: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from ..statistics.recompute import recompute as compute

    recount = compute(path)
    if as_json or not recount.differences:
        say({"path": str(path)} | asdict(recount), recount.as_text(), as_json=as_json)
    recount.check()
