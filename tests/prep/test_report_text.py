"""What holds for any report: offsets, decoding, sentences, tokens, hostile input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import Reject
from imitate.prep.reports.sections import (
    ReportParser,
    build_nlp,
    clean_report,
    count_tokens,
    decode_report,
)

PARSER = ReportParser(last_paragraph="impression")
PUBLISHED = ReportParser(compat="mit-lcp", last_paragraph="impression")
NLP = build_nlp()

PIECES = [
    *("FINDINGS:", "Impression: ", "findings and impression - ", "ADDENDUM", "WET READ:"),
    *("CHEST, 2 VIEWS:", "CHEST:", "ABDOMEN, ONE VIEW\n", "RECOMMENDATION(S): ", "HISTORY: "),
    *("FINAL REPORT\n", "_" * 40 + "\n", "Dictated by: ___", "**", "UNKNOWN HEADER: "),
    *("\n", "\n ", "\n\n", "\n \n ", "\r\n", "\t", "\0", "\ufeff", "\u2028", "\xe9", "\ud800"),
    *("The heart is big. ", "1. ", "2. No edema", "1.9 x 1.8 cm", "No. 2", "Dr. ___", "?!", ":"),
]
reports = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("parser", [PARSER, PUBLISHED], ids=["ours", "published"])
@given(text=reports)
@settings(max_examples=300, deadline=None)
def test_every_section_is_its_spans(parser, text):
    report = parser.parse(text)
    cleaned = clean_report(text)
    assert report.spans.keys() == report.sections.keys()
    for name, edges in report.spans.items():
        parts = [cleaned[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
        assert report.sections[name] == "\n\n".join(parts)
        assert all(part and part == part.strip() for part in parts)
    assert report.findings == report.sections.get("findings", "")
    impression = "last_paragraph" if report.section_source == "last_paragraph" else "impression"
    assert report.impression == report.sections.get(impression, "")
    assert (report.section_source == "none") == (not report.findings and not report.impression)


@given(text=reports)
@settings(max_examples=200, deadline=None)
def test_parsing_again_changes_nothing(text):
    report = PARSER.parse(text)
    assert PARSER.parse(text) == report
    assert PARSER.parse(clean_report(text)) == report
    assert clean_report(clean_report(text)) == clean_report(text)


@given(text=reports)
@settings(max_examples=200, deadline=None)
def test_sentences_hold_the_whole_text(text):
    report = PARSER.parse(text)
    for name, whole in (("findings", report.findings), ("impression", report.impression)):
        assert "".join(report.sentences[name]).replace(" ", "") == "".join(whole.split())
        assert all(sentence == squeezed(sentence) != "" for sentence in report.sentences[name])


@given(text=reports)
@settings(max_examples=100, deadline=None)
def test_pipeline_marks_sections_and_sentences(text):
    text = clean_report(text)
    doc, report = NLP(text), PARSER.parse(text)
    assert doc.text == text
    for name, spans in doc.user_data["sections"].items():
        edges = report.spans[name]
        assert [*spans] == [*zip(edges[::2], edges[1::2], strict=True)]
    labelled = {span.label_ for span in doc.spans["sections"]}
    assert labelled == doc.user_data["sections"].keys()
    assert not text or doc[0].is_sent_start


def test_pipeline_sets_the_same_sentences_as_the_parser():
    doc = NLP("FINDINGS: A 1.9 cm nodule. No. 2 is old.\n\n1. Scar.\n2. Clips.")
    assert [squeezed(sentence.text) for sentence in doc.sents] == [
        "FINDINGS: A 1.9 cm nodule.",
        "No. 2 is old.",
        "1. Scar.",
        "2. Clips.",
    ]
    (span,) = doc.spans["sections"]
    assert (span.label_, span.text[:5]) == ("findings", "A 1.9")


SENTENCES = {
    "decimals": ("A 1.9 x 1.8 cm mass. Tip 2.5 cm up.", ["A 1.9 x 1.8 cm mass.", "Tip 2.5 cm up."]),
    "bare decimal": ("About .5 cm. Small.", ["About .5 cm.", "Small."]),
    "number": ("Nodule No. 2 is old. No. 3 too.", ["Nodule No. 2 is old.", "No. 3 too."]),
    "no is a word": ("There is no. The end.", ["There is no.", "The end."]),
    "doctor": ("Dr. ___ told Dr. Smith. Done.", ["Dr. ___ told Dr. Smith.", "Done."]),
    "abbreviations": ("See fig. 2, approx. 3 cm vs. old.", ["See fig. 2, approx. 3 cm vs. old."]),
    "list": ("1. Scar. 2. No edema.", ["1. Scar.", "2. No edema."]),
    "list without stops": ("1. Scar\n2. Clips\n3) Line", ["1. Scar", "2. Clips", "3) Line"]),
    "bullets": ("- Scar\n- Clips", ["- Scar", "- Clips"]),
    "number at the end": ("It is grade 2. No edema.", ["It is grade 2.", "No edema."]),
    "no blank": ("Left apex.There is air.", ["Left apex.", "There is air."]),
    "clock": ("Film at 7:34 p.m.. Heart normal.", ["Film at 7:34 p.m..", "Heart normal."]),
    "wrapped": ("The heart\n is normal.\n No edema.", ["The heart is normal.", "No edema."]),
    "paragraphs": ("No edema\n \nNo air", ["No edema", "No air"]),
    "closed": ('Known ("old.") New?! Yes.', ['Known ("old.")', "New?!", "Yes."]),
}


@pytest.mark.parametrize("text, sentences", SENTENCES.values(), ids=SENTENCES)
def test_sentences(text, sentences):
    assert PARSER.from_sections(text, "", {}).sentences["findings"] == sentences


def test_sections_given_apart():
    report = PARSER.from_sections(" Clear.\r\n", "", {"indication": "cough", "comparison": " "})
    assert (report.findings, report.impression, report.spans) == ("Clear.", "", {})
    assert report.sections == {"findings": "Clear.", "indication": "cough"}
    assert report.section_source == "header"
    assert PARSER.from_sections("", " ", {"indication": "cough"}).section_source == "none"


@pytest.mark.parametrize(
    "data, text",
    [
        (b"\xef\xbb\xbfFINDINGS: x", "FINDINGS: x"),
        ("Ren\xe9".encode(), "Ren\xe9"),
        ("Ren\xe9".encode("latin-1"), "Ren\xe9"),
        (b"a\r\nb\rc\nd", "a\nb\nc\nd"),
        (b"a\0b\0", "ab"),
        (b"", ""),
    ],
)
def test_decoding(data, text):
    assert decode_report(data) == text


@given(st.binary(max_size=300))
def test_any_bytes_decode(data):
    text = decode_report(data)
    assert "\r" not in text and "\0" not in text
    assert clean_report(text) == text


def test_reports_over_the_cap_are_rejected():
    assert len(decode_report(b"x" * 65_536)) == 65_536
    for call in (
        lambda: decode_report(b"x" * 65_537),
        lambda: PARSER.parse("x" * 65_537),
        lambda: PARSER.from_sections("x" * 65_537, "", {}),
    ):
        with pytest.raises(Reject) as caught:
            call()
        assert caught.value.reason == "report_unreadable"


HOSTILE = [
    *("a:", "a:\n", "\n", "\n ", "-", " -", "_", "(", "(a).", ".", "1. ", "1", " ", "*", "A"),
    *("IMPRESSION: ", "X IMPRESSION: ", "FINDINGS\n", "ADDENDUM\n", "CHEST VIEW:\n", "signed\n"),
    *("findings" + " " * 90 + ":", "FINDINGS: a\n" + "_" * 12 + "\n", "\u3000", "\xe9:"),
]


@pytest.mark.parametrize("prefix", ["", "FINDINGS: "])
@pytest.mark.parametrize("unit", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_reports_are_parsed(prefix, unit):
    """With spaCy's default tokenizer the first of these alone takes half a minute."""
    text = (prefix + unit * (65_536 // len(unit)))[:65_536]
    for parser in (PARSER, PUBLISHED):
        report = parser.parse(text)
        assert len(report.findings) <= len(text)
        count_tokens(report.findings, report.impression)


@pytest.mark.parametrize(
    "texts, count",
    [
        (("No acute disease.", ""), 3),
        (("1. ok. 2. A 1.9 cm nodule.",), 5),  # A, 1, 9, cm, nodule
        (("Normal.",), 0),
        (("Normal. Clear.", "Fine."), 0),
        (("No\nedema",), 2),
        (("\xe9\xe9 is na\xefve.",), 2),
        (("", ""), 0),
    ],
)
def test_count_tokens(texts, count):
    assert count_tokens(*texts) == count


def naive_tokens(text: str) -> int:
    """The counting rule word by word, for text without decimals."""
    total = 0
    for sentence in text.replace("\n", " ").split("."):
        words = "".join(c if c.isalnum() or c == "_" else " " for c in sentence).split()
        total += len(words) if len(words) > 1 else 0
    return total


@given(st.text("ab cd.,\n_-", max_size=60))
def test_count_tokens_agrees_with_a_naive_count(text):
    assert count_tokens(text) == naive_tokens(text)
