"""Where the sections of a report start: header lines, rules, signatures, headers inside lines."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from .headers import (
    COMBINED,
    CORE,
    LOUD,
    TITLE,
    Header,
    header_table,
    known_section,
    read_header,
)

RULE = "#rule"  # a line of underscores, or "FINAL REPORT": the part above ends here
SIGNATURE = "signature"
ASIDES = frozenset({"addendum", "wet read"})  # written apart from the report; may hold headers

# A line that may be a header, and how it shows: by a colon, by a dash, or alone on its line.
# Every repeat is possessive or bounded, so that no text costs more than its length. The search
# runs from line break to line break, which is several times faster than trying every "^".
_HEADER = r"""[^\S\n]*+[*\#>]*+[^\S\n]*+(?:
    (?P<rule>(?:_{10,}+|={20,}+|(?:FINAL|Final)[ ](?:REPORT|Report)[ ]?:?)[^\S\n]*+$)
    |(?P<addendum>(?:FINAL[ ])?ADDENDUM)\b[*]*+:*+[*]*+
    |(?P<wet_read>WET[ ]?READ)\b[*]*+:*+[*]*+
    |(?P<head>[A-Za-z][A-Za-z \t(),/&+]{1,47}+)[*]*+(?:
        :++[*]*+
        |(?P<dash>(?:(?<=\s)[-–—]++>?|[-–—]++(?![A-Za-z/ ]{1,40}+:))[*]*+)
        |(?P<alone>$))
    |(?P<long>[A-Za-z][^\n:]{0,63}+):++[*]*+
    |(?P<alone_long>[A-Z][A-Z0-9][A-Z0-9 ,()/&.'_-]{2,70}+$)
    )"""
_FIRST_LINE = re.compile(_HEADER, re.VERBOSE | re.MULTILINE)
_LATER_LINE = re.compile(rf"\n{_HEADER}", re.VERBOSE | re.MULTILINE)
# Without a colon a missing section still opens at its name in capitals.
_BARE = re.compile(
    r"""
    ^[^\S\n]*+(?P<first>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)(?=[^\S\n]++(?:[A-Z][a-z ]|\d))
    |(?<=[.!?;:)\s])(?P<inner>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)[^\S\n]*+[-–—]++
    """,
    re.VERBOSE | re.MULTILINE,
)
_BARE_NAMES = frozenset({"findings", "impression"})
_INLINE_WORD = re.compile(r"[A-Za-z()/]+|[&+]")
_INLINE_REACH = 48  # characters before a colon that can hold a header
_SENTENCE_ENDS = ".!?:;)]_*"
_ALWAYS = {"rule": RULE, "addendum": "addendum", "wet_read": "wet read"}
_CUTS = frozenset({"recommendations", "notification"})  # cut off Findings and Impression


class Mark(NamedTuple):
    """The start of a section: offsets of its line or phrase, its header's words, its body."""

    at: int
    start: int
    stop: int
    body: int
    name: str
    loudness: int = LOUD


def section_marks(text: str) -> list[Mark]:
    """Return where the sections of `text` start, in order."""
    marks = [*_line_marks(text)]
    signatures = [*_signatures(text, marks)]
    if signatures:
        marks = sorted({mark.at: mark for mark in marks + signatures}.values())
    if any(mark.loudness < LOUD for mark in marks):
        marks = _without_echoes(marks)
    if any(mark.name in ASIDES for mark in marks):
        marks = _without_asides(marks)
    found = _inline_marks(text, marks)
    return sorted(marks + found) if found else marks


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
            yield Mark(match.start(), start, stop, match.end(), header.name, header.loudness)


def _opens_line(
    text: str, body: int, start: int, header: Header, *, colon: bool, shouted: bool
) -> bool:
    """Tell whether words at a line's start that can be a header are one.

    Without a colon, in lower case or unknown they have to look more like one; in a report that
    is all in capitals, capitals say nothing.
    """
    if not header.known:
        if not colon:
            return header.name == TITLE and not shouted and _after_blank_line(text, start)
        is_time = text[body - 2 : body - 1].isdigit() and text[body : body + 1].isdigit()
        return not shouted and not is_time
    if not colon and header.name not in header_table().bearers:
        return header.loudness == LOUD and not shouted
    calm = header.name in CORE and colon
    return header.loudness > 0 or calm or _after_sentence(text, start)


def _lead(text: str, start: int) -> tuple[str, int]:
    """Return the last character before `start` that is no blank, and the line breaks after it."""
    before = text[max(0, start - 200) : start]
    lead = before.rstrip()
    return lead[-1:], before.count("\n", len(lead))


def _after_sentence(text: str, start: int) -> bool:
    last, breaks = _lead(text, start)
    return last in _SENTENCE_ENDS or breaks > 1


def _after_blank_line(text: str, start: int) -> bool:
    last, breaks = _lead(text, start)
    return not last or breaks > 1


def _signatures(text: str, marks: list[Mark]) -> Iterator[Mark]:
    table = header_table()
    body = next((mark.body for mark in marks if mark.name in table.bearers), 0)
    for match in table.signature.finditer(text, body):
        yield Mark(match.start(), match.end(), match.end(), match.start(), SIGNATURE)


def _without_echoes(marks: list[Mark]) -> list[Mark]:
    """Drop "findings:" where the report also has "FINDINGS:": a line of prose began with it."""
    loudest: dict[str, int] = {}
    for mark in marks:
        if mark.name in CORE:
            loudest[mark.name] = max(mark.loudness, loudest.get(mark.name, 0))
    return [mark for mark in marks if mark.loudness >= loudest.get(mark.name, 0)]


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
        if i < skip or mark.name not in ASIDES:
            continue
        after = bisect_right(rules, i)
        rule = rules[after] if after < len(rules) else len(marks)
        if cores and rule < cores[-1]:
            skip = rule
        elif mark.name == "addendum" and cores and cores[0] < i:
            skip = rule
    return kept


class _Phrase(NamedTuple):
    """A known header inside a line: offsets of its words and of the text behind, its section."""

    start: int
    stop: int
    body: int
    name: str


def _inline_marks(text: str, marks: list[Mark]) -> list[Mark]:
    """Return the headers inside lines of those sections that no line opens."""
    phrases = [*_with_colon(text, marks), *_without_colon(text, marks)]
    if not phrases:
        return []
    have = {mark.name for mark in marks}
    have |= CORE if COMBINED in have else set()
    places = [mark.at for mark in marks]
    found = []
    for phrase in phrases:
        place = bisect_right(places, phrase.start)
        owner = marks[place - 1].name if place else ""
        if phrase.name not in have and _opens_inline(text, phrase, owner, have):
            have |= CORE if phrase.name == COMBINED else {phrase.name}
            found.append(Mark(len(text[: phrase.start].rstrip("*")), *phrase))
    return found


def _opens_inline(text: str, phrase: _Phrase, owner: str, have: set[str]) -> bool:
    """Tell whether a phrase inside the section `owner` opens a section of its own."""
    if owner in ASIDES or owner == SIGNATURE:
        return False
    bearers, words = header_table().bearers, text[phrase.start : phrase.stop]
    fresh = _after_sentence(text, phrase.start)
    loud = words.isupper() and not text.isupper()
    if phrase.name in CORE or (phrase.name in bearers and "impression" not in have):
        return loud or fresh
    cuts = phrase.name in _CUTS or owner not in bearers
    return cuts and (loud or (fresh and words[0].isupper()))


def _with_colon(text: str, marks: list[Mark]) -> Iterator[_Phrase]:
    table = header_table()
    opened = {mark.stop for mark in marks if text.startswith(":", mark.stop)}
    if len(opened) == text.count(":"):
        return
    colon = -1
    while (colon := text.find(":", colon + 1)) >= 0:
        if colon in opened:
            continue
        base = max(0, colon - _INLINE_REACH)
        words = [*_INLINE_WORD.finditer(text[base:colon].rstrip(" \t*"))][-3:]
        if not words or words[-1][0].lower() not in table.inline_ends:
            continue
        stop = words[-1].end()
        for word in words:
            name = known_section(word.string[word.start() : stop])
            if name in table.inline:
                after = text[colon + 1 : colon + 3]
                body = colon + 1 + len(after) - len(after.lstrip("*"))
                yield _Phrase(base + word.start(), base + stop, body, name)
                break


def _without_colon(text: str, marks: list[Mark]) -> Iterator[_Phrase]:
    have = {mark.name for mark in marks}
    if COMBINED in have or not _BARE_NAMES - have:
        return
    for match in _BARE.finditer(text):
        start, stop = match.span(match.lastgroup or 0)
        yield _Phrase(start, stop, match.end(), known_section(text[start:stop]) or "")
