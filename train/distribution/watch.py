"""The watch: every rank tells that it lives, and learns within a minute that another has ended.

A collective on a GPU waits for ever for a rank that was killed, and one on the CPU ends in an
error of its network. So each rank has a thread that writes a beat into the group's store and
reads those of the others.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field

from torch.distributed.distributed_c10d import Store

from ...contract import Exit, ImitateError, Stopped
from ...work import command_line

BEAT_S = 1.0  # seconds between two beats
GRACE_S = 10.0  # seconds in which this rank may end by itself before it is ended
FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A rank that ended before its time, and why; `code` is its exit code."""

    rank: int
    why: str
    code: int

    def error(self) -> ImitateError:
        """Return the error with which the other ranks end."""
        if self.code in (Exit.INTERRUPTED, Exit.TERMINATED):
            return Stopped(
                f"rank {self.rank} {self.why}; what the last checkpoint holds is saved",
                todo=f"go on with: {command_line()}",
                terminated=self.code == Exit.TERMINATED,
            )
        error = ImitateError(f"rank {self.rank} ended first: {self.why}")
        error.code = Exit(self.code)
        return error


@dataclass
class Watch:
    """The thread of one rank; `ended` is the first other rank that was found to have ended.

    A rank without a beat for `silent_s` seconds is given up. `store` must be a connection of its
    own, since others wait in theirs.
    """

    store: Store
    rank: int
    count: int
    silent_s: float
    ended: Ended | None = None
    _beats: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to tell and to listen; every rank must have called this soon."""
        self._thread = threading.Thread(target=self._run, name="imitate-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def fail(self, why: str, code: int) -> None:
        """Tell the other ranks that this one ends, unless one has ended before."""
        if self.ended is None:
            text = json.dumps({"rank": self.rank, "why": why, "code": code})
            self.store.compare_set(FAILED, "", text)

    def wait(self) -> Ended | None:
        """Return the rank that has ended, or None when none is found in the time it takes."""
        end = time.monotonic() + self.silent_s + 5 * BEAT_S
        while self.ended is None and time.monotonic() < end:
            time.sleep(BEAT_S / 10)
        return self.ended

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set() and self.ended is None:
            turn += 1
            try:
                self.store.set(f"beat {self.rank}", str(turn))
                self.ended = self._failed() or self._silent()
            except RuntimeError:
                self.ended = Ended(
                    rank=0, why="or its machine can no longer be reached", code=Exit.TERMINATED
                )
            self._stop.wait(BEAT_S)
        # the main thread may wait in a collective for ever
        if not self._stop.wait(GRACE_S) and self.ended is not None:
            sys.stderr.write(f"imitate: {self.ended.error()}\n")
            sys.stderr.flush()
            os._exit(self.ended.code)

    def _failed(self) -> Ended | None:
        if not self.store.check([FAILED]):
            return None
        told = Ended(**json.loads(self.store.get(FAILED)))
        return None if told.rank == self.rank else told

    def _silent(self) -> Ended | None:
        now = time.monotonic()
        for rank in range(self.count):
            name = f"beat {rank}"
            beat = self.store.get(name) if self.store.check([name]) else b""
            before, since = self._beats.get(rank, (None, now))
            self._beats[rank] = (beat, since if beat == before else now)
            if beat == before and now - since > self.silent_s:
                return Ended(rank=rank, why="was killed or is lost", code=Exit.TERMINATED)
        return None
