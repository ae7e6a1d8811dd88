"""All that is wrong with an archive, found without preparing anything."""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from ...contract import REASONS, SPLITS, InputError, Reject, TooManyFaults
from ...options import say
from ...work import Interrupts, Progress
from ..download.checksums import verify
from ..download.tree import readable
from ..pixels.elements import is_dicom
from ..pixels.ending import check_ending
from ..pixels.picture import JPEG_MARK, LARGEST, PNG_MARK
from ..record import Record
from .plan import Job, unusable

EXAMPLES = 3  # of each problem
DICOM_HEAD = 132  # bytes until the end of the mark of a DICOM file


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kind of problem; `kind` is fatal (nothing can be prepared), fault, or note."""

    problem: str
    kind: str
    count: int
    examples: tuple[str, ...]
    meaning: str


def audit(job: Job, progress: str = "none") -> list[Problem]:
    """Return every kind of problem of a job's archive, the gravest and most frequent first.

    Reports are read; of pictures only the first bytes, and the whole file where its SHA-256 is
    expected.
    """
    known, todo = job.records()
    found: defaultdict[str, list[str]] = defaultdict(list)
    for record in known:
        reason = record.rejection.reason if record.rejection else ""
        if reason and REASONS[reason].kind == "fault":
            found[reason].append(_named(record, reason))
    name = f"check {job.plan.listing.dataset}"
    with Interrupts() as interrupts, Progress(name, len(todo), progress) as bar:
        for record in todo:
            interrupts.check()
            for reason in _faults(record, job):
                found[reason].append(_named(record, reason))
            bar.advance(1)
    problems = [_problem(code, found[code]) for code in found]
    problems += [
        Problem(
            problem=what, kind="fatal", count=1, examples=(where,), meaning="rename one of them"
        )
        for what, where in unusable(todo)
    ]
    problems += _shared(todo, job)
    rank = {"fatal": 0, "fault": 1, "note": 2}
    return sorted(problems, key=lambda p: (rank[p.kind], -p.count, p.problem))


def _named(record: Record, reason: str) -> str:
    """Return the id of an image, or the path of a file that no id tells from others."""
    by_path = record.image_id is None or reason in ("file_not_listed", "duplicate_name")
    return readable(record.source) if by_path or record.alias else str(record.image_id)


def _problem(code: str, names: Sequence[str]) -> Problem:
    reason = REASONS[code]
    kind = "fault" if reason.kind == "fault" else "note"
    examples = tuple(names[:EXAMPLES])
    return Problem(
        problem=code, kind=kind, count=len(names), examples=examples, meaning=reason.text
    )


def _faults(record: Record, job: Job) -> Iterator[str]:
    """Yield what is wrong with the files of a record, as far as can be told without decoding."""
    from ..reports.sections import decode_report

    path, place, report = record.root / record.source, job.assignment.reports, record.report
    for check in (_plain_faults, lambda path: verify(path, job.expected.get(record.source))):
        try:
            check(path)
        except Reject as reject:
            yield reject.reason
            break
    if job.assignment.text is None:
        return
    if report is None:
        yield "no_report"
    if place is None or not isinstance(report, str):
        return
    try:
        verify(place.path / report, None if place.zipped else job.expected.get(report))
        decode_report(place.read(report))
    except Reject as reject:
        yield reject.reason


def _plain_faults(path: Path) -> None:
    """Reject a file that is no picture by its size or first bytes, or that is cut off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(DICOM_HEAD)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                head = packed.read(DICOM_HEAD)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise Reject("header_unreadable") from None
    except OSError:
        raise Reject("file_missing") from None
    if size == 0 or size > LARGEST:
        raise Reject("file_too_large" if size else "file_empty")
    if not (is_dicom(memoryview(head)) or head.startswith((PNG_MARK, JPEG_MARK))):
        raster = path.name.lower().endswith((".png", ".jpg", ".jpeg"))
        raise Reject("header_unreadable" if raster else "not_dicom")
    check_ending(path)


def _shared(records: Sequence[Record], job: Job) -> Iterator[Problem]:
    """Yield the subjects that are in two splits: a fault, unless a published protocol has it so."""
    subjects = {
        split: {r.subject_id for r in records if r.split == split and r.subject_id}
        for split in SPLITS
    }
    published = job.plan.options.get("protocol", "clean") != "clean"
    for one, other in combinations(SPLITS, 2):
        if shared := sorted(subjects[one] & subjects[other]):
            yield Problem(
                problem=f"shared_subjects_{one}_{other}",
                kind="note" if published else "fault",
                count=len(shared),
                examples=tuple(shared[:EXAMPLES]),
                meaning="a patient is in two splits",
            )


def say_audit(job: Job, *, progress: str, as_json: bool) -> None:
    """Print what is wrong; TooManyFaults for faults, InputError if nothing could be prepared."""
    problems = audit(job, progress)
    known, todo = job.records()
    listing = job.plan.listing
    result = {
        "dataset": listing.dataset,
        "in": len(known) + len(todo),
        "to_do": len(todo),
        "problems": [asdict(problem) for problem in problems],
        "notes": list(listing.notes),
    }
    lines = [
        f"{p.count:>9} {p.problem:<20} {p.kind:<6} {p.meaning}; for example {', '.join(p.examples)}"
        for p in problems
    ]
    lines += [f"note: {note}" for note in listing.notes]
    lines.append(f"{len(todo)} of {len(known) + len(todo)} rows could be prepared")
    say(result, "\n".join(lines), as_json=as_json)
    kinds = {problem.kind for problem in problems}
    if not todo or "fatal" in kinds:
        raise InputError(
            f"{listing.dataset} cannot be prepared as it is",
            todo="the table names what is in the way; nothing was written",
        )
    if "fault" in kinds:
        count = sum(problem.count for problem in problems if problem.kind == "fault")
        raise TooManyFaults(
            f"{count} faults; nothing was written",
            todo="imitate prep leaves faulty files out, names each in rejects.parquet, and says "
            "how many patients two splits share",
        )
