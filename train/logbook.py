"""What a run writes down while it goes: metrics.jsonl, curves.png and log.txt."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..contract import InputError, UsageError
from ..files import write_bytes

TIMED = ("samples_per_s", "data_wait")  # the fields that may differ between equal runs
CURVE_POINTS = 500  # points of a curve; more would only be a thick line

Row = dict[str, Any]


class Logbook:
    """The records of one run; a context manager that holds the run for this process alone.

    `metrics.jsonl` has one line a step: step (counted from 1), samples (consumed so far), epoch
    (from 0), loss, loss/<term>, lr, samples_per_s, and data_wait (share of the step's time spent
    waiting for data).
    """

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        self.folder, self.quiet = folder, quiet
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

    def sync(self) -> None:
        """Make the metrics durable; to be called before a checkpoint is written."""
        os.fsync(self._lines.fileno())

    def cut_after(self, step: int) -> None:
        """Forget the metrics of later steps, which will be taken again."""
        kept = [line for line, row in _numbered(self.metrics) if row["step"] <= step]
        self._lines.close()
        write_bytes(self.metrics, b"".join(kept))
        self._lines = self.metrics.open("ab")

    def rows(self) -> list[Row]:
        """Return the metrics of every step so far."""
        return read_metrics(self.metrics)

    def draw(self) -> None:
        """Draw curves.png: the loss, its terms and the learning rate over the samples."""
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


def _thinned(rows: list[Row]) -> list[Row]:
    """Return at most CURVE_POINTS rows, each the mean of as many steps."""
    size = -(-len(rows) // CURVE_POINTS)
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    return [{k: sum(row[k] for row in group) / len(group) for k in group[0]} for group in groups]


def draw_curves(rows: list[Row]) -> bytes:
    """Return the curves of a run as a PNG picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6))
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    rows = _thinned(rows)
    samples = [row["samples"] for row in rows]
    for name in sorted(key for key in rows[-1] if key == "loss" or key.startswith("loss/")):
        above.plot(samples, [row[name] for row in rows], label=name, linewidth=1)
    above.set_ylabel("loss")
    above.legend(loc="upper right", fontsize="small")
    below.plot(samples, [row["lr"] for row in rows], linewidth=1)
    below.set_ylabel("learning rate")
    below.set_xlabel("samples consumed")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
