"""The options that several commands of `imitate prep` share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..contract import REASONS
from ..options import BEHAVIOUR, IO

PICTURES, TEXTS = "Pictures", "Reports"

Source = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the archive as downloaded.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Files or folders.")]
Views = Annotated[
    str, typer.Option("--views", help="frontal, all, or some: AP,PA,…", rich_help_panel=PICTURES)
]
AnyModality = Annotated[
    bool,
    typer.Option(
        "--any-modality", help="Also others than CR, DX, DR, RG, SC.", rich_help_panel=PICTURES
    ),
]
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
Decode = Annotated[
    str,
    typer.Option(
        "--decode", help="exact, or fast: at a lower resolution.", rich_help_panel=PICTURES
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
ReportLabels = Annotated[
    bool,
    typer.Option(
        "--report-labels", help="Read finding labels in the reports.", rich_help_panel=TEXTS
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
SplitLists = Annotated[
    Path | None,
    typer.Option(
        "--split-lists",
        help="Folder of published train.txt, val.txt, test.txt, for benchx.",
        rich_help_panel=IO,
    ),
]
Checksums = Annotated[
    bool,
    typer.Option(
        "--checksums", help="Compare files with the archive's SHA256SUMS.", rich_help_panel=IO
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check", help="Say all that is wrong; write nothing.", rich_help_panel=BEHAVIOUR
    ),
]
Retry = Annotated[
    list[str] | None,
    typer.Option(
        "--retry",
        metavar="[CODE]",
        help="Redo rejects of this reason; all faults without one.",
        rich_help_panel=BEHAVIOUR,
    ),
]


class Prep(TyperGroup):
    """The commands of prep, in which --retry may stand without a reason."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `faults` after each --retry that no reason follows."""
        filled: list[str] = []
        for word, following in zip(args, [*args[1:], ""], strict=True):
            filled.append(word)
            if word == "--retry" and following not in (*REASONS, "faults"):
                filled.append("faults")
        return super().parse_args(ctx, filled)
