"""Reports into sections: the parser of free-text radiology reports, and its spaCy pipeline.

Rules find where sections start (headers, marks, phrases) and what they hold (layout); spaCy cuts
Findings and Impression into sentences. A section is a list of spans of the report, and its text
those slices joined by a blank line: nothing is rewritten, every offset can be checked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import spacy
import yaml
from spacy.language import Language
from spacy.tokens import Doc

from ...contract import Reject, UsageError
from .layout import Span, find_layout, last_paragraph, trimmed
from .published import published_pieces
from .tokens import SentenceRule, build_tokenizer, count_tokens, sentences_between

__all__ = [
    "ReportParser",
    "ReportText",
    "build_nlp",
    "clean_report",
    "count_tokens",
    "decode_report",
]

LONGEST_REPORT = 64 * 1024  # bytes, and characters; real reports are below 10 kB
_MOST_STRINGS = 200_000  # distinct words of a vocabulary before it is made anew
COMPATS = ("none", "mit-lcp")
LAST_PARAGRAPHS = ("none", "impression")


@dataclass(frozen=True, kw_only=True)
class ReportText:
    """A report in sections.

    `spans` gives start, end, start, end … of each section's parts in the cleaned text, and a
    section's text is those slices joined by a blank line. `findings` and `impression` are empty
    when absent. `section_source`: header, combined (one section fills both), last_paragraph,
    override (sectioned by hand) or none.
    """

    findings: str
    impression: str
    sections: dict[str, str]
    spans: dict[str, list[int]]
    sentences: dict[str, list[str]]
    section_source: str


def clean_report(text: str) -> str:
    """Return `text` with line ends as one character, and without NUL and byte order mark.

    All offsets refer to this text. Raises Reject("report_unreadable") over 64 k characters.
    """
    if len(text) > LONGEST_REPORT:
        raise Reject("report_unreadable", "over 64 kB")
    text = text.replace("\0", "")
    if not text.isascii():  # a lone surrogate is no text, and spaCy cannot hash it
        text = text.encode("utf-8", "replace").decode().lstrip("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def decode_report(data: bytes) -> str:
    """Return the cleaned text of a report file in UTF-8, or else in Latin-1.

    Raises Reject("report_unreadable") over 64 kB.
    """
    if len(data) > LONGEST_REPORT:
        raise Reject("report_unreadable", "over 64 kB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return clean_report(text)


def mark_sections(doc: Doc) -> Doc:
    """Set `doc.spans["sections"]`, labelled by section, and their offsets in `doc.user_data`."""
    layout = find_layout(doc.text)
    doc.spans["sections"] = [
        doc.char_span(*span, label=name, alignment_mode="expand")
        for name, spans in layout.parts.items()
        for span in spans
    ]
    doc.user_data["sections"] = layout.parts
    doc.user_data["section_source"] = layout.source
    return doc


Language.component("imitate_sections", func=mark_sections)
Language.factory("imitate_sentences", func=lambda nlp, name: SentenceRule(nlp.vocab))


def build_nlp() -> Language:
    """Return a blank English pipeline for whole reports: sections, then sentences.

    No model is loaded or fetched. `nlp(text)` marks a whole report; ReportParser uses the same
    tokenizer and sentence rule on Findings and Impression alone, which is what they cost.
    """
    nlp = spacy.blank("en")
    nlp.tokenizer = build_tokenizer(nlp)
    nlp.add_pipe("imitate_sections")
    nlp.add_pipe("imitate_sentences")
    return nlp


@cache
def _overrides() -> dict[str, Any]:
    facts = yaml.safe_load(Path(__file__).with_name("overrides.yaml").read_text("utf-8"))
    sections = {str(study): name for name, many in facts["sections"].items() for study in many}
    spans = {str(study): tuple(span) for study, span in facts["spans"].items()}
    return {**sections, **spans, **dict.fromkeys(map(str, facts["empty"]), (0, 0))}


def _override(text: str, study: str) -> Span | None:
    """Return the span of `text` that was chosen by hand for `study`, if it still fits the text."""
    chosen = _overrides().get(study)
    if isinstance(chosen, str):
        pieces = [piece for piece in published_pieces(text) if piece.name == chosen]
        span = trimmed(text, *pieces[-1][1:]) if pieces else (0, 0)
        return span if span[0] < span[1] else None
    if chosen is None or chosen[1] > len(text):
        return None
    return trimmed(text, *chosen)


def _joined(text: str, parts: list[Span]) -> str:
    if len(parts) == 1:
        return text[parts[0][0] : parts[0][1]]
    return "\n\n".join([text[start:end] for start, end in parts])


class ReportParser:
    """Cuts reports into sections and sentences; make one a process, calls are cheap.

    `compat="mit-lcp"` gives the Findings and Impression of the published mimic_cxr_sectioned.csv;
    `last_paragraph="impression"` takes the last paragraph as Impression where a report has
    neither section. Raises UsageError for other values.
    """

    def __init__(self, *, compat: str = "none", last_paragraph: str = "none") -> None:
        for name, value, allowed in (
            ("compat", compat, COMPATS),
            ("last-paragraph", last_paragraph, LAST_PARAGRAPHS),
        ):
            if value not in allowed:
                raise UsageError(f"--{name} is one of {', '.join(allowed)}", where=f"{value!r}")
        self._compat = compat
        self._takes_last = last_paragraph == "impression"
        self._load()

    def _load(self) -> None:
        nlp = build_nlp()
        self._strings, self._tokenize = nlp.vocab.strings, nlp.tokenizer
        self._sentence_starts = nlp.get_pipe("imitate_sentences").starts

    def parse(self, text: str, study_id: str | None = None) -> ReportText:
        """Return the sections and sentences of one report.

        `study_id` (MIMIC, with or without its `s`) finds the few studies sectioned by hand.
        Raises Reject("report_unreadable") over 64 k characters.
        """
        text = clean_report(text)
        study = (study_id or "").removeprefix("s")
        if self._compat == "mit-lcp":
            parts, source = self._published(text, study)
        else:
            parts, source = self._parts(text, study)
        spans = {name: list(chain.from_iterable(many)) for name, many in parts.items()}
        sections = {name: _joined(text, many) for name, many in parts.items()}
        impression = "last_paragraph" if source == "last_paragraph" else "impression"
        impression = "override" if source == "override" else impression
        return self._report(
            findings=sections.get("findings", ""),
            impression=sections.get(impression, ""),
            sections=sections,
            spans=spans,
            source=source,
        )

    def from_sections(
        self, findings: str, impression: str, others: Mapping[str, str]
    ) -> ReportText:
        """Return a report whose archive gives its sections apart; it has no spans."""
        given = {**others, "findings": findings, "impression": impression}
        texts = {name: clean_report(text).strip() for name, text in given.items()}
        sections = {name: text for name, text in texts.items() if text}
        return self._report(
            findings=texts["findings"],
            impression=texts["impression"],
            sections=sections,
            spans={},
            source="header" if texts["findings"] or texts["impression"] else "none",
        )

    def _parts(self, text: str, study: str) -> tuple[dict[str, list[Span]], str]:
        layout = find_layout(text)
        chosen = _override(text, study) if study else None
        if chosen:
            parts = {k: v for k, v in layout.parts.items() if k not in ("findings", "impression")}
            return parts | ({"override": [chosen]} if chosen[0] < chosen[1] else {}), "override"
        last = last_paragraph(text, layout) if self._takes_last else None
        if layout.source == "none" and last:
            return {**layout.parts, "last_paragraph": [last]}, "last_paragraph"
        return layout.parts, layout.source

    def _published(self, text: str, study: str) -> tuple[dict[str, list[Span]], str]:
        if study in _overrides():
            return {}, "none"  # the published table leaves these out
        pieces = ((piece.name, trimmed(text, *piece[1:])) for piece in published_pieces(text))
        parts = {name: [span] for name, span in pieces if span[0] < span[1]}
        if "findings" in parts or "impression" in parts:
            return parts, "header"
        return parts, "last_paragraph" if self._takes_last and "last_paragraph" in parts else "none"

    def _report(
        self,
        *,
        findings: str,
        impression: str,
        sections: dict[str, str],
        spans: dict[str, list[int]],
        source: str,
    ) -> ReportText:
        return ReportText(
            findings=findings,
            impression=impression,
            sections=sections,
            spans=spans,
            sentences=self._sentences(findings, impression),
            section_source=source,
        )

    def _sentences(self, findings: str, impression: str) -> dict[str, list[str]]:
        # One document for both: a blank line always ends a sentence, and a call of spaCy has a
        # fixed price.
        both = findings != impression and findings and impression
        text = f"{findings}\n\n{impression}" if both else findings or impression
        if len(self._strings) > _MOST_STRINGS:
            self._load()
        edges = [0, *self._sentence_starts(self._tokenize(text), text), len(text)]
        if findings == impression:
            cut = sentences_between(text, edges)
            return {"findings": cut, "impression": cut}
        middle = bisect_right(edges, len(findings))
        return {
            "findings": sentences_between(text, [*edges[:middle], len(findings)]),
            "impression": sentences_between(text, [len(findings), *edges[middle:]]),
        }
