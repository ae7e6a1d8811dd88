"""The goals of reading reports: exact recovery on the known anomalies, and speed against spaCy.

Texts are those of real Open-i reports where they lie beside the repository, else phantom ones,
rendered in the layout of MIMIC-CXR with one anomaly each; the truth is the text that was put in.
Speeds are CPU time of interleaved rounds over the same reports, medians compared.
"""

import csv
import json
import random
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import spacy

from imitate.prep.sections import ReportParser, decode_report

OPENI = Path(__file__).resolve().parents[3] / "shared" / "data" / "openi" / "indiana_reports.csv"
REPORTS, ROUNDS = 400, 7
RULE = " " + "_" * 78


class Study(NamedTuple):
    """What a report says; Findings or Impression may be empty."""

    findings: str
    impression: str
    indication: str
    other: str  # the Findings of a second study


class Rendered(NamedTuple):
    """A report as a file, and the Findings and Impression it holds."""

    data: bytes
    findings: str
    impression: str


def real_studies(path: Path = OPENI) -> list[Study]:
    """Return the Open-i reports that have an Impression, in the order of the table."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["impression"]]
    texts = [row["findings"] for row in rows if row["findings"]]
    return [
        Study(row["findings"], row["impression"], row["indication"], texts[(7 * i) % len(texts)])
        for i, row in enumerate(rows)
    ]


def phantom_studies(count: int) -> list[Study]:
    """Return made-up reports, for machines without real ones."""
    rng = random.Random(5)
    seen = [
        "The heart is normal in size.",
        "Lungs are clear. No effusion.",
        "A 1.9 x 1.8 cm nodule.",
    ]
    seen += ["No pneumothorax.", "Dr. ___ saw a right-sided line.", "Spine: degenerative change."]
    said = ["No acute disease.", "1. Stable nodule. 2. No edema.", "Small effusion, see above."]
    return [
        Study(
            " ".join(rng.sample(seen, 4)), rng.choice(said), "Cough.", " ".join(rng.sample(seen, 3))
        )
        for _ in range(count)
    ]


def page(parts: list[tuple[str, str]], *, gap: str = ":  ", indent: str = " ") -> str:
    """Return sections in the layout of MIMIC-CXR: wrapped lines behind one blank."""
    lines = [" " * 33 + "FINAL REPORT"]
    for header, text in parts:
        wrapped = textwrap.wrap(f"{header}{gap}{text}", 78, break_on_hyphens=False)
        lines += [indent + line for line in wrapped] + [indent]
    return "\n".join(lines) + "\n"


def parts_of(study: Study, findings: str = "FINDINGS", impression: str = "IMPRESSION"):
    head = [("EXAMINATION", "CHEST (PA AND LAT)"), ("INDICATION", study.indication or "___")]
    head += [("COMPARISON", "None."), ("TECHNIQUE", "Chest PA and lateral.")]
    body = [(findings, study.findings)] if study.findings else []
    return [*head, *body, (impression, study.impression)]


Renderer = Callable[[Study, random.Random], "Rendered | str"]
RENDERERS: dict[str, Renderer] = {}


def anomaly(render: Renderer) -> Renderer:
    RENDERERS[render.__name__] = render
    return render


@anomaly
def published_layout(study: Study, rng: random.Random) -> str:
    return page(parts_of(study))


@anomaly
def lower_case(study: Study, rng: random.Random) -> str:
    return page([(header.lower(), text) for header, text in parts_of(study)])


@anomaly
def title_case(study: Study, rng: random.Random) -> str:
    return page([(header.capitalize(), text) for header, text in parts_of(study)])


@anomaly
def no_indent(study: Study, rng: random.Random) -> str:
    return page(parts_of(study), indent=rng.choice(["", "   ", "\t"]))


@anomaly
def no_blank_behind_colon(study: Study, rng: random.Random) -> str:
    return page(parts_of(study), gap=rng.choice([":", " :", " : "]))


@anomaly
def dash(study: Study, rng: random.Random) -> str:
    return page(parts_of(study), gap=rng.choice([" - ", " -- ", " – ", "- "]))


@anomaly
def header_alone(study: Study, rng: random.Random) -> str:
    parts = parts_of(study)
    lines = page(parts, gap="\n").splitlines()
    headers = {header for header, _ in parts}
    text = "\n".join(lines)
    for header in headers:
        text = text.replace(f"\n {header} ", f"\n {header}{rng.choice([':', ''])}\n ", 1)
    return text


@anomaly
def digits(study: Study, rng: random.Random) -> str:
    return page([("CHEST, 2 VIEWS", "___ at 7:34 p.m."), *parts_of(study)[1:]])


@anomaly
def combined(study: Study, rng: random.Random) -> Rendered:
    header = rng.choice(["FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "Findings & Impression"])
    text = f"{study.findings} {study.impression}".strip()
    return Rendered(page([*parts_of(study)[:4], (header, text)]).encode(), text, text)


@anomaly
def inside_line(study: Study, rng: random.Random) -> str:
    both = f"{study.findings or 'Nothing.'} IMPRESSION: {study.impression}"
    return (
        page([*parts_of(study)[:4], ("FINDINGS", both)])
        if study.findings
        else page(parts_of(study))
    )


@anomaly
def one_line(study: Study, rng: random.Random) -> str:
    return " ".join(f"{header}: {text}" for header, text in parts_of(study))


@anomaly
def synonym(study: Study, rng: random.Random) -> str:
    names = ["CONCLUSION", "INTERPRETATION", "OPINION", "IMPRESSIONS", "Conclusions", "SUMMARY"]
    return page(parts_of(study, impression=rng.choice(names)))


@anomaly
def misspelled(study: Study, rng: random.Random) -> str:
    names = ["IMPRESSON", "IMPRSSION", "MPRESSION", "IMPRESSOIN"]
    return page(parts_of(study, rng.choice(["FINDNGS", "FINDIGNS", "FINDING"]), rng.choice(names)))


@anomaly
def two_studies(study: Study, rng: random.Random) -> Rendered:
    if not study.findings:
        return Rendered(page(parts_of(study)).encode(), "", study.impression)
    titles = ("CHEST, TWO VIEWS", "ABDOMEN, SINGLE VIEW")
    parts = [("INDICATION", "___"), (titles[0], ""), ("FINDINGS", study.findings)]
    parts += [(titles[1], ""), ("FINDINGS", study.other), ("IMPRESSION", study.impression)]
    joined = "\n\n".join([titles[0], study.findings, titles[1], study.other])
    return Rendered(page(parts).encode(), joined, study.impression)


@anomaly
def addendum_above(study: Study, rng: random.Random) -> str:
    above = page([("ADDENDUM", "After review:"), ("IMPRESSION", "Dr. ___ was told at 9:10.")])
    return above + RULE + "\n" + page(parts_of(study))


@anomaly
def addendum_below(study: Study, rng: random.Random) -> str:
    return page([*parts_of(study), ("ADDENDUM", "The line was drawn back."), ("FINDINGS", "None.")])


@anomaly
def wet_read_above(study: Study, rng: random.Random) -> str:
    above = " WET READ: ___ ___ ___ 9:56 PM\n   no pneumothorax. impression: fine\n"
    return above + RULE + "\n" + page(parts_of(study))


@anomaly
def recommendation(study: Study, rng: random.Random) -> str:
    header = rng.choice(["RECOMMENDATION(S)", "RECOMMENDATIONS", "Recommendation"])
    return page([*parts_of(study), (header, "Repeat in 4 weeks.")])


@anomaly
def notification(study: Study, rng: random.Random) -> str:
    told = "Findings were telephoned to Dr. ___ at 14:30."
    return page([*parts_of(study), ("NOTIFICATION", told)])


@anomaly
def signature(study: Study, rng: random.Random) -> str:
    signs = ["Dictated by: ___", "Electronically signed by Dr. ___", "dictating", " DR. ___", RULE]
    return page(parts_of(study)) + f" {rng.choice(signs)}\n ___ 12:01\n"


@anomaly
def anatomy_headers(study: Study, rng: random.Random) -> Rendered:
    text = f"LUNGS: Clear.\n HEART: Normal.\n OTHER FINDINGS: {study.findings or 'None.'}"
    parts = [("FINDINGS", "@"), ("IMPRESSION", study.impression)]
    return Rendered(page(parts).replace("@", text).encode(), text, study.impression)


@anomaly
def windows_file(study: Study, rng: random.Random) -> Rendered:
    text = page(parts_of(study)).replace("\n", "\r\n")
    data = rng.choice([b"\xef\xbb\xbf" + text.encode(), text.encode() + b"\0\0"])
    return Rendered(data, study.findings, study.impression)


@anomaly
def latin_1(study: Study, rng: random.Random) -> Rendered:
    text = page(parts_of(study, "\xa0FINDINGS")) + " Dictated by: Ren\xe9e\n"
    return Rendered(text.encode("latin-1", "ignore"), study.findings, study.impression)


@anomaly
def markdown(study: Study, rng: random.Random) -> str:
    style = rng.choice(["**{}:** {}", "**{}**: {}", "## {}\n\n{}"])
    return "\n\n".join(style.format(header, text) for header, text in parts_of(study))


def rendered(studies: list[Study]) -> Iterator[tuple[str, Rendered]]:
    """Yield every study with one anomaly, the anomalies in turn."""
    rng = random.Random(11)
    names = sorted(RENDERERS)
    for i, study in enumerate(studies):
        name = names[i % len(names)]
        report = RENDERERS[name](study, rng)
        if isinstance(report, str):
            report = Rendered(report.encode(), study.findings, study.impression)
        yield name, report


def recovery(parser: ReportParser, reports: list[tuple[str, Rendered]]) -> dict[str, float]:
    """Return the share of reports whose Findings and Impression come back, for each anomaly.

    Runs of blanks count as one: the layout wraps lines.
    """
    hits: dict[str, list[bool]] = {}
    for name, report in reports:
        text = parser.parse(decode_report(report.data))
        found = (" ".join(text.findings.split()), " ".join(text.impression.split()))
        truth = (" ".join(report.findings.split()), " ".join(report.impression.split()))
        hits.setdefault(name, []).append(found == truth)
    return {name: sum(many) / len(many) for name, many in hits.items()}


def studies_here(count: int = REPORTS) -> list[Study]:
    """Return as many studies as asked for, spread over the real ones where they are."""
    if not OPENI.is_file():
        return phantom_studies(count)
    studies = real_studies()
    return [studies[i * len(studies) // count] for i in range(count)]
