"""What a worker does with one chunk of records: reports into sections, pictures into PNGs."""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...contract import Access, Reject
from ...files import blake3_file, blake3_hex, canonical_json, set_private, write_bytes
from ..download.checksums import verify
from ..download.reports import ReportPlace, close_archives
from ..pixels.decoder import Decoder
from ..pixels.mask import Frame, mask_png
from ..pixels.png import Picture, PixelOptions
from ..policy import TextPolicy, ViewPolicy
from ..record import Box, Record, Rejection, Whole
from .rows import Row, identity, reject_row, work_of

if TYPE_CHECKING:
    from ..reports.sections import ReportParser, ReportText


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
    names: Literal["path", "hash"] = "path"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Records that are done together, and the file that holds their result when finished.

    `expected` holds the SHA-256 of those of their files whose archive publishes it.
    """

    records: tuple[Record, ...]
    assignment: Assignment
    result: Path
    expected: Mapping[str, str] = field(default_factory=dict)


def prepare_chunk(chunk: Chunk) -> dict[str, int]:
    """Prepare a chunk's records: PNGs, then one file that says what is done, with rows and rejects.

    Returns how many rows were prepared (under ``prepared``) and rejected, by reason.
    """
    assignment = chunk.assignment
    set_private(assignment.access)
    done: list[Row] = []
    rows: list[Row] = []
    rejects: list[Row] = []
    for record in chunk.records:
        work = work_of(record, assignment.reports, chunk.expected)
        source, image_id = identity(record)
        done.append({"source": source, "image_id": image_id, "image": None, "work": work})
        stage = _Stage()
        try:
            row = _prepare(record, chunk, stage)
        except Reject as reject:
            rejection = Rejection(reason=reject.reason, stage=stage.name, detail=reject.detail)
            rejects.append(reject_row(record, rejection))
            done[-1]["reason"] = reject.reason
        else:
            rows.append({"source": source, "image_id": image_id, **row})
            done[-1]["image"] = row["image"]
    result = canonical_json({"rows": rows, "rejects": rejects})
    write_bytes(chunk.result, canonical_json(done) + result)
    return Counter(row.get("reason", "prepared") for row in done)


@dataclass
class _Stage:
    """Which stage a record is in, for the reject it may end as."""

    name: str = "archive"


def _prepare(record: Record, chunk: Chunk, stage: _Stage) -> Row:
    """Return what was made of a record, its PNG written; Reject otherwise. Text comes first."""
    assignment = chunk.assignment
    verify(record.root / record.source, chunk.expected.get(record.source))
    stage.name = "reports"
    place, report = assignment.reports, record.report
    if place is not None and isinstance(report, str) and not place.zipped:
        verify(place.path / report, chunk.expected.get(report))
    texts = report_columns(record, assignment)
    stage.name = "pixels"
    picture = open_decoder().convert(record.root / record.source, assignment.pixels)
    seen = {}
    if record.view_source == "header":
        seen = {"view": picture.view, "view_source": "header" if picture.view else "none"}
        if not assignment.views.keeps(picture.view):
            raise Reject("view_not_selected")
    mask = _mask_of(record, picture, assignment.pixels)
    image = _image_of(record, assignment)
    write_bytes(assignment.out / image, picture.png)
    if mask is not None:
        write_bytes(assignment.out / record.mask_image, mask)
    return {
        **seen,
        "image": image,
        "boxes": boxes_in(picture, record.boxes),
        "mask": None if mask is None else record.mask_image,
        "mask_blake3": None if mask is None else blake3_hex(mask),
        **_picture_columns(picture),
        **texts,
    }


def _image_of(record: Record, assignment: Assignment) -> str:
    """Return the path of a record's PNG, which with `hash` tells nothing of its source's name."""
    if assignment.names == "path":
        return record.image
    return f"{blake3_file(record.root / record.source)[:16]}.png"


def _mask_of(record: Record, picture: Picture, options: PixelOptions) -> bytes | None:
    """Return the PNG of a record's mask, fitted as its picture; Reject when it is unreadable."""
    if record.mask is None:
        return None
    frame = Frame(
        height=picture.source_height,
        width=picture.source_width,
        size=options.size,
        fit=options.fit,
    )
    if isinstance(record.mask, Path):
        return open_decoder().mask(record.mask, frame)
    return mask_png(record.mask, frame)


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
        "report_labels": labels_in(text, policy),
    }


def labels_in(text: ReportText, policy: TextPolicy) -> dict[str, float]:
    """Return the findings that rules read in a report, where they are asked for."""
    if not policy.report_labels:
        return {}
    from ..reports.findings import report_labels

    return report_labels(text.sentences)


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
    if isinstance(report, Whole):
        return parser.parse(report.text)
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
def open_decoder() -> Decoder:
    """Return this process's decoding child, started at the first picture."""
    return _OPEN.enter_context(Decoder())


def close_tools() -> None:
    """End the decoding child and close the zip files that this process holds open."""
    _OPEN.close()
    open_decoder.cache_clear()
    close_archives()


atexit.register(close_tools)
