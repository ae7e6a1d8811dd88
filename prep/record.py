"""What an archive tells about its images: one record an image, and the listing of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contract import Access, key_of
from .download.reports import ReportPlace


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle in pixels of the original: left, top, width, height, and what it marks."""

    x: float
    y: float
    w: float
    h: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """The texts of a report whose archive gives its sections apart."""

    findings: str
    impression: str
    others: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A verdict already known from the listing: stage, reason code, detail."""

    reason: str
    stage: str = "archive"
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image as its archive lists it; nothing of it has been opened yet.

    `source` lies below `root`. `report` is the name of the report in the listing's ReportPlace,
    or its sections, or None when there is no report. `view_source` is `header` when the view is
    only known from the DICOM header. `metadata` may hold sex, age and origin. `target` replaces
    the default place of the PNG.
    """

    image_id: str | None
    source: str
    root: Path
    study_id: str | None = None
    subject_id: str | None = None
    view: str | None = None
    view_source: str = "none"
    split: str = ""
    report: str | Sections | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    label_source: str | None = None
    boxes: tuple[Box, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    rejection: Rejection | None = None

    @property
    def key(self) -> str:
        """Key of the image."""
        return key_of(self.image_id or "")

    @property
    def image(self) -> str:
        """Path of the PNG below the output folder."""
        return self.target or f"images/{self.key[:2]}/{self.key}.png"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All images of an archive, and what its card says about it.

    `inputs` identifies what was read: a digest over relative paths, sizes and small tables.
    """

    dataset: str
    access: Access
    records: list[Record]
    inputs: Mapping[str, Any]
    reports: ReportPlace | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
