"""The launch: `--gpus N` starts one rank a GPU on this machine, as torchrun does."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ...contract import Exit, UsageError

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def launched() -> bool:
    """Tell whether this process is a rank that was started with others."""
    return "LOCAL_RANK" in os.environ


def check_gpus(gpus: int, device: str) -> None:
    """Raise UsageError unless this machine has so many GPUs, and they are to be used."""
    there = torch.cuda.device_count()
    if device == "cpu" or gpus > there:
        raise UsageError(
            f"--gpus {gpus}: {'--device is cpu' if device == 'cpu' else f'torch finds {there}'}",
            todo="on CPUs: torchrun --nproc-per-node N -m imitate train … --device cpu",
        )


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run `imitate ARGUMENTS` in so many processes, and return the exit code of the first failure.

    A signal is passed on to all of them.
    """
    # its messages repeat what the ranks say
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each rank, as torchrun sets it
    # SIGUSR1 too is passed on, so that the ranks save before a batch job's time is over; older
    # versions of torch cannot
    known = {field.name for field in dataclasses.fields(LaunchConfig)}
    passed_on: Any = {"signals_to_handle": SIGNALS} if "signals_to_handle" in known else {}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
        **passed_on,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "imitate", *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        # a negative code is the signal that killed the process
        return int(failure.exitcode) if failure.exitcode > 0 else Exit.TERMINATED
    except SignalException as error:
        warned = error.sigval == signal.SIGUSR1
        return Exit.TERMINATED if warned else 128 + int(error.sigval)
    return Exit.DONE
