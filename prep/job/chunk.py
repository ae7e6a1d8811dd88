"""What a worker does with one chunk of records: reports into sections, pictures into PNGs."""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...contract import Access, Reject
from ...files import set_private, write_bytes
from ...work import save_chunk
from ..download.reports import ReportPlace, close_archives
from ..download.tree import readable
from ..pixels.decoder import Decoder
from ..pixels.png import Picture, PixelOptions
from ..policy import TextPolicy, ViewPolicy
from ..record import Box, Record, Rejection

if TYPE_CHECKING:
    from ..reports.sections import ReportParser, ReportText

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What is the same for all chunks of a set: where to write, and what is asked for.

    Without a `text` policy reports are not looked at.
    """

    dataset: str
    access: Access
    out: Path
    pixels: PixelOptions
    views: ViewPolicy
    text: TextPolicy | None
    reports: ReportPlace | None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Records that are done together, and the file that holds their result when finished."""

    records: tuple[Record, ...]
    assignment: Assignment
    result: Path


def prepare_chunk(chunk: Chunk) -> dict[str, int]:
    """Prepare a chunk's records: PNGs, then one file with manifest rows and rejects.

    Returns how many rows were prepared and rejected.
    """
    set_private(chunk.assignment.access)
    rows: list[Row] = []
    rejects: list[Row] = []
    boxes: Counter[str] = Counter()
    for record in chunk.records:
        stage = _Stage()
        try:
            row = _prepare(record, chunk.assignment, stage)
        except Reject as reject:
            rejection = Rejection(reason=reject.reason, stage=stage.name, detail=reject.detail)
            rejects.append(reject_row(record, rejection))
            continue
        boxes += Counter(kept=len(row["boxes"]), dropped=len(record.boxes) - len(row["boxes"]))
        rows.append(row)
    save_chunk(chunk.result, {"rows": rows, "rejects": rejects, "boxes": boxes})
    return {"prepared": len(rows), "rejected": len(rejects)}


def reject_row(record: Record, rejection: Rejection) -> Row:
    """Return the row of the rejects table for a record."""
    return {
        "source": readable(record.source),
        "image_id": record.image_id,
        "study_id": record.study_id,
        "stage": rejection.stage,
        "reason": rejection.reason,
        "detail": rejection.detail,
    }


@dataclass
class _Stage:
    """Which stage a record is in, for the reject it may end as."""

    name: str = "archive"


def _prepare(record: Record, assignment: Assignment, stage: _Stage) -> Row:
    """Return a record's manifest row, its PNG written; Reject otherwise. Text comes first."""
    stage.name = "reports"
    texts = report_columns(record, assignment)
    stage.name = "pixels"
    picture = _decoder().convert(record.root / record.source, assignment.pixels)
    view, view_source = record.view, record.view_source
    if view_source == "header":
        view, view_source = picture.view, "header" if picture.view else "none"
        if not assignment.views.keeps(view):
            raise Reject("view_not_selected")
    write_bytes(assignment.out / record.image, picture.png)
    return {
        "key": record.key,
        "dataset": assignment.dataset,
        "subject_id": record.subject_id,
        "study_id": record.study_id,
        "image_id": record.image_id,
        "view": view,
        "view_source": view_source,
        "split": record.split,
        "image": record.image,
        "source": readable(record.source),
        "labels": dict(record.labels),
        "label_source": record.label_source,
        "boxes": boxes_in(picture, record.boxes),
        "mask": None,
        "mask_blake3": None,
        "metadata": dict(record.metadata),
        **_picture_columns(picture),
        **texts,
    }


def _picture_columns(picture: Picture) -> Row:
    names = (
        "height width bits source_height source_width orientation scale_x scale_y offset_x "
        "offset_y norm png_blake3 pixel_blake3"
    )
    return {name: getattr(picture, name) for name in names.split()}


def boxes_in(picture: Picture, boxes: tuple[Box, ...]) -> list[Row]:
    """Return boxes in output pixels, clipped to the picture; those left without area are out."""
    placed = []
    for box in boxes:
        left = max(box.x * picture.scale_x + picture.offset_x, 0.0)
        top = max(box.y * picture.scale_y + picture.offset_y, 0.0)
        right = min((box.x + box.w) * picture.scale_x + picture.offset_x, float(picture.width))
        bottom = min((box.y + box.h) * picture.scale_y + picture.offset_y, float(picture.height))
        if right > left and bottom > top:
            placed.append(
                {"x": left, "y": top, "w": right - left, "h": bottom - top, "label": box.label}
            )
    return placed


NO_TEXT: Mapping[str, Any] = {
    "findings": "",
    "impression": "",
    "sections": {},
    "sentences": {},
    "section_source": "none",
    "report_labels": {},
}


def report_columns(record: Record, assignment: Assignment) -> Row:
    """Return the text columns of a record; Reject when its report is not what is asked for."""
    policy = assignment.text
    if policy is None:
        return dict(NO_TEXT)
    text = _report_text(record, assignment.reports, policy)
    if (reason := _text_verdict(text, policy)) and not policy.keep_image_only:
        raise Reject(reason)
    if text is None:
        return dict(NO_TEXT)
    if reason:
        return {**NO_TEXT, "sections": dict(text.sections)}
    return {
        "findings": text.findings,
        "impression": text.impression,
        "sections": dict(text.sections),
        "sentences": {name: list(lines) for name, lines in text.sentences.items()},
        "section_source": text.section_source,
        "report_labels": {},
    }


def _report_text(
    record: Record, place: ReportPlace | None, policy: TextPolicy
) -> ReportText | None:
    from ..reports.sections import decode_report

    parser = report_parser(policy.compat, policy.last_paragraph)
    report = record.report
    if report is None or (isinstance(report, str) and place is None):
        return None
    if isinstance(report, str):
        assert place is not None
        return parser.parse(decode_report(place.read(report)), record.study_id)
    return parser.from_sections(report.findings, report.impression, dict(report.others))


def _text_verdict(text: ReportText | None, policy: TextPolicy) -> str | None:
    """Return the reason that leaves a report out, or None."""
    from ..reports.sections import count_tokens

    if text is None:
        return "no_report"
    last_paragraph = text.section_source == "last_paragraph"
    if not policy.has_text(text.findings, text.impression, last_paragraph=last_paragraph):
        return "no_text"
    if count_tokens(text.impression, text.findings) < policy.min_tokens:
        return "too_short"
    return None


@functools.lru_cache(maxsize=4)
def report_parser(compat: str, last_paragraph: str) -> ReportParser:
    """Return this process's parser; building its tokenizer takes longer than many reports."""
    from ..reports.sections import ReportParser

    return ReportParser(compat=compat, last_paragraph=last_paragraph)


_OPEN = contextlib.ExitStack()  # what this process holds open between chunks


@functools.lru_cache(maxsize=1)
def _decoder() -> Decoder:
    """Return this process's decoding child, started at the first picture."""
    return _OPEN.enter_context(Decoder())


def close_tools() -> None:
    """End the decoding child and close the zip files that this process holds open."""
    _OPEN.close()
    _decoder.cache_clear()
    close_archives()


atexit.register(close_tools)
