"""SLURM: a run that is warned before its time is over saves, and asks to be started again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ...contract import Stopped
from ...work import command_line
from .ranks import ALONE, Ranks

PATIENCE_S = 60.0  # for the batch system's answer


@contextmanager
def requeued(ranks: Ranks = ALONE) -> Iterator[None]:
    """Put the batch job back into SLURM's queue when the work is stopped by SIGUSR1.

    The first rank asks, once the state is saved. Outside a SLURM job nothing happens. Stopped is
    raised in any case, with the answer.
    """
    before = signal.signal(signal.SIGUSR1, _warned)  # until the loop listens itself
    try:
        yield
    except Stopped as stopped:
        job = os.environ.get("SLURM_JOB_ID")
        if stopped.warned and job and ranks.first:
            stopped.todo = _requeue(job, stopped.todo)
        raise
    finally:
        signal.signal(signal.SIGUSR1, before)


def _warned(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(
        "stopped before the first step",
        todo=f"go on with: {command_line()}",
        terminated=True,
        warned=True,
    )


def _requeue(job: str, todo: str) -> str:
    """Return what to do next, after asking SLURM to start the job again."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"scontrol did not answer, the job is not queued again; {todo}"
    if done.returncode:
        return f"scontrol refused to queue job {job} again; {todo}"
    return f"job {job} is queued again and will go on by itself"
