"""The report parser on each way in which reports depart from their layout."""

import runpy
from pathlib import Path

import pytest

from imitate.contract import UsageError
from imitate.prep.reports.sections import ReportParser, decode_report

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "bench_reports.py"))


@pytest.fixture(scope="module")
def parser() -> ReportParser:
    return ReportParser()


@pytest.fixture(scope="module")
def published() -> ReportParser:
    return ReportParser(compat="mit-lcp")


USUAL = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 \n INDICATION:  History: ___M with cough  // pneumonia?
 \n TECHNIQUE:  Chest PA and lateral
 \n COMPARISON:  ___ at 7:34
 \n FINDINGS: \n \n The heart is normal in size.  A 1.9 x 1.8 cm nodule is
 seen.
 \n IMPRESSION: \n \n 1.  No pneumonia.
 2.  Nodule, see above.
"""


def test_usual_layout(parser):
    report = parser.parse(USUAL)
    assert report.sections == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "History: ___M with cough  // pneumonia?",
        "technique": "Chest PA and lateral",
        "comparison": "___ at 7:34",
        "findings": "The heart is normal in size.  A 1.9 x 1.8 cm nodule is\n seen.",
        "impression": "1.  No pneumonia.\n 2.  Nodule, see above.",
    }
    assert report.findings == report.sections["findings"]
    assert report.impression == report.sections["impression"]
    assert report.section_source == "header"
    assert report.sentences == {
        "findings": ["The heart is normal in size.", "A 1.9 x 1.8 cm nodule is seen."],
        "impression": ["1. No pneumonia.", "2. Nodule, see above."],
    }


TWO = ("Clear.", "Normal.")
HEADERS = {
    "lower case": ("findings: Clear.\nimpression: Normal.", TWO),
    "lower case without stops": ("findings: clear\nimpression: normal", ("clear", "normal")),
    "title case": ("Findings: Clear.\n\nImpression: Normal.", TWO),
    "column 0": ("EXAM: X\nFINDINGS: Clear.\nIMPRESSION: Normal.", TWO),
    "deep indent": ("    FINDINGS: Clear.\n\n\t IMPRESSION: Normal.", TWO),
    "hard blank": ("\n\xa0FINDINGS: Clear.\n\xa0IMPRESSION: Normal.", TWO),
    "no blank behind": ("FINDINGS:Clear.\nIMPRESSION:Normal.", TWO),
    "blank before colon": ("FINDINGS : Clear.\nIMPRESSION : Normal.", TWO),
    "tabs": ("FINDINGS:\tClear.\n\tIMPRESSION:\tNormal.", TWO),
    "dash": ("FINDINGS - Clear.\n\nImpression -- Normal.", TWO),
    "long dash": ("FINDINGS – Clear.\nIMPRESSION — Normal.", TWO),
    "close dash": ("FINDINGS-Clear.\nIMPRESSION- Normal.", TWO),
    "alone": ("FINDINGS\nClear.\n\nImpression\nNormal.", TWO),
    "tab only": ("FINDINGS\tClear.\nIMPRESSION\tNormal.", TWO),
    "no sign": ("FINDINGS Clear.\nIMPRESSION. Normal.", TWO),
    "bold": ("**FINDINGS:** Clear.\n\n**IMPRESSION**: Normal.", TWO),
    "hash": ("## Findings\n\nClear.\n\n## Impression\n\nNormal.", TWO),
    "underlined": ("FINDINGS\n========\nClear.\n\nIMPRESSION\n----------\nNormal.", TWO),
    "banner": ("=== FINDINGS ===\nClear.\n*** IMPRESSION ***\nNormal.", TWO),
    "misspelled": ("FINDIGNS: Clear.\nImpresson: Normal.", TWO),
    "inside a line": ("FINDINGS: Clear. IMPRESSION: Normal.", TWO),
    "inside, lower case": ("findings: Clear. impression: Normal.", TWO),
    "inside, no stop": ("FINDINGS: Clear Impression: Normal.", ("Clear", "Normal.")),
    "inside, dash": ("FINDINGS: Clear. IMPRESSION - Normal.", TWO),
    "all in one line": ("INDICATION: cough. FINDINGS: Clear. IMPRESSION: Normal.", TWO),
    "digits": ("CHEST, 2 VIEWS:\n\nFINDINGS: Clear.\nIMPRESSION: Normal.", TWO),
    "conclusion": ("FINDINGS: Clear.\nCONCLUSION: Normal.", TWO),
    "interpretation": ("FINDINGS: Clear.\nINTERPRETATION: Normal.", TWO),
    "opinion": ("FINDINGS: Clear.\nOpinion: Normal.", TWO),
    "interpretation describes": ("INTERPRETATION: Clear.\nIMPRESSION: Normal.", TWO),
    "no findings": ("INDICATION: x\nIMPRESSION: Normal.", ("", "Normal.")),
    "empty findings": ("FINDINGS:\n\nIMPRESSION: Normal.", ("", "Normal.")),
    "no impression": ("FINDINGS: Clear.", ("Clear.", "")),
    "capitals": (
        "FINDINGS: CLEAR.\nNO EDEMA: NONE.\nIMPRESSION: OK.",
        ("CLEAR.\nNO EDEMA: NONE.", "OK."),
    ),
    "wrapped prose": (
        "FINDINGS: See the\nimpression: below.\nIMPRESSION: As to the\nfindings: old.",
        ("See the\nimpression: below.", "As to the\nfindings: old."),
    ),
    "times": ("FINDINGS: At 7:34. Findings 3:15.", ("At 7:34. Findings 3:15.", "")),
}


@pytest.mark.parametrize("text, truth", HEADERS.values(), ids=HEADERS)
def test_headers(parser, text, truth):
    report = parser.parse(text)
    assert (report.findings, report.impression) == truth
    assert report.section_source == "header"


@pytest.mark.parametrize(
    "header", ["FINDINGS AND IMPRESSION:", "FINDINGS/IMPRESSION:", "Findings & Impression -"]
)
def test_combined_header_fills_both(parser, header):
    report = parser.parse(f" INDICATION: x\n \n {header} All is well. Really.\n")
    assert report.findings == report.impression == "All is well. Really."
    assert report.section_source == "combined"
    assert report.sentences["findings"] == report.sentences["impression"]
    assert report.spans["findings"] == report.spans["impression"]


def test_combined_header_beside_an_impression_is_findings(parser):
    report = parser.parse("FINDINGS AND IMPRESSION: all.\nIMPRESSION: fine.\n")
    assert (report.findings, report.impression) == ("all.", "fine.")
    assert report.section_source == "header"


def test_two_studies_keep_all_findings_under_their_titles(parser):
    text = """
 CHEST, TWO VIEWS:\n\n FINDINGS: Clear lungs.\n\n ABDOMEN, 1 VIEW\n\n FINDINGS: No free air.

 IMPRESSION: Normal."""
    report = parser.parse(text)
    assert report.findings == (
        "CHEST, TWO VIEWS\n\nClear lungs.\n\nABDOMEN, 1 VIEW\n\nNo free air."
    )
    assert report.impression == "Normal."
    assert len(report.spans["findings"]) == 8


def test_titles_with_a_description_are_findings_where_no_header_says_so(parser):
    report = parser.parse(" PORTABLE CHEST: The lungs are quite clear.\n\n IMPRESSION: Normal.\n")
    assert report.findings == "The lungs are quite clear."
    report = parser.parse(" PORTABLE CHEST: ___\n\n IMPRESSION: Normal.\n")
    assert (report.findings, report.sections["examination"]) == ("", "PORTABLE CHEST: ___")


def test_parts_of_a_description_stay_in_their_section(parser):
    text = """
 FINDINGS:\n LUNGS: Clear.\n CHEST TUBE: None.\n PACEMAKER: Yes.\n OTHER FINDINGS: None.\n
 IMPRESSION:\n CHEST: No edema.\n ABDOMEN: Ileus.\n Note: see above.\n
 FLUORO TIME: 3 minutes"""
    report = parser.parse(text)
    assert report.findings == (
        "LUNGS: Clear.\n CHEST TUBE: None.\n PACEMAKER: Yes.\n OTHER FINDINGS: None."
    )
    assert report.impression == "CHEST: No edema.\n ABDOMEN: Ileus.\n Note: see above."
    assert report.sections["fluoro time"] == "3 minutes"


RULE = " " + "_" * 78 + "\n"


@pytest.mark.parametrize(
    "label", ["ADDENDUM:", "ADDENDUM", "FINAL ADDENDUM", "WET READ: ___ 9:56 PM"]
)
def test_part_above_the_rule_is_never_read_as_sections(parser, label):
    above = f" {label}  The nodule is old.\n IMPRESSION: Discussed.\n"
    report = parser.parse(above + RULE + USUAL)
    assert report.impression == "1.  No pneumonia.\n 2.  Nodule, see above."
    name = "wet read" if "WET" in label else "addendum"
    assert report.sections[name].endswith("IMPRESSION: Discussed.")


def test_addendum_below_ends_the_report(parser):
    report = parser.parse(USUAL + "\n ADDENDUM:  On review\n FINDINGS: a nodule.\n")
    assert report.impression.endswith("see above.")
    assert report.sections["addendum"] == "On review\n FINDINGS: a nodule."


@pytest.mark.parametrize(
    "tail, name, text",
    [
        ("RECOMMENDATION(S):  Repeat it.", "recommendations", "Repeat it."),
        ("Recommendation: Repeat it.", "recommendations", "Repeat it."),
        ("NOTIFICATION:  Dr. ___ was told.", "notification", "Dr. ___ was told."),
        ("WET READ: ___ fine", "wet read", "___ fine"),
        ("Dictated by: ___\n ___", "signature", "Dictated by: ___\n ___"),
        ("dictating", "signature", "dictating"),
        ("          DR. ___ ___", "signature", "DR. ___ ___"),
        ("_____________\n J. Doe", "signature", "J. Doe"),
    ],
)
def test_what_follows_the_impression_is_cut_off(parser, tail, name, text):
    report = parser.parse(f"{USUAL} \n {tail}\n")
    assert report.impression == "1.  No pneumonia.\n 2.  Nodule, see above."
    assert report.sections[name] == text


def test_recommendation_inside_a_line_is_cut_off(parser):
    report = parser.parse("FINDINGS: Clear.\nIMPRESSION: Normal. RECOMMENDATION: None.")
    assert (report.impression, report.sections["recommendations"]) == ("Normal.", "None.")


LAST = " FINAL REPORT\n REASON FOR EXAM: cough.\n \n Compared with ___.\n \n The heart is big.\n"


def test_last_paragraph_only_when_asked_for(parser):
    report = parser.parse(LAST)
    assert (report.findings, report.impression, report.section_source) == ("", "", "none")
    asked = ReportParser(last_paragraph="impression")
    report = asked.parse(LAST)
    assert report.impression == "Compared with ___.\n \n The heart is big."
    assert report.section_source == "last_paragraph"
    assert report.sections["last_paragraph"] == report.impression
    assert asked.parse("The heart is big.").impression == "The heart is big."
    assert asked.parse("INDICATION: cough").section_source == "none"
    assert asked.parse(USUAL).section_source == "header"


def test_studies_sectioned_by_hand(parser, published):
    text = "x" * 201 + " " + "No edema is seen. " * 30
    for study in ("s50525523", "50525523"):
        report = parser.parse(text, study)
        assert report.section_source == "override"
        assert report.impression == text[201:349].strip() == report.sections["override"]
    assert parser.parse(USUAL, "s58235663").impression == ""  # it describes nothing
    assert parser.parse("\n INDICATION: Old\n scar.\n", "s57936451").impression == "Old\n scar."
    short = "FINDINGS: too short for the span that was chosen"
    assert parser.parse(short, "s50525523").section_source == "header"
    assert published.parse(USUAL, "s50525523").section_source == "none"


def test_unknown_choices_are_usage_errors():
    with pytest.raises(UsageError):
        ReportParser(compat="mitlcp")
    with pytest.raises(UsageError):
        ReportParser(last_paragraph="findings")


PUBLISHED = {
    "usual": ("\n FINDINGS: a\n\n IMPRESSION: b\n", ("a", "b")),
    "column 0": ("\nFINDINGS: a\n\nIMPRESSION: b\n", ("", "")),
    "lower case": ("\n findings: a\n impression: b\n", ("", "")),
    "no blank behind": ("\n FINDINGS:a\n IMPRESSION: b\n", ("", "b")),
    "digits": ("\n CHEST, 2 VIEWS: a\n IMPRESSION: b\n", ("", "b")),
    "last of a name": ("\n FINDINGS: a\n FINDINGS: c\n IMPRESSION: b\n", ("c", "b")),
    "empty is none": ("\n FINDINGS: a\n IMPRESSION: b\n\n FINDINGS: \n", ("a", "b")),
    "combined": ("\n FINDINGS AND IMPRESSION: a b\n", ("", "a b")),
    "contained": ("\n CHEST FINDINGS: a\n FINAL IMPRESSION: b\n", ("a", "b")),
    "study title": ("\n CHEST, PORTABLE AP: a\n", ("a", "")),
    "unknown": ("\n IMPRESSION: b\n OPINION: c\n", ("", "b")),
    "mistyped": ("\n NDICATION: a\n", ("", "a")),
    "header below an empty one": ("\n FINDINGS:\n IMPRESSION: b\n c", ("IMPRESSION: b\n c", "")),
    "inside a line": ("\n FINDINGS: a IMPRESSION: b\n", ("a IMPRESSION: b", "")),
    "last paragraph": ("\n INDICATION: x\n \n The heart.\n", ("", "")),
}


@pytest.mark.parametrize("text, truth", PUBLISHED.values(), ids=PUBLISHED)
def test_published_behaviour(published, text, truth):
    report = published.parse(text)
    assert (report.findings, report.impression) == truth
    assert report.section_source == ("header" if any(truth) else "none")


def test_published_last_paragraph():
    report = ReportParser(compat="mit-lcp", last_paragraph="impression").parse(
        "\n INDICATION: x\n \n The heart.\n \n Big.\n"
    )
    assert report.impression == "The heart.\n \n Big."
    assert (report.sections["indication"], report.section_source) == ("x", "last_paragraph")


def test_phantom_reports_come_back_exactly(parser):
    reports = [*BENCH["rendered"](BENCH["phantom_studies"](120))]
    assert set(BENCH["recovery"](parser, reports).values()) == {1.0}


@pytest.mark.real
def test_real_reports_come_back_from_every_anomaly(parser, published, shared_data):
    studies = BENCH["real_studies"](shared_data / "openi" / "indiana_reports.csv")
    reports = [*BENCH["rendered"](studies[:: len(studies) // 300])]
    ours = BENCH["recovery"](parser, reports)
    theirs = BENCH["recovery"](published, reports)
    assert sum(ours.values()) / len(ours) >= 0.97
    assert min(ours.values()) >= 0.9
    # what the published parser is known to lose, and what it keeps
    assert theirs["published_layout"] == theirs["windows_file"] == 1
    assert theirs["lower_case"] == theirs["dash"] == theirs["combined"] == 0
    assert theirs["synonym"] < 0.75


@pytest.mark.real
def test_a_real_lower_case_report(parser, shared_data):
    report = parser.parse(decode_report((shared_data / "reports/negbio_00000086.txt").read_bytes()))
    assert report.findings.startswith("pa and lat cxr at 7:34 p.m..")
    assert report.findings.endswith("osseous structures unchanged scoliosis")
    assert report.impression == "stable chest."
    assert report.sections["signature"] == "dictating"
