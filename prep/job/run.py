"""A prepared set from a listing: chunks on workers, then manifest, rejects, and the card last."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...contract import CANNOT_WRITE, InputError, UsageError
from ...files import read_json, set_private, sweep_partials, write_json
from ...options import reasons_text
from ...work import Interrupts, Progress, alone, command_line, run_tasks
from ..record import Record
from ..sheets.report import REPORT, write_report
from .card import machine
from .chunk import Chunk, close_tools, open_decoder, prepare_chunk
from .closing import Outcome, nothing
from .earlier import BEFORE, Parts, standing
from .gather import gather, sweep
from .plan import CARD, PARTS, Effort, Job, unusable
from .rows import Identity, identity, reject_row

CHUNK = 32  # records a chunk: what a kill loses at most


def prepare(job: Job, effort: Effort) -> Outcome:
    """Prepare a set, or go on with it, or find it done.

    A set goes on when it was begun, when its archive has changed since, or when rejects are to be
    retried; what still stands is kept, and the bytes are those of a run over the archive as it is.
    Raises InputError when nothing could be prepared (nothing is left behind then), UsageError
    when the folder holds a set of another plan, Stopped when interrupted.
    """
    start = time.monotonic()
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        if (done := _finished(job)) is not None:
            _write_report(job)
            return Outcome(card=done, path=job.out, seconds=time.monotonic() - start, fresh=False)
        set_private(job.plan.listing.access)
        with _writing(job.out):
            card = _prepare(job, effort, start)
            _write_report(job)
    finally:
        close_tools()
        os.umask(umask)
    return Outcome(card=card, path=job.out, seconds=time.monotonic() - start, fresh=True)


def _finished(job: Job) -> dict[str, Any] | None:
    """Return the card of the set if nothing is left to do; UsageError when another lies there."""
    for mark in (job.out / CARD, job.out / PARTS / "plan.json"):
        if not mark.is_file():
            continue
        before = read_json(mark)
        if lines := job.plan.differences(before):
            state = "prepared" if mark.name == CARD else "begun"
            raise UsageError(
                f"this set is already {state} in another way:\n    " + "\n    ".join(lines),
                where=str(job.out),
                todo="leave it and prepare another with --name NAME, or anew beside it with "
                "--no-resume; or delete the folder",
            )
        same = before.get("inputs") == job.plan.as_json()["inputs"]
        if mark.name == CARD and same and not job.retry & before["rejected"].keys():
            shutil.rmtree(job.out / PARTS, ignore_errors=True)
            return before
    return None


def _write_report(job: Job) -> None:
    """Write the report of a finished set unless it is there: a kill may have come before it."""
    if job.with_manifest and not (job.out / REPORT).is_file():
        write_report(job.out, open_decoder())


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a disk that is full or closed to us into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise InputError(
            f"cannot write: {error.strerror}",
            where=str(folder),
            todo="make room or choose another --root; the same command then goes on",
        ) from None


def _prepare(job: Job, effort: Effort, start: float) -> dict[str, Any]:
    known, todo = job.records()
    for what, where in unusable(todo):
        raise InputError(what, where=where, todo="rename one of the files")
    rejects = [reject_row(record, record.rejection) for record in known if record.rejection]
    if not todo:
        raise nothing(rejects, job.plan.listing.dataset)
    parts = Parts(job)
    with alone(parts.folder, "preparing this set"):
        sweep_partials(job.out)
        places = standing(job, parts, todo)
        kept = len(places)
        _run_chunks(_chunks(job, parts, todo, places), len(todo), job, effort)
        sweep_partials(job.out)  # of workers that were killed
        records = {identity(record): record for record in todo}
        try:
            card = gather(job, parts, records, places, rejects)
        except InputError:
            _discard(job, parts)
            raise
        card["run"] = {
            "command": command_line(),
            "archive": sorted({str(record.root.absolute()) for record in (*known, *todo)}),
            "kept": kept,
            "removed": sweep(job, parts),
            "seconds": round(time.monotonic() - start, 1),
            "machine": machine(),
        }
        (job.out / REPORT).unlink(missing_ok=True)  # it tells of the set as it was
        write_json(job.out / CARD, card)  # last: it is the commit mark
        parts.clear()
    return card


def _chunks(
    job: Job, parts: Parts, todo: Sequence[Record], places: dict[Identity, int]
) -> list[Chunk]:
    """Return the chunks of what is still to be done, and enter them into `places`."""
    left = [record for record in todo if identity(record) not in places]
    first = max(parts.numbers(), default=-1) + 1
    chunks = []
    for number, begin in enumerate(range(0, len(left), CHUNK), start=first):
        records = tuple(left[begin : begin + CHUNK])
        files = [name for r in records for name in (r.source, r.report) if isinstance(name, str)]
        expected = {name: job.expected[name] for name in files if name in job.expected}
        chunks.append(
            Chunk(
                records=records,
                assignment=job.assignment,
                result=parts.path(number),
                expected=expected,
            )
        )
        places.update((identity(record), number) for record in records)
    return chunks


def _run_chunks(chunks: Sequence[Chunk], total: int, job: Job, effort: Effort) -> None:
    rejected = Counter[str]()
    what = f"prep {job.plan.listing.dataset}"
    with Interrupts() as interrupts, Progress(what, total, effort.progress) as progress:
        progress.start_at(total - sum(len(chunk.records) for chunk in chunks))
        for counts in run_tasks(
            prepare_chunk,
            chunks,
            workers=effort.workers,
            scheduler=effort.scheduler,
            interrupts=interrupts,
        ):
            done = sum(counts.values())
            counts.pop("prepared", None)
            rejected.update(counts)
            note = f"{rejected.total()} rejected"
            progress.advance(done, f"{note}: {reasons_text(rejected)}" if rejected else note)


def _discard(job: Job, parts: Parts) -> None:
    """Remove what a run without any prepared row has written, unless the set was finished once."""
    if BEFORE in parts.numbers():
        return
    shutil.rmtree(parts.folder)
    with contextlib.suppress(OSError):
        job.out.rmdir()
