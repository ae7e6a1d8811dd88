"""The commands of `imitate prep` for the archives that encoders are evaluated on."""

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
from .choices import (
    Bits,
    Check,
    Checksums,
    Decode,
    Fit,
    KeepImageOnly,
    LastParagraph,
    MinTokens,
    Norm,
    Protocol,
    ReportLabels,
    Retry,
    Size,
    Source,
    SplitLists,
    Views,
    WantedSections,
)

HELP = {
    "nih": """Prepare NIH ChestX-ray14, as downloaded.

    clean and paper hold out validation pictures of the official training list, by patient and by
    picture; the official test list is their test split.""",
    "siim": """Prepare the SIIM-ACR Pneumothorax challenge, stage 1 or 2, with its masks.

    Several rows of one picture are one mask.""",
    "object-cxr": """Prepare Object-CXR with its boxes; the published dev set is the test split.""",
}


def mount(app: typer.Typer) -> None:
    """Add the commands to the app of `imitate prep`."""
    app.command("rsna")(rsna)
    app.command("covidx")(covidx)
    app.command("chexpert")(chexpert)
    for name, text in HELP.items():
        _mount_plain(app, name, text)


def rsna(
    source: Source,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", help="RSNA's mapping to NIH, csv or JSON.", rich_help_panel=IO),
    ] = None,
    root: Root = Path(),
    name: Name = None,
    protocol: Protocol = "clean",
    split_lists: SplitLists = None,
    size: Size = 512,
    fit: Fit = "pad",
    norm: Norm = "auto",
    decode: Decode = "exact",
    bits: Bits = 8,
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
    """Prepare the RSNA Pneumonia Detection Challenge, stage 2, as downloaded from Kaggle.

    clean splits by patient where --mapping tells the patients; the others as published.
    """
    options = dict(locals())
    from .job.conduct import prepare_evaluation

    prepare_evaluation("rsna", source, options)


def covidx(
    source: Source,
    classes: Annotated[
        int,
        typer.Option("--classes", help="2, or 3: normal, pneumonia, COVID-19."),
    ] = 2,
    root: Root = Path(),
    name: Name = None,
    protocol: Protocol = "clean",
    size: Size = 256,
    fit: Fit = "pad",
    norm: Norm = "auto",
    decode: Decode = "exact",
    bits: Bits = 8,
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
    """Prepare COVIDx as Kaggle serves it: train.txt and test.txt with their folders.

    Label and source coincide in its test split: an encoder may score by telling sources apart.
    """
    options = dict(locals())
    from .job.conduct import prepare_evaluation

    prepare_evaluation("covidx", source, options)


def chexpert(
    source: Source,
    reports: Annotated[
        Path | None,
        typer.Option("--reports", help="The csv of CheXpert Plus.", rich_help_panel=IO),
    ] = None,
    root: Root = Path(),
    name: Name = None,
    protocol: Protocol = "clean",
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
    """Prepare CheXpert (v1.0 or v1.0-small), CheXpert Plus, or both joined with --reports.

    Reports are kept where that csv is given or lies in SRC; without them the set has labels only.
    """
    options = dict(locals())
    from .job.conduct import prepare_chexpert

    prepare_chexpert(source, options)


def _mount_plain(app: typer.Typer, dataset: str, text: str) -> None:
    """Add the command of an archive that takes no option of its own."""
    side = 256 if dataset == "nih" else 512  # segmentation and detection need 512

    @app.command(dataset, help=text)
    def prepare(
        source: Source,
        root: Root = Path(),
        name: Name = None,
        protocol: Protocol = "clean",
        split_lists: SplitLists = None,
        size: Size = side,
        fit: Fit = "pad",
        norm: Norm = "auto",
        decode: Decode = "exact",
        bits: Bits = 8,
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
        options = dict(locals())
        from .job.conduct import prepare_evaluation

        prepare_evaluation(dataset, source, options)
