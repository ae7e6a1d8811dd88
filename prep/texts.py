"""Reports of any origin into one table of their sections, without pictures."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import Exit, InputError, Reject, Stopped
from ..files import write_table
from ..options import reasons_text, say
from ..schema import REJECTS, SECTIONS
from ..work import Interrupts, Progress
from .archives.loose import LooseReport, loose_reports
from .download.reports import close_archives
from .job.chunk import labels_in, report_parser
from .job.conduct import check
from .job.plan import pick
from .job.rows import Row
from .policy import TextPolicy
from .record import Sections

if TYPE_CHECKING:
    from .reports.sections import ReportParser


@dataclass(frozen=True, kw_only=True)
class TextOutcome:
    """How many reports came in and went out, and why the others did not."""

    total: int
    rejected: dict[str, int]


def prepare_reports(paths: Sequence[Path], options: Mapping[str, Any]) -> None:
    """Carry out `imitate prep reports`; its files are private, as a patient's texts are."""
    start = time.monotonic()
    budget, out = check(options), options["out"]
    policy = pick(TextPolicy, options)
    reports = _found(paths)
    umask = os.umask(0o077)
    try:
        progress = "none" if options["quiet"] else options["progress"]
        done = write_sections(reports, out, policy, progress=progress)
    except Stopped as stopped:
        terminated = stopped.code == Exit.TERMINATED
        raise Stopped("stopped; nothing was written", terminated=terminated) from None
    finally:
        os.umask(umask)
    faults = sum(done.rejected.values())
    result = {
        "dataset": "reports",
        "in": done.total,
        "out": done.total - faults,
        "rejected": done.rejected,
        "path": str(out),
        "seconds": round(time.monotonic() - start, 1),
    }
    sentence = (
        f"wrote the sections of {done.total - faults} of {done.total} reports to {out}; "
        f"left out: {reasons_text(done.rejected)}"
    )
    say(result, sentence, as_json=options["as_json"])
    budget.check(faults, done.total)


def rejects_path(out: Path) -> Path:
    """Return where the rejects of a table of sections go: beside it."""
    return out.with_name(f"{out.stem}.rejects.parquet")


def _found(paths: Sequence[Path]) -> list[LooseReport]:
    reports = list(loose_reports(paths))
    close_archives()
    if not reports:
        raise InputError("no report", where=", ".join(map(str, paths)))
    return reports


def write_sections(
    reports: Sequence[LooseReport], out: Path, policy: TextPolicy, *, progress: str
) -> TextOutcome:
    """Write the sections of every report, sorted by report_id, and the rejects beside them.

    Of two reports with one id the second is rejected. Raises InputError when none can be read.
    """
    parser = report_parser(policy.compat, policy.last_paragraph)
    rows: dict[str, Row] = {}
    rejects: list[Row] = []
    with Interrupts() as interrupts, Progress("prep reports", len(reports), progress) as bar:
        for report in reports:
            interrupts.check()
            try:
                if report.report_id in rows:
                    raise Reject("duplicate_name")
                rows[report.report_id] = _row(report, parser, policy)
            except Reject as reject:
                rejects.append(_reject_row(report, reject))
            bar.advance(1)
    rejected = Counter(row["reason"] for row in rejects)
    if not rows:
        raise InputError(f"no report can be read: {reasons_text(rejected)}")
    rejects.sort(key=lambda row: (row["source"], row["reason"]))
    write_table(rejects_path(out), REJECTS, rejects)
    write_table(out, SECTIONS, [rows[report_id] for report_id in sorted(rows)])
    return TextOutcome(total=len(reports), rejected=dict(rejected))


def _row(report: LooseReport, parser: ReportParser, policy: TextPolicy) -> Row:
    from .reports.sections import decode_report

    content = report.content
    if isinstance(content, Reject):
        raise content
    if isinstance(content, Sections):
        text = parser.from_sections(content.findings, content.impression, dict(content.others))
    else:
        text = parser.parse(decode_report(content), report.report_id)
    return {
        "report_id": report.report_id,
        "findings": text.findings,
        "impression": text.impression,
        "sections": text.sections,
        "spans": text.spans,
        "section_source": text.section_source,
        "report_labels": labels_in(text, policy),
    }


def _reject_row(report: LooseReport, reject: Reject) -> Row:
    return {
        "source": report.source,
        "image_id": None,
        "study_id": report.report_id,
        "stage": "reports",
        "reason": reject.reason,
        "detail": reject.detail,
    }
