"""A prepared set from a listing: chunks on workers, then manifest, rejects, and the card last."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...contract import REASONS, ImitateError, InputError, UsageError
from ...files import (
    blake3_file,
    read_json,
    set_private,
    sweep_partials,
    to_arrow,
    write_json,
    write_table,
)
from ...options import reasons_text
from ...schema import MANIFEST, REJECTS
from ...work import Interrupts, Ledger, Progress, command_line, run_tasks
from ..download.tree import readable
from ..record import Record, Rejection
from .card import Plan, funnel_text, machine, make_card, manifest_facts
from .chunk import Assignment, Chunk, Row, close_tools, prepare_chunk, reject_row

CHUNK = 32  # records a chunk: what a kill loses at most
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
PARTS = ".parts"
CARD = "card.json"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How the work is done; nothing of it changes the result."""

    workers: int = 1
    scheduler: str | None = None
    progress: str = "none"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished set holds, as its card says; `fresh` unless an earlier run had made it."""

    card: dict[str, Any]
    path: Path
    seconds: float
    fresh: bool

    @property
    def faults(self) -> int:
        """Rows that are damaged or refused; what was never downloaded is counted apart."""
        rejected = self.card["rejected"]
        return sum(
            count
            for code, count in rejected.items()
            if REASONS[code].kind == "fault" and code != "file_missing"
        )

    @property
    def present(self) -> int:
        """Rows whose picture is there."""
        total: int = self.card["rows"] + sum(self.card["rejected"].values())
        return total - int(self.card["rejected"].get("file_missing", 0))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One set to be prepared: its plan, its folder, and what every chunk needs to know.

    `with_manifest` is off for loose pictures, which become PNGs and rejects only.
    """

    plan: Plan
    assignment: Assignment
    limit: int | None = None
    with_manifest: bool = True

    @property
    def out(self) -> Path:
        """Folder of the set."""
        return self.assignment.out

    def records(self) -> tuple[list[Record], list[Record]]:
        """Return the records whose verdict is known already, and those still to be done.

        Both sorted by source. With a limit, only the first that are to be done are taken, and
        nothing that is known to be left out.
        """
        known: list[Record] = []
        todo: list[Record] = []
        for record in sorted(self.plan.listing.records, key=lambda r: (r.source, r.image_id or "")):
            late = record.view_source == "header"
            if record.rejection is None and not (late or self.assignment.views.keeps(record.view)):
                record = replace(record, rejection=Rejection(reason="view_not_selected"))
            (known if record.rejection else todo).append(record)
        return ([], todo[: self.limit]) if self.limit and todo else (known, todo)


def beside(folder: Path) -> Path:
    """Return `folder`, or the first of `folder-2`, `folder-3` … when something is there."""
    number = 1
    path = folder
    while path.exists():
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")
    return path


def prepare(job: Job, effort: Effort) -> Outcome:
    """Prepare a set, or go on with it, or find it done.

    Raises InputError when nothing could be prepared (nothing is left behind then), UsageError
    when the folder holds a set of another plan, Stopped when interrupted.
    """
    start = time.monotonic()
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        if (done := _finished(job)) is not None:
            return Outcome(card=done, path=job.out, seconds=time.monotonic() - start, fresh=False)
        set_private(job.plan.listing.access)
        with _writing(job.out):
            card = _prepare(job, effort, start)
    finally:
        close_tools()
        os.umask(umask)
    return Outcome(card=card, path=job.out, seconds=time.monotonic() - start, fresh=True)


