"""The commands of `imitate prep`: one an archive, and two for loose pictures and reports.

A command declares its options and hands them on by name, `dict(locals())` being all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    BEHAVIOUR,
    IO,
    DryRun,
    Json,
    Limit,
    MaxFailures,
    Name,
    Progress,
    Quiet,
    Resume,
    Root,
    Scheduler,
    Seed,
    Workers,
)

PICTURES, TEXTS = "Pictures", "Reports"

app = typer.Typer(
    help="Prepare an archive as downloaded: pictures to PNG, reports to sections.",
    no_args_is_help=True,
)

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


@app.command("mimic")
def mimic(
    source: Source,
    reports: Annotated[
        Path | None,
        typer.Option("--reports", help="Folder or zip of the reports.", rich_help_panel=IO),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option("--tables", help="Folder of metadata, split, labels.", rich_help_panel=IO),
    ] = None,
    root: Root = Path(),
    name: Name = None,
    views: Annotated[
        str, typer.Option(help="frontal, all, or some: AP,PA,…", rich_help_panel=PICTURES)
    ] = "frontal",
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    bits: Bits = 8,
    sections: WantedSections = "either",
    last_paragraph: LastParagraph = "none",
    min_tokens: MinTokens = 3,
    keep_image_only: KeepImageOnly = False,
    compat: Compat = "none",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Prepare MIMIC-CXR (.dcm, .dcm.gz) or MIMIC-CXR-JPG; which of the two is detected.

    --norm auto is mimic for DICOM (as MIMIC-CXR-JPG was made) and none for JPG.
    """
    options = dict(locals())
    from .conduct import prepare_mimic

    prepare_mimic(source, options)


@app.command("openi")
def openi(
    source: Source,
    root: Root = Path(),
    name: Name = None,
    views: Annotated[
        str | None,
        typer.Option(
            help="frontal (default; all where no view is known), all, or some.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    bits: Bits = 8,
    sections: WantedSections = "either",
    min_tokens: MinTokens = 3,
    keep_image_only: KeepImageOnly = False,
    seed: Seed = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Prepare Open-i (Indiana University): report XML with pictures, or its csv form.

    Where both forms are there the csv form is read: only it tells frontal from lateral.
    """
    options = dict(locals())
    from .conduct import prepare_openi

    prepare_openi(source, options)


@app.command("rsna")
def rsna(
    source: Source,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", help="RSNA's mapping to NIH, csv or JSON.", rich_help_panel=IO),
    ] = None,
    root: Root = Path(),
    name: Name = None,
    protocol: Annotated[
        str, typer.Option(help="clean, paper or mgca.", rich_help_panel=BEHAVIOUR)
    ] = "clean",
    size: Size = 512,
    fit: Fit = "pad",
    norm: Norm = "auto",
    bits: Bits = 8,
    seed: Seed = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Prepare the RSNA Pneumonia Detection Challenge, stage 2, as downloaded from Kaggle.

    clean splits by patient where --mapping tells the patients; paper and mgca as published.
    """
    options = dict(locals())
    from .conduct import prepare_rsna

    prepare_rsna(source, options)


@app.command("images")
def images(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the PNGs.", rich_help_panel=IO)
    ],
    key: Annotated[
        str, typer.Option(help="path: PNGs are named like the files.", rich_help_panel=IO)
    ] = "path",
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    bits: Bits = 8,
    any_modality: Annotated[
        bool,
        typer.Option(
            "--any-modality", help="Also others than CR, DX, DR, RG, SC.", rich_help_panel=PICTURES
        ),
    ] = False,
    allow_burned_in: Annotated[
        bool,
        typer.Option(
            "--allow-burned-in", help="Also those marked as such.", rich_help_panel=PICTURES
        ),
    ] = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Turn DICOM, PNG and JPG files anywhere below the paths into PNGs, with a table of rejects."""
    options = dict(locals())
    from .conduct import prepare_images

    prepare_images(paths, options)


@app.command("reports")
def reports(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Parquet file to write.", rich_help_panel=IO)
    ],
    last_paragraph: LastParagraph = "none",
    compat: Compat = "none",
    max_failures: MaxFailures = "10%",
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Cut reports (txt, csv, zip, Open-i XML) into sections: one Parquet table and its rejects."""
    options = dict(locals())
    from .texts import prepare_reports

    prepare_reports(paths, options)
