"""Any other archive, from a table of its user: one row an image, with what is known of it.

Paths in the table start from the table's own folder or from `--images`; nothing outside that
folder is read. A `report` is the text itself or the path of a .txt file. Nobody said that such
pictures are public, so they count as credentialed.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from ...contract import InputError, UsageError, key_of
from ..download.anytable import open_table
from ..download.columns import Columns, find_columns
from ..download.reports import ReportPlace
from ..download.tables import person
from ..download.tree import Entry, inputs_digest, readable, without_ending
from ..protocols.splits import split_by_group
from ..record import Listing, Record, Rejection, Sections, Whole

SHARES = {"train": 0.7, "validate": 0.1, "test": 0.2}  # of the patients, without a split column
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validate": "validate",
    "validation": "validate",
    "valid": "validate",
    "val": "validate",
    "dev": "validate",
    "test": "test",
    "testing": "test",
    "": "",
}
MARKS = {"true": 1.0, "false": 0.0, "nan": None, "": None}
REPORT_FILE = re.compile(r"[^\n]{1,1000}\.txt")
DICOM = re.compile(r"\.(dcm|dicom)(\.gz)?$", re.IGNORECASE)


def list_table(
    table: Path,
    *,
    seed: int,
    maps: Sequence[str] = (),
    labels: str | None = None,
    images: Path | None = None,
    dataset: str | None = None,
) -> Listing:
    """List the images that a csv, tsv or Parquet names.

    `maps` are `name=Column` for columns of other names, `labels` the label columns besides those
    that begin with `label_`. Without a split column the split is drawn from `seed`, 70/10/20, all
    images of a subject together. Raises UsageError or InputError with every problem of the
    options, the header and the cells at once.
    """
    name = dataset or key_of(table.name.partition(".")[0])
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise UsageError("the name of an archive is letters, digits, - and _", where="--dataset")
    opened = open_table(table)
    columns, problems = find_columns(opened.columns, maps=maps, labels=labels)
    if problems.options or "image" not in columns.named:
        _stop([*problems.options, *problems.table], table, usage=bool(problems.options))
    reader = _Reader(base=_base(table, images), columns=columns)
    for cells in opened.rows(columns.all):
        reader.read(cells)
    if found := [*problems.table, *reader.problems()]:
        _stop(found, table, usage=False)
    if not reader.records:
        raise InputError("the table has no row", where=str(table))
    drawn = "split" not in columns.named
    return Listing(
        dataset=name,
        access="credentialed",
        records=_with_splits(reader.records, seed) if drawn else reader.records,
        inputs=inputs_digest(reader.files.values(), [table]),
        reports=ReportPlace(path=reader.base, zipped=False),
        facts={
            "labels": sorted(columns.labels),
            "views_known": any(record.view for record in reader.records),
            "split": "drawn" if drawn else "column",
            "text": columns.has_text,
        },
        notes=_notes(columns, drawn=drawn),
    )


def _base(table: Path, images: Path | None) -> Path:
    if images is not None and not images.is_dir():
        raise InputError("no such folder", where=str(images), todo="--images names a folder")
    return images or table.parent


def _stop(problems: Sequence[str], table: Path, *, usage: bool) -> NoReturn:
    error = UsageError if usage else InputError
    raise error("the table cannot be read as it is", where=str(table), todo="\n  ".join(problems))


def _notes(columns: Columns, *, drawn: bool) -> tuple[str, ...]:
    if not drawn or "subject_id" in columns.named:
        return ()
    unit = "study" if "study_id" in columns.named else "picture"
    return (f"no column subject_id: the split is drawn by {unit}, not by patient",)


def _with_splits(records: Sequence[Record], seed: int) -> list[Record]:
    """Return the records with a split drawn by patient, or by study or image where unknown."""
    groups = [_group(record) for record in records]
    splits = split_by_group(groups, shares=SHARES, purpose="table split", seed=seed)
    pairs = zip(records, groups, strict=True)
    return [replace(record, split=splits[group]) for record, group in pairs]


def _group(record: Record) -> str:
    if record.subject_id:
        return f"subject {record.subject_id}"
    return f"study {record.study_id}" if record.study_id else f"image {record.image_id}"


@dataclass(kw_only=True)
class _Reader:
    """Makes records of rows, and keeps count of the cells that cannot be, by their first row."""

    base: Path
    columns: Columns
    records: list[Record] = field(default_factory=list)
    files: dict[str, Entry] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    rows: int = 0

    def __post_init__(self) -> None:
        self._inside = self.base.resolve()
        self._seen: set[str] = set()

    def problems(self) -> list[str]:
        """Return a sentence for each kind of fault."""
        return [
            f"{what}: {count} of {self.rows} rows, the first is row {self.first[what]}"
            for what, count in self.faults.items()
        ]

    def read(self, cells: dict[str, str]) -> None:
        """Add the record of a row, or note what is wrong with it."""
        self.rows += 1
        value = {name: cells[column].strip() for name, column in self.columns.named.items()}
        labels = self._labels(cells)
        split = SPLIT_WORDS.get(value.get("split", "").lower())
        if split is None:
            self._fault("split is not train, validate or test")
        path = self._path(value["image"], "image")
        mask = self._path(value["mask"], "mask") if value.get("mask") else None
        report = self._report(value)
        if path is None or split is None:
            return
        rejection = self._verdict(path, mask, report, split)
        image_id = value.get("image_id") or readable(without_ending(path))
        if rejection and rejection.reason == "duplicate_name":
            image_id += f" in row {self.rows}"  # no two records share both path and id
        view = value.get("view", "").upper()
        in_header = "view" not in self.columns.named and DICOM.search(path)
        self.records.append(
            Record(
                image_id=image_id,
                source=path,
                root=self.base,
                study_id=value.get("study_id") or None,
                subject_id=value.get("subject_id") or None,
                view=view or None,
                view_source="table" if view else "header" if in_header else "none",
                split=split,
                report=report,
                labels=labels,
                label_source="table" if labels else None,
                mask=self.base / mask if mask else None,
                metadata=self._metadata(value),
                rejection=rejection,
            )
        )

    def _fault(self, what: str) -> None:
        self.faults[what] += 1
        self.first.setdefault(what, self.rows)

    def _path(self, cell: str, what: str) -> str | None:
        """Return a path below the base folder, None (and a fault) where there is none."""
        path = os.path.normpath(cell)
        if Path(path).is_absolute():
            path = os.path.relpath(path, self.base.absolute())
        if not cell or path in (".", "..") or path.startswith("../"):
            outside = f"{what} leaves {self.base}; name the folder that holds all with --images"
            self._fault(outside if cell else f"{what} is empty")
            return None
        return path

    def _outside(self, path: str) -> bool:
        """Tell whether a path is a link that leaves the base folder; note the file's size."""
        file = self.base / path
        if not file.is_file():
            return False
        self.files[path] = Entry(path, file.stat().st_size)
        return not file.resolve().is_relative_to(self._inside)

    def _verdict(self, path: str, mask: str | None, report: object, split: str) -> Rejection | None:
        outside = self._outside(path) or (mask is not None and self._outside(mask))
        if outside:
            return Rejection(reason="link_outside")
        if isinstance(report, str) and self._outside(report):
            return Rejection(reason="link_outside", stage="reports")
        if path in self._seen:
            return Rejection(reason="duplicate_name")
        self._seen.add(path)
        if path not in self.files:
            return Rejection(reason="file_missing")
        if not split and "split" in self.columns.named:
            return Rejection(reason="split_missing")
        return None

    def _labels(self, cells: dict[str, str]) -> dict[str, float]:
        found = {}
        for label, column in self.columns.labels.items():
            text = cells[column].strip().lower()
            mark = MARKS[text] if text in MARKS else _mark(text)
            if mark is not None and mark not in (1, 0, -1):
                self._fault(f"column {column!r} is not 1, 0, -1 or empty")
            elif mark is not None:
                found[label] = mark
        return found

    def _report(self, value: dict[str, str]) -> str | Sections | Whole | None:
        findings, impression = value.get("findings", ""), value.get("impression", "")
        if findings or impression:
            return Sections(findings=findings, impression=impression, others={})
        text = value.get("report", "")
        if REPORT_FILE.fullmatch(text):
            return self._path(text, "report")
        return Whole(text=text) if text else None

    def _metadata(self, value: dict[str, str]) -> dict[str, str]:
        known = person(sex=value.get("sex", ""), age=value.get("age", ""))
        return known | ({"origin": value["origin"]} if value.get("origin") else {})


def _mark(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
