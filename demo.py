"""The demo: phantom archives in their official layouts, taken through every stage to a table."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from .files import write_text
from .options import Quiet, Seed, Workers

STUDIES = 700  # phantom MIMIC studies; about 500 films to train on
PATIENTS = 400  # phantom RSNA patients, a fifth of them in the test split


def register(app: typer.Typer) -> None:
    """Mount `imitate demo`."""
    app.command("demo")(demo)


def demo(
    context: typer.Context,
    root: Annotated[Path, typer.Option("--root", help="Folder of the demo.")] = Path(
        "imitate-demo"
    ),
    workers: Workers = 2,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Take phantom archives (synthetic, no patient's) from DICOM and reports to a table.

    Downloads nothing. Stop it and call it again: every stage goes on where it was.
    """
    # on two busy cores two torch threads were measured many times slower than one
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mimic, rsna = _phantoms(root / "archives", seed)
    hush = ["--quiet"] if quiet else []
    shared = ["--root", str(root), *hush]
    pool = [*shared, "--workers", str(workers)]
    for command in (
        ["prep", "mimic", str(mimic), "--name", "phantom-mimic", "--size", "96", *pool],
        ["prep", "rsna", str(rsna), "--name", "phantom-rsna", "--size", "96", *pool],
        ["shard", *pool],
        ["train", "demo", *shared],
        ["eval", "phantom-mimic", *shared],
        ["eval", "phantom-rsna", *shared],
    ):
        _step(context, command)
    typer.echo(
        f"\nThe demo is in {root}: archives/ as downloaded, data/ as prepared and sharded, "
        "runs/ as trained and evaluated.\n"
        f"Look at it: {_report(root)}\n"
        "All of it is phantom data: the figures say that the stages work, and nothing else.\n"
        "Next: imitate prep mimic PATH, with MIMIC-CXR or MIMIC-CXR-JPG as downloaded"
    )


def _phantoms(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write the phantom archives once; a half-written one is written again."""
    from .prep.phantoms.mimic import write_mimic
    from .prep.phantoms.rsna import write_rsna

    mimic, rsna = folder / "phantom-mimic-cxr", folder / "phantom-rsna"
    mark = folder / "seed"
    if not mark.is_file() or mark.read_text() != str(seed):
        typer.echo(f"writing phantom archives to {folder}", err=True)
        write_mimic(mimic, studies=STUDIES, seed=seed)
        write_rsna(rsna, patients=PATIENTS, seed=seed)
        write_text(mark, str(seed))
    return mimic, rsna


def _report(root: Path) -> Path:
    """Return the page that the evaluations of the demo's run have written."""
    from .eval.chain import choose_run

    return choose_run(root, None).folder / "report.html"


def _step(context: typer.Context, arguments: list[str]) -> None:
    """Run one command of the tool in this process, shown as it would be typed."""
    typer.echo(f"\n$ imitate {shlex.join(arguments)}")
    context.find_root().command.main(arguments, prog_name="imitate", standalone_mode=False)
