"""The command `imitate report`; everything heavy is imported inside its body."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        help="File to write; without it report.html or report-shareable.html in the set.",
        rich_help_panel=IO,
    ),
]


def register(app: typer.Typer) -> None:
    """Mount `imitate report`."""
    app.command("report")(report)


def report(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a prepared set.")],
    shareable: Shareable = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write the report of a prepared set: one HTML file that needs no network.

    `imitate prep` writes it too, as its last step. That of a restricted archive shows patients'
    films and texts, and is readable for its owner alone.
    """
    from ..pixels.decoder import Decoder
    from .report import write_report

    with Decoder() as decoder:
        written = write_report(path, decoder, out=out, shareable=shareable)
    say({"path": str(written)}, f"wrote {written}", as_json=as_json)
