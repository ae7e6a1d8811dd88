"""The sections of a report: what lies between its marks, and what of it is Findings or Impression."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .headers import COMBINED, TITLE, header_table
from .marks import ASIDES, RULE, SIGNATURE, section_marks

Span = tuple[int, int]
PREAMBLE = "preamble"

_BLANK_LINE = re.compile(r"\n[^\S\n]*+\n")
_WORD = re.compile(r"[A-Za-z]{2,}")
_FEWEST_WORDS = 4  # fewer behind the title of a study describe nothing ("CHEST, AP: ___")
_NEVER_LAST = ASIDES | {SIGNATURE, "recommendations", "notification"}


@dataclass
class Layout:
    """Where the sections of one text are.

    `parts` holds the offsets of each section's parts, blanks trimmed; `source` is `header`,
    `combined` or `none`; `last` is the last part that may hold a last paragraph, and its section.
    """

    parts: dict[str, list[Span]] = field(default_factory=dict)
    source: str = "none"
    last: tuple[str, Span] | None = None

    def add(self, name: str, span: Span) -> None:
        """Append a part to the section `name`."""
        self.parts.setdefault(name, []).append(span)


def trimmed(text: str, start: int, end: int) -> Span:
    """Return the span without the blanks at its ends; empty at `start` if it is all blank."""
    body = text[start:end].strip()
    first = text.find(body, start)
    return first, first + len(body)


def find_layout(text: str) -> Layout:
    """Return the sections of `text`; time is linear in its length.

    Several Findings (two studies in one report) are all kept, each under its study's title; a
    title with a description behind it counts as Findings where no header says so.
    """
    layout = Layout()
    studies: list[tuple[Span | None, Span]] = []  # title and body of each Findings
    titled: list[tuple[Span, Span]] = []  # titles of studies with text behind them
    title: Span | None = None
    above = ""
    for name, header, body in _bodies(text):
        empty = body[0] == body[1]
        if not empty and name not in _NEVER_LAST:
            layout.last = name, body
        if name == TITLE and empty:
            title = header
            layout.add("examination", header)
        elif name == TITLE and above == "findings":
            name = above
            studies[-1] = studies[-1][0], (studies[-1][1][0], body[1])
        elif name == TITLE:
            titled.append((header, body))
        elif name == "findings" and not empty:
            studies.append((title, body))
            title = None
        elif not empty:
            layout.add(name, body)
        above = "" if empty else name
    _settle_studies(layout, text, studies, titled)
    _settle_names(layout)
    return layout


def _bodies(text: str) -> Iterator[tuple[str, Span, Span]]:
    """Yield name, offsets of the header, and offsets of the text below, for each section."""
    marks = section_marks(text)
    ends = [mark.at for mark in marks] + [len(text)]
    yield PREAMBLE, (0, 0), trimmed(text, 0, ends[0])
    bearers, told = header_table().bearers, False
    for mark, end in zip(marks, ends[1:], strict=True):
        told = told or mark.name in bearers
        name = mark.name if mark.name != RULE else SIGNATURE if told else PREAMBLE
        yield name, (mark.start, mark.stop), trimmed(text, mark.body, end)


def _settle_studies(
    layout: Layout,
    text: str,
    studies: list[tuple[Span | None, Span]],
    titled: list[tuple[Span, Span]],
) -> None:
    if not studies and COMBINED not in layout.parts:
        studies = [
            (header, body)
            for header, body in titled
            if len(_WORD.findall(text, *body)) >= _FEWEST_WORDS
        ]
        titled = [pair for pair in titled if pair not in studies]
    for header, body in titled:
        layout.add("examination", (header[0], body[1]))
    several = len(studies) > 1
    for header, body in studies:
        if header and several:
            layout.add("findings", header)
        layout.add("findings", body)


def _settle_names(layout: Layout) -> None:
    """Let other sections stand in for Findings and Impression, and split a combined one."""
    parts = layout.parts
    both = parts.pop(COMBINED, None)
    for name, others in header_table().stand_ins.items():
        other = next((other for other in others if other in parts), None)
        if name not in parts and other and not both:
            parts[name] = parts.pop(other)
    missing = [name for name in ("findings", "impression") if name not in parts]
    if both:
        parts.update(dict.fromkeys(missing or [COMBINED], both))
    if len(missing) < 2 or both:
        layout.source = "combined" if both and len(missing) == 2 else "header"


def last_paragraph(text: str, layout: Layout) -> Span | None:
    """Return the paragraphs below the first one of the last section, or None.

    Many short reports have one header, its paragraph, and a description without a header. A
    report without any header is its own last paragraph.
    """
    if layout.last is None:
        return None
    name, (start, end) = layout.last
    cut = _BLANK_LINE.search(text, start, end)
    if cut:
        return trimmed(text, cut.end(), end)
    return (start, end) if name == PREAMBLE else None
