"""The terms of findings.yaml as a tree of words, and where they stand in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

OTHER = ""  # the name of a finding outside the labels
COMMA, END = "comma", "end"

_WORD = re.compile(r"[a-z]+|[,;()]")
_SIGNS = {",": COMMA, "(": COMMA, ")": COMMA, ";": END}

Words = tuple[str, ...]


class Term(NamedTuple):
    """A term in a sentence: its role, what it names, its first word, and the word behind it.

    Roles: `finding` and `sign` (the names are labels), `subject` and `state`, `neutral`, and the
    cues of findings.yaml.
    """

    role: str
    names: tuple[str, ...]
    first: int
    after: int


class _Node:
    """A word of the tree: the words that may follow, and the role and names of what ends here."""

    __slots__ = ("meaning", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.meaning: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The terms of findings.yaml, and what a state says of a subject: labels and values."""

    tree: Mapping[str, _Node]
    statements: Mapping[tuple[str, str], tuple[tuple[str, float], ...]]

    def terms(self, sentence: str) -> list[Term]:
        """Return the terms of a sentence in order, the longest at each word; linear in time."""
        words = _WORD.findall(sentence.lower())
        tree, end = self.tree, len(words)
        found: list[Term] = []
        i = 0
        while i < end:
            node = tree.get(words[i])
            i += 1
            if node is None:
                continue
            first, j, meaning = i - 1, i, node.meaning
            while j < end and (node := node.next.get(words[j])) is not None:
                j += 1
                if node.meaning:
                    meaning, i = node.meaning, j
            if meaning:
                found.append(Term(*meaning, first, i))
        return found


@cache
def finding_lexicon() -> Lexicon:
    """Return the lexicon of findings.yaml."""
    facts = lexicon_facts()
    root = _Node()
    for words, role, name in lexicon_entries(facts):
        node = root
        for word in words:
            node = node.next.setdefault(word, _Node())
        names = node.meaning[1] if node.meaning else ()
        node.meaning = role, (*names, name)
    statements = {
        (subject, state): tuple((label, float(value)) for label, value in labels.items())
        for subject, states in facts["statements"].items()
        for state, labels in states.items()
    }
    return Lexicon(tree=root.next, statements=statements)


def lexicon_facts() -> dict[str, Any]:
    """Return findings.yaml as it is written."""
    path = Path(__file__).with_name("findings.yaml")
    facts: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return facts


def lexicon_entries(facts: Mapping[str, Any]) -> Iterator[tuple[Words, str, str]]:
    """Yield the words of every term, its role and its name; a finding may have two names."""
    named = [
        (pattern, role, name)
        for role in ("finding", "sign", "subject", "state")
        for name, patterns in facts[f"{role}s"].items()
        for pattern in patterns
    ]
    named += [(pattern, "finding", OTHER) for pattern in facts["others"]]
    named += [(pattern, "neutral", "neutral") for pattern in facts["neutral"]]
    named += [(p, cue, cue) for cue, patterns in facts["cues"].items() for p in patterns]
    for pattern, role, name in named:
        for words in dict.fromkeys(_expanded(pattern)):
            yield words, role, name
    for sign, role in _SIGNS.items():
        yield (sign,), role, role


def _expanded(pattern: str) -> Iterator[Words]:
    """Yield the word sequences that a pattern stands for."""
    groups = [
        (*group.rstrip("?").split("|"), *([""] if group.endswith("?") else []))
        for group in pattern.split()
    ]
    for choice in product(*groups):
        yield tuple(word for word in choice if word)
