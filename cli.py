"""The command `imitate`: the stages' commands, and errors as messages with exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from . import __version__, demo
from .contract import CANNOT_WRITE, Exit, ImitateError
from .eval import commands as eval_commands
from .eval.report import commands as report_commands
from .prep import commands as prep_commands
from .shards import commands as shards_commands
from .train import commands as train_commands

app = typer.Typer(
    name="imitate",
    help="From a chest X-ray archive with reports to an evaluated vision-language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(prep_commands.app, name="prep")
shards_commands.register(app)
train_commands.register(app)
eval_commands.register(app)
report_commands.register(app)
demo.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imitate {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From a chest X-ray archive with reports to an evaluated vision-language model."""


def main() -> None:
    """Run the command line; every error is one message on stderr and its exit code."""
    # until a stage catches signals itself, SIGTERM ends as tidily as Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))
    try:
        app()
    except ImitateError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("interrupted", Exit.INTERRUPTED)
    except BrokenPipeError:
        # the reader of our stdout has gone; a second message would fail as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.DONE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            _fail(
                f"cannot read or write: {error.strerror} ({error.filename})\n"
                "  make room, or give us the right to; the same command then goes on",
                Exit.INPUT,
            )
        _fail(
            f"a defect of imitate: {type(error).__name__}\n"
            "  please report it with the command and the traceback that "
            "IMITATE_DEBUG=1 shows; take patient data out first",
            Exit.DEFECT,
        )


def _fail(message: str, code: Exit) -> None:
    if os.environ.get("IMITATE_DEBUG") == "1":
        raise
    sys.stderr.write(f"imitate: {message}\n")
    sys.exit(code)
