"""What a run writes down while it goes: metrics.jsonl, curves.png and log.txt."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..contract import InputError, UsageError
from ..files import write_bytes
from .records.tracker import Tracking

TIMED = ("samples_per_s", "data_wait")  # the fields that may differ between equal runs

Row = dict[str, Any]


class Logbook:
    """The records of one run; a context manager that holds the run for this process alone.

    `metrics.jsonl` has one line a step: step (counted from 1), samples (consumed so far), epoch
    (from 0), loss, loss/<term>, lr, samples_per_s, and data_wait (share of the step's time spent
    waiting for data); after a step that was validated also validate/…. A `tracker` is told the
    same.
    """

    def __init__(
        self, folder: Path, *, quiet: bool = False, tracking: Tracking | None = None
    ) -> None:
        self.folder, self.quiet, self.tracking = folder, quiet, tracking
        self.metrics = folder / "metrics.jsonl"
        self._log: BinaryIO
        self._lines: BinaryIO

    def __enter__(self) -> Logbook:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = (self.folder / "log.txt").open("ab")
        try:
            # the kernel drops the lock with the process, however that ends
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._log.close()
            raise UsageError(
                "another process is training this run",
                where=str(self.folder),
                todo="wait for it, or train beside it with --no-resume",
            ) from None
        self._lines = self.metrics.open("ab")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.tracking is not None:
            self.tracking.end(self.tell)
        self._lines.close()
        self._log.close()

    def tell(self, line: str) -> None:
        """Write a line to log.txt with the time, and to stderr unless quiet."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._log.write(f"{stamp} {line}\n".encode())
        self._log.flush()
        if not self.quiet:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def record(self, row: Mapping[str, Any]) -> None:
        """Append the metrics of one step."""
        self._lines.write(json.dumps(row, sort_keys=True).encode() + b"\n")
        self._lines.flush()
        if self.tracking is not None:
            self.tracking.log(row, self.tell)

    def sync(self) -> None:
        """Make the metrics durable; to be called before a checkpoint is written."""
        os.fsync(self._lines.fileno())

    def cut_after(self, step: int) -> None:
        """Forget the metrics of later steps, which will be taken again."""
        kept = [line for line, row in _numbered(self.metrics) if row["step"] <= step]
        self._lines.close()
        write_bytes(self.metrics, b"".join(kept))
        self._lines = self.metrics.open("ab")
        if self.tracking is not None:
            self.tracking.begin(step, self.tell)

    def rows(self) -> list[Row]:
        """Return the metrics of every step so far."""
        return read_metrics(self.metrics)

    def draw(self) -> None:
        """Draw curves.png: losses, retrieval and the learning rate over the samples."""
        from .records.curves import draw_curves

        rows = self.rows()
        if rows:
            write_bytes(self.folder / "curves.png", draw_curves(rows))


def _numbered(path: Path) -> list[tuple[bytes, Row]]:
    """Return the whole lines of a metrics file; a killed process may leave half a line."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    try:
        return [(line, json.loads(line)) for line in lines if line.endswith(b"\n")]
    except ValueError:
        raise InputError(
            "the metrics are damaged", where=str(path), todo="start anew with --no-resume"
        ) from None


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.jsonl, one for each step."""
    return [row for _, row in _numbered(path)]
