"""How long work runs: a pool of Dask workers, a ledger of finished chunks, progress, interrupts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from .contract import Stopped, UsageError
from .files import canonical_json, digest_of, write_bytes

Task = TypeVar("Task")
Result = TypeVar("Result")

LOCK = ".lock"  # file in a folder that one process holds alone
PROGRESS = ("auto", "bar", "lines", "none")  # of --progress
LINE_EVERY_S = 5.0  # seconds between plain progress lines


def command_line() -> str:
    """Return the command as typed, to be shown where it resumes the work."""
    return "imitate " + shlex.join(sys.argv[1:])


class Interrupts:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into a flag; a second one ends the process at once.

    SIGUSR1 is how a batch system warns that a job's time is nearly over. Work asks `check()`
    between items, so state is saved before `Stopped` is raised.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            # signals can only be caught in the main thread; elsewhere the caller's rules hold
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == signal.SIGUSR1:
                return  # a launcher may pass on the warning that the batch system gave already
            os._exit(128 + number)
        self.signal = number

    def check(self) -> None:
        """Raise Stopped when a signal has come."""
        if self.signal is not None:
            raise Stopped(
                "stopped; everything finished so far is saved",
                todo=f"go on with: {command_line()}",
                terminated=self.signal != signal.SIGINT,
                warned=self.signal == signal.SIGUSR1,
            )


@contextlib.contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold `folder` for this process; the lock ends with the process, however it ends.

    Raises UsageError while another process is `doing` the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process is {doing}",
                where=str(folder),
                todo="wait until it has finished, then call this again",
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def check_progress(mode: str) -> None:
    """Raise UsageError for a `--progress` that there is not."""
    if mode not in PROGRESS:
        raise UsageError(f"--progress {mode!r} is not one of {', '.join(PROGRESS)}")


class Progress:
    """Progress on stderr: a bar on a terminal, else a plain line every few seconds."""

    def __init__(self, what: str, total: int, mode: str = "auto") -> None:
        check_progress(mode)
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "lines"
        self.what, self.total, self.mode = what, total, mode
        self.done, self.note = 0, ""
        self._start = self._last = time.monotonic()
        self._first = self._shown = 0
        self._bar: Any = None
        self._row: Any = None

    def __enter__(self) -> Progress:
        if self.mode == "bar":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._row = self._bar.add_task(self.what, total=self.total, note="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.mode == "lines" and self.done > self._shown:
            self._line()

    def start_at(self, done: int) -> None:
        """Say that `done` items were finished by an earlier run; they do not count in the rate."""
        self.done = self._first = self._shown = done
        self.advance(0)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more items; `note` replaces the remark at the end of the line."""
        self.done += n
        self.note = note or self.note
        if self._bar is not None:
            self._bar.update(self._row, completed=self.done, note=self.note)
        elif self.mode == "lines" and time.monotonic() - self._last >= LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._last, self._shown = time.monotonic(), self.done
        rate = (self.done - self._first) / max(self._last - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        text = f"{self.what} {self.done}/{self.total}, {rate:.1f}/s, {_clock(left)} left"
        sys.stderr.write(f"{text}, {self.note}\n" if self.note else f"{text}\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Ledger:
    """Finished chunks of a stage, one small file each, so that a killed run goes on where it was.

    `plan` is all that decides the result; a ledger of another plan is emptied first.
    """

    def __init__(self, folder: Path, plan: object) -> None:
        self.folder = folder
        mark = folder / "plan"
        digest = digest_of(plan).encode()
        if not mark.is_file() or mark.read_bytes() != digest:
            self.clear()
            write_bytes(mark, digest)

    def clear(self) -> None:
        """Forget every finished chunk and remove the folder."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def path(self, index: int) -> Path:
        """File of chunk `index`."""
        return self.folder / f"{index:06d}.json"

    def has(self, index: int) -> bool:
        """Tell whether chunk `index` is finished."""
        return self.path(index).is_file()

    def load(self, index: int) -> Any:
        """Return what `save_chunk` wrote for chunk `index`."""
        return json.loads(self.path(index).read_bytes())


def save_chunk(path: Path, value: Mapping[str, Any]) -> None:
    """Commit a finished chunk; called by the worker that made it."""
    write_bytes(path, canonical_json(value))


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    interrupts: Interrupts | None = None,
) -> Iterator[Result]:
    """Yield `function(task)` for every task, in the order of completion.

    One worker works in this process. More are processes of a local Dask cluster, or of the one
    at `scheduler`; a worker that dies is replaced and its task done again. `function` must be
    importable and its result small. Raises Stopped between tasks when a signal has come.
    """
    if scheduler is None and workers == 1:
        for task in tasks:
            if interrupts:
                interrupts.check()
            yield function(task)
        if interrupts:
            interrupts.check()
        return
    with _client(min(workers, max(len(tasks), 1)), scheduler) as client:
        yield from _drain(client, function, tasks, interrupts)


def _drain(
    client: Any,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    interrupts: Interrupts | None,
) -> Iterator[Result]:
    """Keep a bounded window of tasks in flight, so memory does not grow with their number."""
    finished: queue.Queue[Any] = queue.Queue()
    window = 4 * max(len(client.scheduler_info(n_workers=-1)["workers"]), 1)
    waiting = iter(tasks)
    running = 0
    while True:
        while running < window and (task := next(waiting, None)) is not None:
            future = client.submit(function, task, pure=False, retries=2)
            future.add_done_callback(finished.put)
            running += 1
        if not running:
            return
        if interrupts:
            interrupts.check()
        with contextlib.suppress(queue.Empty):
            future = finished.get(timeout=0.25)
            running -= 1
            yield future.result()


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 10,
        "distributed.worker.daemon": False,  # a worker may start a decoding process of its own
        "distributed.comm.timeouts.connect": "30s",
    }
    with dask.config.set(settings):
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout="10s")
            except (OSError, TimeoutError, ValueError):
                raise UsageError(
                    f"no Dask scheduler answers at {scheduler}",
                    todo="start one with `dask scheduler`, or leave --scheduler out",
                ) from None
            with client:
                yield client
            return
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # None listens on 0.0.0.0:8787 all the same
                silence_logs=50,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(_ignore_interrupts)
            yield client


def _ignore_interrupts() -> None:
    """Let Ctrl-C reach the main process alone; it stops the workers after saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
