"""The command line itself: errors as messages, signals as exit codes."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from imitate import __version__

RUN = """
import os, signal, sys, time
from imitate import cli
from imitate.contract import ConfigError, InputError
def app():
    {body}
cli.app = app
cli.main()
"""


def run(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a command that does `body`."""
    command = [sys.executable, "-c", RUN.format(body=body)]
    return subprocess.run(command, capture_output=True, text=True, env=environment or None)


@pytest.mark.parametrize(
    ("body", "code", "lines"),
    [
        ("raise InputError('no table', where='a.csv', todo='get it')", 3, ["no table (a.csv)"]),
        ("raise ConfigError(['key a', 'key b'])", 2, ["key a", "key b"]),
        ("raise KeyboardInterrupt", 130, ["interrupted"]),
        ("raise ValueError('Jane Doe')", 70, ["a defect of imitate: ValueError", "report it"]),
        ("raise OSError(30, 'Read-only file system', 'runs/a')", 3, ["system (runs/a)", "right"]),
        ("raise FileNotFoundError(2, 'No such file', 'a')", 70, ["FileNotFoundError"]),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, []),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 130, ["interrupted"]),
    ],
)
def test_every_end_has_its_exit_code_and_no_traceback(
    body: str, code: int, lines: Sequence[str]
) -> None:
    done = run(body)
    assert done.returncode == code
    assert [line for line in lines if line not in done.stderr] == []
    assert "Traceback" not in done.stderr and "Jane Doe" not in done.stderr
    assert done.stdout == ""


def test_debugging_shows_the_traceback() -> None:
    done = run("raise ValueError('x')", IMITATE_DEBUG="1")
    assert "Traceback" in done.stderr and done.returncode == 1


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imitate", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"imitate {__version__}\n"
