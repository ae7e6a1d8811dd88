"""What an archive tells about its images: one record an image, and the listing of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contract import Access, key_of
from .download.reports import ReportPlace

RADIOLOGIST = " (radiologist)"  # ends the name of a label that was read beside an automatic one


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle in pixels of the original: left, top, width, height, and what it marks."""

    x: float
    y: float
    w: float
    h: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """A region as run lengths, each row one part of it; the parts are joined.

    A row is pairs of numbers: pixels from the end of the run before to this one, and its length,
    counted down the columns of a picture of `height` and `width` pixels.
    """

    rows: tuple[str, ...]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A closed shape in pixels of the original: rectangle, ellipse or polygon.

    `points` are x1, y1, x2, y2 and so on: two corners of the rectangle or of that around the
    ellipse, or the corners of the polygon.
    """

    kind: str
    points: tuple[float, ...]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom."""
        xs, ys = self.points[::2], self.points[1::2]
        return min(xs), min(ys), max(xs), max(ys)


# a marked region: run lengths, shapes that are joined, or the file of a picture of it
Mask = Runs | tuple[Shape, ...] | Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """The texts of a report whose archive gives its sections apart."""

    findings: str
    impression: str
    others: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """The whole text of a report whose archive keeps it in a table."""

    text: str


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
    or its text or sections, or None when there is no report. `view_source` is `header` when the
    view is only known from the DICOM header. `mask` is None when nothing is marked; a mask file is
    a PNG or JPEG as large as the original. `metadata` may hold sex, age, origin and also. `target`
    replaces the default place of the PNG, `alias` the source's path in all tables. A label that a
    radiologist gave beside an automatic one has its name and `RADIOLOGIST`.
    """

    image_id: str | None
    source: str
    root: Path
    study_id: str | None = None
    subject_id: str | None = None
    view: str | None = None
    view_source: str = "none"
    split: str = ""
    report: str | Sections | Whole | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    label_source: str | None = None
    boxes: tuple[Box, ...] = ()
    mask: Mask | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    alias: str | None = None
    rejection: Rejection | None = None

    @property
    def key(self) -> str:
        """Key of the image."""
        return key_of(self.image_id or "")

    @property
    def image(self) -> str:
        """Path of the PNG below the output folder."""
        return self.target or f"images/{self.key[:2]}/{self.key}.png"

    @property
    def mask_image(self) -> str:
        """Path of the mask's PNG below the output folder."""
        return f"masks/{self.key[:2]}/{self.key}.png"


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
