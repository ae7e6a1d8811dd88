"""The process group: ranks that torchrun or `--gpus` started find each other, and end together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ...contract import Exit, ImitateError, Stopped, UsageError
from .ranks import ALONE, Ranks
from .watch import Watch

SILENT_S = 30.0  # seconds without a beat after which a rank is given up
COLLECTIVE = timedelta(minutes=10)  # a rank that waits longer for another one has failed
POLL_S = 0.1
LINGER_S = 3.0  # in which the other ranks read why the one that holds the store ends


def rank_device(device: torch.device) -> torch.device:
    """Return this rank's own GPU where `device` is one; UsageError when there are too few."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    local = int(os.environ["LOCAL_RANK"])
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"this machine has {torch.cuda.device_count()} GPUs, and more ranks than that",
            todo="start one rank a GPU",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the ranks that train together, as the environment of torchrun tells; or train alone.

    When any rank ends before its time, all others end within a minute: with Stopped for one that
    was killed or lost, with its message and exit code for one that failed.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    rank = int(os.environ["RANK"])
    watch = _watch(rank, count, device)
    try:
        yield from _together(_ranks(rank, count, watch), watch)
    except BaseException as error:
        found = _explained(watch, error)
        if found is error:
            raise
        raise found from None
    finally:
        watch.stop()
        # destroying a group of NCCL waits for the ranks that have ended
        if watch.ended is None or device.type == "cpu":
            distributed.destroy_process_group()


def _together(ranks: Ranks, watch: Watch) -> Iterator[Ranks]:
    """Yield the ranks, and hold them together until all are done or stop at the same step."""
    watch.start()
    stopped: Stopped | None = None
    try:
        yield ranks
    except Stopped as error:
        if watch.ended is not None:
            raise
        stopped = error  # the first rank may still be saving
    ranks.told("done")
    ranks.most(0)  # none leaves before all know, as one of them may hold the store
    if stopped is not None:
        raise stopped


def _watch(rank: int, count: int, device: torch.device) -> Watch:
    """Make the group, and return the watch of this rank with its own line to the store."""
    try:
        store, _, _ = next(rendezvous("env://", timeout=COLLECTIVE))
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=SILENT_S)
        line = TCPStore(address, port, timeout=patience, wait_for_workers=False)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=count,
            timeout=COLLECTIVE,
        )
    except (RuntimeError, ValueError, KeyError):
        raise UsageError(
            f"rank {rank} does not find the other ranks of {count}",
            where="MASTER_ADDR, MASTER_PORT",
            todo="start the ranks with torchrun or --gpus N, and see that their machines reach "
            "each other",
        ) from None
    store = PrefixStore("imitate", line)
    return Watch(store=store, rank=rank, count=count, silent_s=SILENT_S)


def _ranks(rank: int, count: int, watch: Watch) -> Ranks:
    def read(name: str) -> str:
        while not watch.store.check([name]):
            if watch.ended is not None:
                raise watch.ended.error()
            time.sleep(POLL_S)
        return bytes(watch.store.get(name)).decode()

    return Ranks(
        rank=rank,
        count=count,
        beside=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        post=watch.store.set,
        read=read,
    )


def _explained(watch: Watch, error: BaseException) -> BaseException:
    """Return the error to end with, after telling the other ranks where it is of this one."""
    lost = watch.ended
    if lost is None and isinstance(error, RuntimeError) and _of_a_collective(error):
        lost = watch.wait()
    if lost is not None:
        return lost.error()
    if isinstance(error, ImitateError):
        watch.fail(str(error.what), error.code)
    elif isinstance(error, KeyboardInterrupt):
        watch.fail("was interrupted", Exit.INTERRUPTED)
    elif isinstance(error, SystemExit):
        watch.fail("was stopped", error.code if isinstance(error.code, int) else Exit.DEFECT)
    else:
        watch.fail(f"a defect of imitate: {type(error).__name__}", Exit.DEFECT)
    if watch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        time.sleep(LINGER_S)  # the store ends with this process
    return error


def _of_a_collective(error: RuntimeError) -> bool:
    """Tell whether an error may come from another rank: gloo raises a bare RuntimeError."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
