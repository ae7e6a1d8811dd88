"""The rows of a set: what the archive says of an image, joined with what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import digest_of
from ..download.reports import ReportPlace
from ..download.tree import readable
from ..record import Mask, Record, Rejection

Row = dict[str, Any]
Identity = tuple[str, str | None]  # source and image id: no two records of a listing share both


def identity(record: Record | Mapping[str, Any]) -> Identity:
    """Return what tells a record, or a row made from one, from all others of its archive."""
    if isinstance(record, Record):
        return source_of(record), record.image_id
    return record["source"], record["image_id"]


def source_of(record: Record) -> str:
    """Return what the tables call the original: its path, or the name that stands for it."""
    return record.alias or readable(record.source)


def told(record: Record, dataset: str) -> Row:
    """Return the columns that the archive's tables alone decide; they cost nothing to renew."""
    columns = {
        "key": record.key,
        "dataset": dataset,
        "subject_id": record.subject_id,
        "study_id": record.study_id,
        "image_id": record.image_id,
        "split": record.split,
        "source": source_of(record),
        "labels": dict(record.labels),
        "label_source": record.label_source,
        "metadata": dict(record.metadata),
    }
    if record.view_source == "header":
        return columns
    return {**columns, "view": record.view, "view_source": record.view_source}


def reject_row(record: Record, rejection: Rejection) -> Row:
    """Return the row of the rejects table for a record."""
    return {
        "source": source_of(record),
        "image_id": record.image_id,
        "study_id": record.study_id,
        "stage": rejection.stage,
        "reason": rejection.reason,
        "detail": rejection.detail,
    }


def work_of(record: Record, place: ReportPlace | None, expected: Mapping[str, str]) -> str:
    """Return the digest of all that decides a record's picture and texts, beside the options.

    Files count by size (a report in a zip by its CRC-32), and by the checksum that is `expected`
    of them; what the archive's tables say of split, labels or patient does not count.
    """
    report, mask = record.report, record.mask
    named = isinstance(report, str)
    files = [
        _size(record.root / record.source),
        place.mark(str(report)) if named and place else None,
        _size(mask) if isinstance(mask, Path) else None,
    ]
    return digest_of(
        [
            [*identity(record), record.study_id, record.target, record.view_source == "header"],
            [readable(str(report)) if named else _shown(report), _mask_shown(mask, record.root)],
            [[box.x, box.y, box.w, box.h, box.label] for box in record.boxes],
            files,
            [expected.get(record.source), expected.get(str(report)) if named else None],
        ]
    )[:32]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _shown(value: object) -> str:
    return repr(value).encode("utf-8", "backslashreplace").decode()


def _mask_shown(mask: Mask | None, root: Path) -> str:
    if isinstance(mask, Path):
        return readable(str(mask.relative_to(root) if mask.is_relative_to(root) else mask.name))
    return _shown(mask)