def _finished(job: Job) -> dict[str, Any] | None:
    """Return the card of the finished set; UsageError when that or a begun one differs."""
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
        if mark.name == CARD:
            shutil.rmtree(job.out / PARTS, ignore_errors=True)
            return before
    return None


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
    _check_keys(todo)
    rejects = [reject_row(record, record.rejection) for record in known if record.rejection]
    if not todo:
        raise _nothing(rejects, job)
    job.out.mkdir(parents=True, exist_ok=True)
    sweep_partials(job.out)
    ledger = Ledger(job.out / PARTS, job.plan.as_json())
    write_json(job.out / PARTS / "plan.json", job.plan.as_json())
    chunks = [
        Chunk(
            records=tuple(todo[begin : begin + CHUNK]),
            assignment=job.assignment,
            result=ledger.path(begin // CHUNK),
        )
        for begin in range(0, len(todo), CHUNK)
    ]
    _run_chunks(chunks, len(todo), job, effort)
    parts = (ledger.load(index) for index in range(len(chunks)))
    card = _gather(job, parts, rejects, len(known) + len(todo))
    card["run"] = {
        "command": command_line(),
        "seconds": round(time.monotonic() - start, 1),
        "machine": machine(),
    }
    write_json(job.out / CARD, card)  # last: it is the commit mark
    ledger.clear()
    return card


def _check_keys(records: Sequence[Record]) -> None:
    """Raise InputError for a key that two images share, or that cannot name a file."""
    keys: dict[str, Record] = {}
    for record in records:
        key = record.key
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", key) and record.target is None:
            raise InputError("an image id cannot name a file", where=readable(record.source))
        if record.target is None and (twin := keys.setdefault(key, record)) is not record:
            raise InputError(
                "two images have one key",
                where=f"{readable(twin.source)} and {readable(record.source)}",
                todo="rename one of the files",
            )


def _run_chunks(chunks: Sequence[Chunk], total: int, job: Job, effort: Effort) -> None:
    open_chunks = [chunk for chunk in chunks if not chunk.result.is_file()]
    rejected = 0
    what = f"prep {job.plan.listing.dataset}"
    with Interrupts() as interrupts, Progress(what, total, effort.progress) as progress:
        progress.start_at(total - sum(len(chunk.records) for chunk in open_chunks))
        for counts in run_tasks(
            prepare_chunk,
            open_chunks,
            workers=effort.workers,
            scheduler=effort.scheduler,
            interrupts=interrupts,
        ):
            rejected += counts["rejected"]
            progress.advance(sum(counts.values()), f"{rejected} rejected")


def _gather(
    job: Job, parts: Iterable[dict[str, Any]], rejects: list[Row], total: int
) -> dict[str, Any]:
    """Write the tables from the finished chunks, and return the card."""
    import pyarrow as pa

    tables, boxes = [to_arrow(MANIFEST, [])], Counter[str]()
    for part in parts:
        tables.append(to_arrow(MANIFEST, part["rows"]))
        rejects += part["rejects"]
        boxes.update(part["boxes"])
    manifest = pa.concat_tables(tables)
    if manifest.num_rows + len(rejects) != total:
        raise ImitateError(f"{total} rows came in, {manifest.num_rows + len(rejects)} went out")
    if not manifest.num_rows:
        _discard(job.out)
        raise _nothing(rejects, job)
    if job.with_manifest:
        write_table(job.out / "manifest.parquet", MANIFEST, manifest.sort_by("key"))
    rejects.sort(key=lambda row: (row["source"], row["image_id"] or "", row["reason"]))
    write_table(job.out / "rejects.parquet", REJECTS, rejects)
    rejected = Counter(row["reason"] for row in rejects)
    card = make_card(job.plan, name=job.out.name, total=total, rejected=rejected, boxes=boxes)
    if job.with_manifest:
        card |= manifest_facts(manifest)
    card["files"] = {path.name: blake3_file(path) for path in sorted(job.out.glob("*.parquet"))}
    return card


def _discard(out: Path) -> None:
    """Remove what a run without any prepared row has written."""
    shutil.rmtree(out / PARTS)
    with contextlib.suppress(OSError):
        out.rmdir()


def _nothing(rejects: Sequence[Row], job: Job) -> InputError:
    counts = Counter(row["reason"] for row in rejects)
    first = next((row for row in rejects if REASONS[row["reason"]].kind == "fault"), None)
    example = f"; the first fault: {first['reason']} of {first['source']}" if first else ""
    why = "; ".join(f"{code}: {REASONS[code].text}" for code, _ in counts.most_common(2))
    return InputError(
        f"nothing of {job.plan.listing.dataset} could be prepared: {reasons_text(counts)}{example}",
        todo=f"{why or 'the archive lists no picture'}; nothing was written",
    )


def closing_text(outcome: Outcome) -> str:
    """Return the funnel, remarks, and the closing sentence of a finished set."""
    card = outcome.card
    lines = [funnel_text(card), *(f"note: {note}" for note in card["notes"])]
    if card["partial"]:
        lines.append(
            f"note: a partial archive: {card['listed_but_absent']} listed but not there; "
            "they do not count against --max-failures"
        )
    for pair, count in (card.get("shared_subjects") or {}).items():
        if count:
            lines.append(f"note: {count} patients are in both splits of {pair}")
    done = "prepared" if outcome.fresh else "already prepared:"
    total = card["rows"] + sum(card["rejected"].values())
    lines.append(
        f"{done} {card['rows']} of {total} rows in {outcome.path}; "
        f"left out: {reasons_text(card['rejected'])}"
    )
    return "\n".join(lines)
