"""Headers inside lines ("… no effusion. IMPRESSION: Normal."), for sections that no line opens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import NamedTuple

from .headers import COMBINED, CORE, header_table, known_section

CUTS = frozenset({"recommendations", "notification"})  # cut off Findings and Impression

# Without a colon a missing section still opens at its name in capitals.
_BARE = re.compile(
    r"""
    ^[^\S\n]*+(?P<first>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)
        (?:[.;=](?=\s)|(?=[^\S\n]++(?:[A-Z][a-z ]|\d)))
    |(?<=[.!?;:)\s])(?P<inner>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)[^\S\n]*+[-–—]++
    """,
    re.VERBOSE | re.MULTILINE,
)
_WORD = re.compile(r"[A-Za-z()/]+|[&+]")
_REACH = 48  # characters before a colon that can hold a header
_LEAD = 200  # characters looked at before a header
_SENTENCE_ENDS = ".!?;)]_*"


class Phrase(NamedTuple):
    """A known header inside a line: offsets of its words and of the text behind, its section."""

    start: int
    stop: int
    body: int
    name: str


def inline_phrases(text: str, opened: Set[int], names: Set[str]) -> list[Phrase]:
    """Return the known headers of `text` that are not `opened`, the ends of its header lines.

    `names` are the sections that have a header line: nothing is looked for without a colon when
    both Findings and Impression have.
    """
    phrases = [*_with_colon(text, opened)] if text.count(":") > len(opened) else []
    if COMBINED not in names and not names >= {"findings", "impression"}:
        phrases += _without_colon(text)
    return phrases


def _with_colon(text: str, opened: Set[int]) -> Iterator[Phrase]:
    table = header_table()
    colon = -1
    while (colon := text.find(":", colon + 1)) >= 0:
        if colon in opened:
            continue
        base = max(0, colon - _REACH)
        reach = text[base:colon].rstrip(" \t*")
        words = [*_WORD.finditer(reach)][-3:]
        stop = words[-1].end() if words else -1
        if stop != len(reach) or words[-1][0].lower() not in table.inline_ends:
            continue
        for word in words:
            name = known_section(reach[word.start() :])
            if name in table.inline:
                after = text[colon + 1 : colon + 3]
                body = colon + 1 + len(after) - len(after.lstrip("*"))
                yield Phrase(base + word.start(), base + stop, body, name)
                break


def _without_colon(text: str) -> Iterator[Phrase]:
    for match in _BARE.finditer(text):
        start, stop = match.span(match.lastgroup or 0)
        yield Phrase(start, stop, match.end(), known_section(text[start:stop]) or "")


def opens_inline(text: str, phrase: Phrase, owner: str, have: Set[str], *, shouted: bool) -> bool:
    """Tell whether a phrase inside the section `owner` opens a section of its own.

    `have` are the sections that are there already; `shouted` is a text all in capitals.
    """
    if phrase.name in have or (COMBINED in have and phrase.name in CORE):
        return False
    bearers, words = header_table().bearers, text[phrase.start : phrase.stop]
    fresh = after_sentence(text, phrase.start)
    capital = words[0].isupper() and not shouted
    loud = words.isupper() and not shouted
    if phrase.name in CORE:
        return fresh or capital or (phrase.name == "impression" and owner == "findings")
    if phrase.name in bearers and "impression" not in have:
        return fresh or loud
    return (phrase.name in CUTS or owner not in bearers) and (loud or (fresh and capital))


def gap_before(text: str, start: int) -> tuple[str, int]:
    """Return the last character before `start` that is no blank, and the line breaks after it."""
    before = text[max(0, start - _LEAD) : start]
    lead = before.rstrip()
    return lead[-1:], before.count("\n", len(lead))


def after_sentence(text: str, start: int) -> bool:
    """Tell whether a sentence, a paragraph or nothing ends before `start`."""
    last, breaks = gap_before(text, start)
    return last in _SENTENCE_ENDS or breaks > 1
