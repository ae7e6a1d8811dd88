"""Headers of a radiology report: which words are headers, and which section each of them opens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import yaml

COMBINED = "findings and impression"
TITLE = "#title"  # the title of a study, "CHEST, TWO VIEWS"
PART = "#part"  # a part of the body, "CHEST": the title of a study, or of a paragraph
CORE = frozenset({"findings", "impression", COMBINED})

LOUD = 2  # in capitals; 1 is with a capital, 0 in lower case as inside a sentence

_UNKNOWN = re.compile(r"[A-Z][A-Z0-9 (),/&+'_-]{2,}")
_JOINT = re.compile(r" ?([/,&+-]) ?")
_LONGEST_NAME = 8  # words


class Header(NamedTuple):
    """What a header opens, how it is written, and whether headers.yaml knows it."""

    name: str
    loudness: int
    known: bool


@dataclass(frozen=True, kw_only=True)
class HeaderTable:
    """The facts of headers.yaml, ready for look-up."""

    names: dict[str, str]  # header in lower case -> section
    inline: frozenset[str]  # sections whose headers may stand inside a line
    inline_ends: frozenset[str]  # last words of those headers
    stand_ins: dict[str, list[str]]
    bearers: frozenset[str]  # sections that are or may become Findings or Impression
    words: dict[str, str]
    inner: frozenset[str]
    title: re.Pattern[str]
    part: re.Pattern[str]
    signature: re.Pattern[str]


@cache
def header_table() -> HeaderTable:
    """Return the table of headers.yaml."""
    facts = yaml.safe_load(Path(__file__).with_name("headers.yaml").read_text("utf-8"))
    names = {alias: name for name, aliases in facts["sections"].items() for alias in aliases}
    typos = {typo: names[word] for word in facts["misspelled"] for typo in _misspelled(word)}
    inline = frozenset(facts["inline"])
    return HeaderTable(
        names=typos | names,
        inline=inline,
        inline_ends=frozenset(key.split()[-1] for key, name in names.items() if name in inline),
        stand_ins=facts["stand_ins"],
        bearers=CORE.union(*facts["stand_ins"].values()),
        words=facts["words"],
        inner=frozenset(facts["inner"]),
        title=_any_of(facts["title"]),
        part=_any_of(facts["part"]),
        signature=_signature(facts["signature"]),
    )


def _misspelled(word: str) -> Iterator[str]:
    for i in range(len(word) + 1):
        left, right = word[:i], word[i:]
        yield left + right[1:]
        yield left + right[1:2] + right[:1] + right[2:]
        for letter in ascii_lowercase:
            yield left + letter + right[1:]
            yield left + letter + right


def _any_of(words: list[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")


def _signature(openings: list[str]) -> re.Pattern[str]:
    initials = "".join(sorted({text[0] for text in openings}))
    words = "|".join(map(re.escape, openings))
    return re.compile(
        rf"\n[^\S\n]*+(?=[{initials}{initials.upper()}])"
        rf"(?:(?i:{words})\b|DR\.?[ ][A-Z_ .,]++$)",
        re.MULTILINE,
    )


@lru_cache(maxsize=4096)
def known_section(header: str) -> str | None:
    """Return the section that a known header opens, in any case and with one letter mistyped."""
    names = header_table().names
    name = " ".join(header.lower().split())
    return names.get(name) or (names.get(_JOINT.sub(r"\1", name)) if " " in name else None)


@lru_cache(maxsize=4096)
def read_header(words: str) -> Header | None:
    """Return what `words` open as a header, or None if they are none.

    Of unknown names only those in capitals count: as TITLE if they name a study, else as a
    section of that very name.
    """
    name = known_section(words)
    known = name is not None
    if words.isupper():
        name = name or _unknown_section(words.strip())
    loudness = LOUD if words.isupper() else int(words[0].isupper())
    return Header(name, loudness, known) if name else None


def _unknown_section(header: str) -> str | None:
    table = header_table()
    name = " ".join(header.lower().split())
    words = re.findall(r"[a-z]+", name)
    if not _UNKNOWN.fullmatch(header):
        return None
    titled = table.title.search(name)
    if len(words) > _LONGEST_NAME or (not titled and not table.inner.isdisjoint(words)):
        return None
    if "impression" in words and "findings" in words:
        return COMBINED
    worded = next((section for word, section in table.words.items() if word in words), None)
    if worded:
        return worded
    if titled:
        return TITLE
    return PART if table.part.search(name) else name
