"""The options that several commands of `imitate prep` share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import BEHAVIOUR

PICTURES, TEXTS = "Pictures", "Reports"

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the archive as downloaded.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Files or folders.")]
Size = Annotated[
    int, typer.Option("--size", help="Side in pixels; 0 keeps the size.", rich_help_panel=PICTURES)
]
Fit = Annotated[str, typer.Option("--fit", help="pad, crop or stretch.", rich_help_panel=PICTURES)]
Norm = Annotated[
    str,
    typer.Option(
        "--norm", help="auto, mimic, window, minmax, dicom or none.", rich_help_panel=PICTURES
    ),
]
Bits = Annotated[int, typer.Option("--bits", help="8 or 16.", rich_help_panel=PICTURES)]
WantedSections = Annotated[
    str,
    typer.Option("--sections", help="either, both, findings, impression.", rich_help_panel=TEXTS),
]
LastParagraph = Annotated[
    str,
    typer.Option(
        "--last-paragraph",
        help="none, or impression: it stands for a missing one.",
        rich_help_panel=TEXTS,
    ),
]
MinTokens = Annotated[
    int,
    typer.Option(
        "--min-tokens", min=0, help="Tokens of Impression plus Findings.", rich_help_panel=TEXTS
    ),
]
KeepImageOnly = Annotated[
    bool,
    typer.Option(
        "--keep-image-only", help="Keep pictures without that text.", rich_help_panel=TEXTS
    ),
]
Compat = Annotated[
    str,
    typer.Option("--compat", help="none, or mit-lcp: as its parser cuts.", rich_help_panel=TEXTS),
]
Protocol = Annotated[
    str,
    typer.Option("--protocol", help="clean, paper, mgca or benchx.", rich_help_panel=BEHAVIOUR),
]
