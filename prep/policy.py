"""What the user asks for: which views are kept, and what text an image must come with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..contract import UsageError

FRONTAL = frozenset({"AP", "PA", "FRONTAL"})
# ViewPosition in MIMIC-CXR-JPG 2.1.0, and FRONTAL of tables that tell no more
VIEWS = FRONTAL | {
    "LATERAL",
    "LL",
    "LPO",
    "RAO",
    "RPO",
    "LAO",
    "AP AXIAL",
    "XTABLE LATERAL",
    "AP LLD",
    "PA LLD",
    "AP RLD",
    "PA RLD",
    "L5 S1",
    "SWIMMERS",
}


def one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UsageError, naming what is allowed, unless `value` is among it."""
    if value not in allowed:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class ViewPolicy:
    """The views that are kept: None keeps all, those of unknown view too."""

    views: frozenset[str] | None

    @classmethod
    def parse(cls, text: str) -> ViewPolicy:
        """Read `frontal`, `all` or a list such as `AP,PA`; UsageError for an unknown view."""
        if text in ("frontal", "all"):
            return cls(views=FRONTAL if text == "frontal" else None)
        views = frozenset(name.strip().upper() for name in text.split(","))
        if unknown := sorted(views - VIEWS):
            raise UsageError(
                f"--views does not know {', '.join(map(repr, unknown))}",
                todo=f"frontal, all, or some of: {', '.join(sorted(VIEWS))}",
            )
        return cls(views=views)

    def keeps(self, view: str | None) -> bool:
        """Tell whether a view is kept."""
        return self.views is None or view in self.views


@dataclass(frozen=True, kw_only=True)
class TextPolicy:
    """What a report must have; UsageError for unknown values.

    `sections`: either, both, findings or impression must not be empty. `either` never counts a
    last paragraph; with `impression` and `last_paragraph` impression it stands for one.
    `report_labels` asks for the findings that rules read in the report.
    """

    sections: str = "either"
    last_paragraph: str = "none"
    min_tokens: int = 3
    keep_image_only: bool = False
    compat: str = "none"
    report_labels: bool = False

    def __post_init__(self) -> None:
        one_of("--sections", self.sections, ("either", "both", "findings", "impression"))
        one_of("--last-paragraph", self.last_paragraph, ("none", "impression"))
        one_of("--compat", self.compat, ("none", "mit-lcp"))

    def has_text(self, findings: str, impression: str, *, last_paragraph: bool) -> bool:
        """Tell whether a report has the sections that are asked for."""
        if self.sections == "either":
            return bool(findings or impression) and not last_paragraph
        wanted = {"both": (findings, impression), "findings": (findings,)}
        return all(wanted.get(self.sections, (impression,)))
