"""The sections of a report: what lies between its marks, and what of it is Findings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .headers import COMBINED, TITLE, header_table
from .marks import ASIDES, RULE, SIGNATURE, section_marks
from .phrases import CUTS

Span = tuple[int, int]
PREAMBLE = "preamble"

_BLANK_LINE = re.compile(r"\n[^\S\n]*+\n")
_WORD = re.compile(r"[A-Za-z]{2,}")
_FEWEST_WORDS = 4  # fewer behind the title of a study describe nothing ("CHEST, AP: ___")
_NEVER_LAST = ASIDES | CUTS | {SIGNATURE}


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
        if body[0] == body[1]:
            above = ""
            if name == TITLE:
                title = header
                layout.add("examination", header)
            continue
        if name not in _NEVER_LAST:
            layout.last = name, body
        if name == "findings":
            studies.append((title, body))
            title = None
        elif name != TITLE:
            layout.add(name, body)
        elif above == "findings":
            studies[-1] = studies[-1][0], (studies[-1][1][0], body[1])
            continue
        else:
            titled.append((header, body))
        above = name
    _settle_studies(layout, text, studies, titled)
    _settle_names(layout)
    return layout


def _bodies(text: str) -> list[tuple[str, Span, Span]]:
    """Return name, offsets of the header, and offsets of the text below, of each section."""
    marks = section_marks(text)
    ends = [*[mark.at for mark in marks], len(text)]
    bearers, told = header_table().bearers, False
    bodies = [(PREAMBLE, (0, 0), trimmed(text, 0, ends[0]))]
    for i, (_, start, stop, body, name, *_) in enumerate(marks, 1):
        told = told or name in bearers
        if name == RULE:
            name = SIGNATURE if told else PREAMBLE
        bodies.append((name, (start, stop), trimmed(text, body, ends[i])))
    return bodies


def _settle_studies(
    layout: Layout,
    text: str,
    studies: list[tuple[Span | None, Span]],
    titled: list[tuple[Span, Span]],
) -> None:
    if titled and not studies and COMBINED not in layout.parts:
        words = [len(_WORD.findall(text, *body)) for _, body in titled]
        studies = [pair for pair, n in zip(titled, words, strict=True) if n >= _FEWEST_WORDS]
        titled = [pair for pair, n in zip(titled, words, strict=True) if n < _FEWEST_WORDS]
    for header, body in titled:
        layout.add("examination", (header[0], body[1]))
    several = len(studies) > 1
    for title, body in studies:
        if title and several:
            layout.add("findings", title)
        layout.add("findings", body)


def _settle_names(layout: Layout) -> None:
    """Let other sections stand in for Findings and Impression, and split a combined one."""
    parts = layout.parts
    both = parts.pop(COMBINED, None)
    missing = [name for name in ("impression", "findings") if name not in parts]
    if both:
        parts.update(dict.fromkeys(missing or [COMBINED], both))
        layout.source = "combined" if len(missing) == 2 else "header"
        return
    for name in missing:
        other = next((o for o in header_table().stand_ins[name] if o in parts), None)
        if other:
            parts[name] = parts.pop(other)
    if "impression" in parts or "findings" in parts:
        layout.source = "header"


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
