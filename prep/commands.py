"""The commands of `imitate prep`: archives with reports, loose pictures, loose reports.

A command declares its options and hands them on by name, `dict(locals())` being all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
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
from . import evaluation
from .choices import (
    PICTURES,
    AnyModality,
    Bits,
    Check,
    Checksums,
    Compat,
    Decode,
    Fit,
    KeepImageOnly,
    LastParagraph,
    MinTokens,
    Norm,
    Paths,
    Prep,
    ReportLabels,
    Retry,
    Size,
    Source,
    Views,
    WantedSections,
)

app = typer.Typer(
    cls=Prep,
    help="Prepare an archive as downloaded: pictures to PNG, reports to sections.",
    no_args_is_help=True,
)
evaluation.mount(app)


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
    views: Views = "frontal",
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    decode: Decode = "exact",
    bits: Bits = 8,
    sections: WantedSections = "either",
    last_paragraph: LastParagraph = "none",
    min_tokens: MinTokens = 3,
    keep_image_only: KeepImageOnly = False,
    report_labels: ReportLabels = False,
    compat: Compat = "none",
    checksums: Checksums = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    retry: Retry = None,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    check: Check = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Prepare MIMIC-CXR (.dcm, .dcm.gz) or MIMIC-CXR-JPG; which of the two is detected.

    --norm auto is mimic for DICOM (as MIMIC-CXR-JPG was made) and none for JPG.
    """
    options = dict(locals())
    from .job.conduct import prepare_mimic

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
    decode: Decode = "exact",
    bits: Bits = 8,
    sections: WantedSections = "either",
    min_tokens: MinTokens = 3,
    keep_image_only: KeepImageOnly = False,
    report_labels: ReportLabels = False,
    seed: Seed = 0,
    checksums: Checksums = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    retry: Retry = None,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    check: Check = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Prepare Open-i (Indiana University): report XML with pictures, or its csv form.

    Where both forms are there the csv form is read: only it tells frontal from lateral.
    """
    options = dict(locals())
    from .job.conduct import prepare_openi

    prepare_openi(source, options)


@app.command("table")
def table(
    source: Annotated[
        Path, typer.Argument(metavar="TABLE", help="csv, tsv (or .gz) or Parquet, a row an image.")
    ],
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="A column by its name here: image=Path.", rich_help_panel=IO),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder that paths start from.", rich_help_panel=IO),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="Label columns: A,B; or those of a prefix: find_*."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Name of the archive.", rich_help_panel=IO),
    ] = None,
    root: Root = Path(),
    name: Name = None,
    key: Annotated[
        str,
        typer.Option(
            "--key", help="hash: ids become keyed hashes; path: they stay.", rich_help_panel=IO
        ),
    ] = "hash",
    views: Annotated[
        str | None,
        typer.Option(
            help="frontal (default; all without a view column), all, or some.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    decode: Decode = "exact",
    bits: Bits = 8,
    any_modality: AnyModality = False,
    deidentified: Annotated[
        bool,
        typer.Option(
            "--deidentified", help="All DICOM here is, marked or not.", rich_help_panel=PICTURES
        ),
    ] = False,
    sections: WantedSections = "either",
    last_paragraph: LastParagraph = "none",
    min_tokens: MinTokens = 3,
    keep_image_only: KeepImageOnly = False,
    report_labels: ReportLabels = False,
    seed: Seed = 0,
    checksums: Checksums = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    limit: Limit = None,
    resume: Resume = True,
    retry: Retry = None,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    check: Check = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Prepare any other archive from a table: image, report or findings and impression, and more.

    Further columns: image_id, study_id, subject_id, view, split, mask, sex, age, origin, label_….
    """
    options = dict(locals())
    from .job.conduct import prepare_table

    prepare_table(source, options)


@app.command("images")
def images(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the PNGs.", rich_help_panel=IO)
    ],
    key: Annotated[
        str,
        typer.Option(help="path, or hash: of the content, as names.", rich_help_panel=IO),
    ] = "path",
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    decode: Decode = "exact",
    bits: Bits = 8,
    any_modality: AnyModality = False,
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
    retry: Retry = None,
    max_failures: MaxFailures = "10%",
    dry_run: DryRun = False,
    check: Check = False,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Turn DICOM, PNG and JPG files anywhere below the paths into PNGs, with a table of rejects."""
    options = dict(locals())
    from .job.conduct import prepare_images

    prepare_images(paths, options)


@app.command("reports")
def reports(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Parquet file to write.", rich_help_panel=IO)
    ],
    last_paragraph: LastParagraph = "none",
    compat: Compat = "none",
    report_labels: ReportLabels = False,
    max_failures: MaxFailures = "10%",
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Cut reports (txt, csv, zip, Open-i XML) into sections: one Parquet table and its rejects."""
    options = dict(locals())
    from .texts import prepare_reports

    prepare_reports(paths, options)
