"""The commands `imitate train` and `imitate config`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..contract import UsageError
from ..options import (
    BEHAVIOUR,
    IO,
    RESOURCES,
    CacheBytes,
    DryRun,
    FaultBudget,
    Json,
    MaxFailures,
    Name,
    Progress,
    Quiet,
    Resume,
    Root,
    say,
)

if TYPE_CHECKING:
    from .run import TrainReport

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A packaged recipe, or a YAML file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value of the recipe, as optim.lr=1e-4; repeat for more.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SET",
        help="Shard set to train on, or the address of one (https://, s3://, gs://, hf://, "
        "file://); by default the only one with reports.",
        rich_help_panel=IO,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        min=1,
        help="Threads that read and augment; by default 1, beside a GPU one a core up to 16.",
        rich_help_panel=RESOURCES,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=RESOURCES)
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=1,
        help="Train on so many GPUs of this machine; several machines: torchrun.",
        rich_help_panel=RESOURCES,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Settings of a machine that change no result: 1x24GB or 8x80GB.",
        rich_help_panel=RESOURCES,
    ),
]
Cache = Annotated[
    str,
    typer.Option(
        "--cache",
        help="Keep decoded pictures: none, host (a file) or device; the result is the same.",
        rich_help_panel=RESOURCES,
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        "--reader",
        help="imitate, or webdataset: its order, unverified; same as --set data.order=webdataset.",
        rich_help_panel=BEHAVIOUR,
    ),
]
AllowDownload = Annotated[
    bool,
    typer.Option(
        "--allow-download",
        help="Fetch the text encoder from the hub if it is not here.",
        rich_help_panel=BEHAVIOUR,
    ),
]

Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        help="Also tell a tracker: tensorboard, or FILE.py:CLASS of your own.",
        rich_help_panel=IO,
    ),
]
AllowOnline = Annotated[
    bool,
    typer.Option(
        "--allow-online",
        help="Let a tracker send scalars and the recipe of restricted data elsewhere.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Requeue = Annotated[
    bool,
    typer.Option(
        "--requeue",
        help="In a SLURM job, ask for it to be queued again after SIGUSR1.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Trial = Annotated[
    bool,
    typer.Option(
        "--trial",
        help="With --dry-run: time some steps here, for the hours.",
        rich_help_panel=BEHAVIOUR,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        help="With --dry-run: samples a second, for the hours.",
        rich_help_panel=BEHAVIOUR,
    ),
]

config = typer.Typer(help="Check and show recipes.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Mount the commands of this stage."""
    app.command("train")(train)
    app.add_typer(config, name="config")


def train(
    recipe: RecipeName = "imitate",
    settings: Settings = None,
    name: Name = None,
    root: Root = Path(),
    data: Data = None,
    cache_bytes: CacheBytes = None,
    workers: Threads = None,
    device: Device = "auto",
    gpus: Gpus = None,
    preset: Preset = None,
    cache: Cache = "none",
    reader: Reader = "imitate",
    allow_download: AllowDownload = False,
    track: Track = None,
    allow_online: AllowOnline = False,
    requeue: Requeue = False,
    resume: Resume = True,
    max_failures: MaxFailures = "0.001%",
    dry_run: DryRun = False,
    trial: Trial = False,
    rate: Rate = None,
    as_json: Json = False,
    quiet: Quiet = False,
    progress: Progress = "auto",
) -> None:
    """Train a recipe on a shard set; the same command goes on where it stopped."""
    from dataclasses import asdict

    from .bound import TrainOptions, bind
    from .distribution.launch import check_gpus, launch, launched
    from .forecast import forecast
    from .recipes.recipe import load_recipe, preset_settings
    from .run import train as train_run

    chosen = load_recipe(
        recipe, (*preset_settings(preset), *(settings or ()), *_reader_setting(reader))
    )
    options = TrainOptions(
        data=data,
        cache_bytes=cache_bytes,
        name=name,
        workers=workers,
        resume=resume,
        budget=FaultBudget.parse(max_failures or "0"),
        device=device,
        cache=cache,
        allow_download=allow_download,
        track=track,
        allow_online=allow_online,
        requeue=requeue,
        progress=progress,
        quiet=quiet,
    )
    _check_forecast(rate, only_forecast=dry_run, timed=trial)
    if dry_run:
        found = forecast(
            bind(root, chosen, options), allow_download=allow_download, rate=rate, trial=trial
        )
        say(asdict(found), found.text(), as_json=as_json)
        return
    if gpus is not None and gpus > 1 and not launched():
        check_gpus(gpus, device)
        raise typer.Exit(launch(gpus, sys.argv[1:]))
    _say_result(train_run(root, chosen, options), root, as_json=as_json)


def _reader_setting(reader: str) -> tuple[str, ...]:
    """Return the setting that a reader stands for; another order is another run."""
    if reader not in ("imitate", "webdataset"):
        raise UsageError(f"--reader {reader!r} is not one of imitate, webdataset")
    return ("data.order=webdataset",) if reader == "webdataset" else ()


def _check_forecast(rate: float | None, *, only_forecast: bool, timed: bool) -> None:
    """Raise UsageError for options of a forecast that do not go together."""
    if (timed or rate is not None) and not only_forecast:
        raise UsageError("--trial and --rate are for --dry-run")
    if rate is not None and (timed or not rate > 0):
        raise UsageError("--rate is a positive number of samples a second, and not with --trial")


def _say_result(report: TrainReport, root: Path, *, as_json: bool) -> None:
    if report.shown:
        said = ("run", "steps", "samples", "loss", "seconds")
        result = {name: getattr(report, name) for name in said}
        say(result, _sentence(report, root), as_json=as_json)


def _sentence(report: TrainReport, root: Path) -> str:
    what = f"{report.path}: {report.steps} steps, {report.samples} samples, loss {report.loss:.3f}"
    when = "was finished before" if report.fresh else f"in {report.seconds:.0f} s"
    where = "" if root == Path() else f" --root {shlex.quote(str(root))}"
    damaged = f"; {report.damaged} damaged samples replaced (card.json)" if report.damaged else ""
    return f"{what}, {when}{damaged}\nnext: imitate eval {shlex.quote(report.data)}{where}"


@config.command("show")
def show(recipe: RecipeName = "imitate", settings: Settings = None) -> None:
    """Print a recipe with every value, as YAML."""
    from .recipes.config import to_yaml
    from .recipes.recipe import load_recipe

    typer.echo(to_yaml(load_recipe(recipe, settings or ())), nl=False)


@config.command("check")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML file of a recipe.")],
) -> None:
    """Name every problem of a recipe file; exit 2 if there is one."""
    from .recipes.recipe import load_recipe

    found = load_recipe(file)
    typer.echo(f"{file}: recipe {found.name}, no problems\nnext: imitate train {shlex.quote(file)}")
