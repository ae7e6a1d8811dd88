"""Sentences that compare with an earlier study, which one film alone cannot show.

A report of a film series says "unchanged" or "interval improvement"; an encoder that sees one film
can only learn to invent such words. The cues are our own; words that also describe a single film
("increased markings", "prior surgery") are none.
"""

from __future__ import annotations

import re

_STUDY = (
    r"(?:study|studies|exams?|examinations?|radiographs?|films?|images?|imaging|chest|x-?rays?"
    r"|cts?|scans?)"
)
_CUE = re.compile(
    r"\b(?:"
    r"un(?:changed|altered)"
    r"|(?:no|without|little) (?:(?:significant|substantial|appreciable|definite) )?changes?"
    r"|stable|interval(?:ly)?|again|since|new(?:ly)?|re-?demonstrated"
    r"|compar(?:ed|ison|ing)|similar to|previously|remains?|persist\w*|resol(?:ved|ving)"
    r"|improv\w+|worsen\w*|progress(?:ed|ion|ive)|no longer"
    rf"|(?:prior|previous|earlier|last|recent) (?:\w+ ){{0,2}}?{_STUDY}"
    r"|(?:from|to|than|with) (?:the )?(?:prior|previous)s?"
    r")\b",
    re.IGNORECASE,
)
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(])")


def without_comparisons(text: str) -> str:
    """Return a text without its sentences that compare with an earlier study; perhaps nothing."""
    return " ".join(s for s in _END.split(text) if not _CUE.search(s)).strip()
