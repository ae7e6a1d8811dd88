"""Words and sentences of report text: the tuned tokenizer, the sentence rule, the token count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from spacy.language import Language
from spacy.matcher import PhraseMatcher
from spacy.tokenizer import Tokenizer
from spacy.tokens import Doc
from spacy.vocab import Vocab

# Longer words, and words with longer runs of signs, stay one token: peeling off their ends one
# by one costs their length squared.
_WHOLE = re.compile(r"(?:\S{48}|\S*?[^\w\s]{6})\S*+\Z")

_STOPS = (".", "..", "...", "…", "!", "?", "!!", "??", "?!", "!?")
# Matches everywhere, if only nothing: the signs that go with a stop, and the blanks behind.
_AFTER = re.compile(r"""[.!?…)\]}"'”’»]*+\s*+""")
_PLAIN = re.compile(r"[a-z)]. [A-Z]").match  # what nearly every stop looks like; the fast way
# Where a line break ends a sentence: at a blank line, and before a list item.
_BREAK = re.compile(r"\n[^\S\n]*+(?:(?:\n[^\S\n]*+)++|(?=(?:\d{1,2}[.)]|[-*•·])[^\S\n]))")
# spaCy's English rules keep "Dr." and "p.m." whole; these they do not.
_SHORT = frozenset(
    {"no", "nos", "fig", "figs", "approx", "resp", "incl", "max", "min", "ca", "cf", "ref", "im"}
)

_CUT = re.compile(r"(?<!\d)\d++\.(?!\d)|(?<!\d)\.|\.(?!\d)")
_WORD = re.compile(r"\w+")


def build_tokenizer(nlp: Language) -> Tokenizer:
    """Return the tokenizer of `nlp` without its slow rules.

    Only special cases whose key starts with a letter or digit stay ("Dr.", "p.m."): the others
    (emoticons, line breaks) force a second matching pass over every text. The URL pattern is
    left out: it is quadratic on hostile text, and reports hold no URLs.
    """
    given = nlp.tokenizer
    return Tokenizer(
        nlp.vocab,
        rules={key: rule for key, rule in given.rules.items() if key[0].isalnum()},
        prefix_search=given.prefix_search,
        suffix_search=given.suffix_search,
        infix_finditer=given.infix_finditer,
        token_match=_WHOLE.match,
        url_match=None,
    )


class SentenceRule:
    """The pipeline component that sets sentence boundaries.

    A sentence ends at a full stop, question or exclamation mark, at a blank line, and before a
    list item on its own line. The stop of a list number ("1. Clear lungs."), of an abbreviation
    ("No. 2", "Dr. ___") or of a decimal ("1.9 cm") ends nothing.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._stops = PhraseMatcher(vocab, attr="ORTH")
        self._stops.add("stop", [Doc(vocab, words=[stop]) for stop in _STOPS])

    def starts(self, doc: Doc, text: str) -> list[int]:
        """Return the offsets in `text`, the text of `doc`, of all sentences but the first."""
        starts = {m.end() for m in _BREAK.finditer(text)} if "\n" in text else set()
        for _, i, _ in self._stops(doc):
            stop = doc[i].idx
            if _PLAIN(text, stop - 1):
                starts.add(stop + 2)
                continue
            start = next(_AFTER.finditer(text, stop)).end()
            if i == 0 or not _is_inside(text, doc[i - 1].idx, stop, start):
                starts.add(start)
        return sorted(starts - {0, len(text)})

    def __call__(self, doc: Doc) -> Doc:
        """Set the sentence boundaries of `doc`."""
        starts = [*self.starts(doc, doc.text), len(doc.text) + 1]
        passed = 0
        for token in doc:
            token.is_sent_start = not token.i or token.idx >= starts[passed]
            while token.idx >= starts[passed]:
                passed += 1
        return doc


def _is_inside(text: str, before: int, stop: int, start: int) -> bool:
    """Tell whether the stop at `stop` belongs to the word at `before` and not to the sentence."""
    word, follows = text[before:stop], text[start : start + 1]
    if not follows or (follows.isupper() and word.isalpha()):
        return False
    if follows.isdigit() and start == stop + 1 and not word[-1:].isalpha():
        return True  # ".5 cm"
    if word.isdigit() and len(word) <= 2:
        lead = text[max(0, before - 80) : before]
        word_end = lead.rstrip()
        return not word_end or word_end[-1] in ".!?:;" or "\n" in lead[len(word_end) :]
    return word.lower() in _SHORT and (follows.islower() or follows.isdigit() or follows == "_")


def sentences_between(text: str, edges: Sequence[int]) -> list[str]:
    """Return the pieces of `text` between `edges`, each on one line with single blanks."""
    pieces = [" ".join(text[start:end].split()) for start, end in pairwise(edges)]
    return [piece for piece in pieces if piece]


def count_tokens(*texts: str) -> int:
    """Return the number of tokens of a report's texts, as `--min-tokens` counts them.

    The rule of MGCA's loader (mgca/datasets/pretrain_dataset.py): sentences are cut at list
    numbers and full stops, words are runs of \\w in lower case with other than ASCII characters
    removed, sentences of one word or none do not count. Decimals are not cut, as they are there.
    """
    sentences = (_WORD.findall(sentence) for sentence in _CUT.split(" ".join(texts)))
    return sum(
        sum(any(letter.isascii() for letter in word) for word in words)
        for words in sentences
        if len(words) > 1
    )
