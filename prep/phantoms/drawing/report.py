"""A phantom report in the layout of MIMIC-CXR, and the flaws that real ones have.

Layout and flaws are those that the published section parser of MIMIC-CXR is written against
(github.com/MIT-LCP/mimic-cxr, txt/section_parser.py): indented upper-case headers, `___` marks.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

from .wording import Wording

FLAWS = (
    "lower_case",
    "no_findings",
    "no_impression",
    "combined",
    "no_section",
    "too_short",
    "wet_read",
    "addendum",
    "crlf",
    "latin_1",
    "two_studies",
    "marks",
)
RULE = "_" * 78


@dataclass(frozen=True, kw_only=True)
class Report:
    """What goes into one report file."""

    procedure: str
    indication: str
    wording: Wording
    flaw: str = ""


def flawed(wording: Wording, flaw: str) -> Wording:
    """Return what a report with this flaw still says."""
    if flaw == "no_findings":
        return replace(wording, findings="")
    if flaw == "no_impression":
        return replace(wording, impression="")
    if flaw == "too_short":
        return Wording(findings="", impression="Normal.")
    if flaw == "marks":
        added = " Findings were discussed with Dr. ___ at ___."
        return replace(wording, findings=wording.findings + added)
    return wording


def report_bytes(report: Report) -> bytes:
    """Return the file of a report whose wording is `flawed` already."""
    flaw, body = report.flaw, _body(report)
    head = f"{'FINAL REPORT':>45}\n"
    if flaw == "wet_read":
        head = f" WET READ: ___ ___ ___ 8:52 AM\n  {report.wording.impression}\n {RULE}\n{head}"
    if flaw == "addendum":
        head = f" ADDENDUM  The findings were discussed by telephone with Dr. ___.\n {RULE}\n{head}"
    text = head + body
    if flaw == "crlf":
        return text.replace("\n", "\r\n").encode()
    return text.encode("latin-1")


def _body(report: Report) -> str:
    wording, flaw = report.wording, report.flaw
    indication = report.indication + (" Temperature 39.1 °C." if flaw == "latin_1" else "")
    blocks = [
        _section("EXAMINATION:", report.procedure),
        _section("INDICATION:", indication),
        _section("COMPARISON:", "None."),
    ]
    if flaw == "no_section":
        paragraph = f"{wording.findings} {wording.impression}"
        return "\n \n".join([*blocks, _lines(paragraph)]) + "\n"
    if flaw == "combined":
        both = f"{wording.findings} {wording.impression}"
        return "\n \n".join([*blocks, _section("FINDINGS AND IMPRESSION:", both)]) + "\n"
    parts = [("FINDINGS:", wording.findings), ("IMPRESSION:", wording.impression)]
    if flaw == "two_studies":
        parts += [
            ("FINDINGS:", "The second film shows an unchanged appearance of the chest."),
            ("IMPRESSION:", "No interval change."),
        ]
    for header, text in parts:
        name = header.lower() if flaw == "lower_case" else header
        blocks += [_section(name, text)] if text else []
    return "\n \n".join(blocks) + "\n"


def _section(header: str, text: str) -> str:
    if header.lower() in ("findings:", "impression:"):
        return f" {header} \n \n{_lines(text)}"
    return _lines(f"{header}  {text}")


def _lines(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, width=76, break_on_hyphens=False), " ")
