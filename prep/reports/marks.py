"""Where the sections of a report start: header lines, rules, signatures, headers inside lines."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from .headers import CORE, LOUD, PART, TITLE, Header, header_table, read_header
from .phrases import CUTS, Phrase, after_sentence, gap_before, inline_phrases, opens_inline

RULE = "#rule"  # a line of underscores, or "FINAL REPORT": the part above ends here
SIGNATURE = "signature"
ASIDES = frozenset({"addendum", "wet read"})  # written apart from the report; may hold headers

# A line that may be a header, and how it shows: by a colon, by a dash, or alone on its line.
# Every repeat is possessive or bounded, so that no text costs more than its length. The search
# runs from line break to line break, which is several times faster than trying every "^".
_HEADER = r"""[^\S\n]*+(?:
    (?P<rule>(?:_{10,}+|[=-]{20,}+|(?:FINAL|Final)[ ](?:REPORT|Report)[ ]?:?)[^\S\n]*+$)
    |[*\#>=•-]*+[^\S\n]*+(?:
        (?P<addendum>(?:FINAL[ ])?ADDENDUM)\b[*]*+:*+[*]*+
        |(?P<wet_read>WET[ ]?READ)\b[*]*+:*+[*]*+
        |(?P<head>[A-Za-z][A-Za-z \t(),/&+]{1,47}+)[*=]*+(?:
            :++[*]*+
            |(?P<dash>(?:(?<=\s)[-–—]++>?|[-–—]++(?![A-Za-z/ ]{1,40}+:))[*]*+)
            |(?P<alone>$(?:\n[^\S\n]*+[=-]{3,}+[^\S\n]*+$)?))
        |(?P<long>[A-Za-z][^\n:]{0,63}+):++[*]*+
        |(?P<alone_long>[A-Z][A-Z0-9][A-Z0-9 ,()/&.'_-]{2,70}+$)
    ))"""
_FIRST_LINE = re.compile(_HEADER, re.VERBOSE | re.MULTILINE)
_LATER_LINE = re.compile(rf"\n{_HEADER}", re.VERBOSE | re.MULTILINE)
_ALWAYS = {"rule": RULE, "addendum": "addendum", "wet_read": "wet read"}


class Mark(NamedTuple):
    """The start of a section: offsets of its line or phrase, its header's words, its body."""

    at: int
    start: int
    stop: int
    body: int
    name: str
    loudness: int = LOUD
    known: bool = True


def section_marks(text: str) -> list[Mark]:
    """Return where the sections of `text` start, in order."""
    marks = [*_line_marks(text)]
    signatures = [*_signatures(text, marks)]
    if signatures:
        marks = sorted({mark.at: mark for mark in marks + signatures}.values())
    if not ASIDES.isdisjoint([mark.name for mark in marks]):
        marks = _without_asides(marks)
    if any([mark.loudness < LOUD or not mark.known for mark in marks]):
        marks = [*_without_parts(text, _without_echoes(marks))]
    opened = {mark.stop for mark in marks if text.startswith(":", mark.stop)}
    phrases = inline_phrases(text, opened, {mark.name for mark in marks})
    return _with_phrases(text, marks, phrases) if phrases else marks


def _line_marks(text: str) -> Iterator[Mark]:
    shouted = text.isupper()
    first = _FIRST_LINE.match(text)
    for match in chain((first,) if first else (), _LATER_LINE.finditer(text)):
        kind = match.lastgroup or ""
        if kind in _ALWAYS:
            yield Mark(match.start(), *match.span(kind), match.end(), _ALWAYS[kind])
            continue
        group = "head" if kind in ("dash", "alone") else kind
        words = match[group]
        header = read_header(words)
        if header is None:
            continue
        colon, start = kind == group != "alone_long", match.start(group)
        sure = colon and header.known and header.loudness == LOUD
        if sure or _opens_line(text, match.end(), start, header, colon=colon, shouted=shouted):
            stop = start + len(words.rstrip())
            yield Mark(match.start(), start, stop, match.end(), *header)


def _opens_line(
    text: str, body: int, start: int, header: Header, *, colon: bool, shouted: bool
) -> bool:
    """Tell whether words at a line's start that can be a header are one.

    Without a colon, in lower case or unknown they have to look more like one; in a report that
    is all in capitals, capitals say nothing.
    """
    if not header.known:
        if not colon:
            return header.name in (TITLE, PART) and not shouted and _alone(text, start)
        is_time = text[body - 2 : body - 1].isdigit() and text[body : body + 1].isdigit()
        return not shouted and not is_time
    if not colon and header.name not in header_table().bearers:
        return header.loudness == LOUD and not shouted
    calm = header.name in CORE and colon
    return header.loudness > 0 or calm or after_sentence(text, start)


def _alone(text: str, start: int) -> bool:
    last, breaks = gap_before(text, start)
    return not last or breaks > 1


def _signatures(text: str, marks: list[Mark]) -> Iterator[Mark]:
    table = header_table()
    body = next((mark.body for mark in marks if mark.name in table.bearers), 0)
    for match in table.signature.finditer(text, body):
        yield Mark(match.start(), match.end(), match.end(), match.start(), SIGNATURE)


def _without_asides(marks: list[Mark]) -> list[Mark]:
    """Drop the headers inside addenda and wet reads, which are no headers of this report.

    Above the report such a part ends at the next rule; an addendum below it ends with the text.
    """
    bearers = header_table().bearers
    rules = [i for i, mark in enumerate(marks) if mark.name == RULE]
    cores = [i for i, mark in enumerate(marks) if mark.name in bearers]
    kept: list[Mark] = []
    skip = 0
    for i, mark in enumerate(marks):
        if i >= skip or mark.name in ASIDES:
            kept.append(mark)
        if i < skip or mark.name not in ASIDES or not cores:
            continue
        after = bisect_right(rules, i)
        rule = rules[after] if after < len(rules) else len(marks)
        if rule < cores[-1] or (mark.name == "addendum" and cores[0] < i):
            skip = rule
    return kept


def _without_echoes(marks: list[Mark]) -> list[Mark]:
    """Drop "findings:" where the report also has "FINDINGS:": a line of prose began with it."""
    loudest: dict[str, int] = {}
    for mark in marks:
        if mark.name in CORE:
            loudest[mark.name] = max(mark.loudness, loudest.get(mark.name, 0))
    return [mark for mark in marks if mark.loudness >= loudest.get(mark.name, 0)]


def _without_parts(text: str, marks: list[Mark]) -> Iterator[Mark]:
    """Yield the marks without those that only divide Findings or an Impression.

    Such are a part of the body ("CHEST:"), an unknown header in Findings or right below a line of
    the Impression, and one written less loudly than the section's own ("Note:" below
    "IMPRESSION:"). A part of the body elsewhere is the title of a study.
    """
    bearers = header_table().bearers
    stay = bearers | ASIDES | CUTS | {SIGNATURE, RULE}
    core: Mark | None = None
    for mark in marks:
        if core and mark.name not in stay:
            loose = not mark.known and mark.name != TITLE
            inside = mark.name == PART or mark.loudness < core.loudness
            if inside or (loose and (core.name == "findings" or not _alone(text, mark.start))):
                continue
        core = mark if mark.name in bearers else None
        yield mark._replace(name=TITLE) if mark.name == PART else mark


def _with_phrases(text: str, marks: list[Mark], phrases: list[Phrase]) -> list[Mark]:
    """Return `marks` and those phrases inside lines that open a section no mark opens."""
    shouted, have = text.isupper(), {mark.name for mark in marks}
    places = [mark.at for mark in marks]
    found = []
    for phrase in phrases:
        place = bisect_right(places, phrase.start)
        owner = marks[place - 1] if place else Mark(0, 0, 0, 0, "")
        leads = phrase.name not in CORE and not text[owner.body : phrase.start].strip()
        if leads or owner.name in ASIDES or owner.name == SIGNATURE:
            continue
        if opens_inline(text, phrase, owner.name, have, shouted=shouted):
            have.add(phrase.name)
            found.append(Mark(len(text[: phrase.start].rstrip("*")), *phrase))
    return sorted(marks + found)
