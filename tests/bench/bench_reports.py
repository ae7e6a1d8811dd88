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

from imitate.prep.reports.sections import ReportParser, decode_report

OPENI = Path(__file__).resolve().parents[3] / "shared" / "data" / "openi" / "indiana_reports.csv"
REPORTS, ROUNDS = 400, 7
RULE = " " + "_" * 78 + "\n"


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
    """Return the Open-i reports with Findings or Impression, in the order of the table."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["findings"] or r["impression"]]
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


def parts_of(
    study: Study, findings: str = "FINDINGS", impression: str = "IMPRESSION"
) -> list[tuple[str, str]]:
    """Return the sections of a study, an absent one left out."""
    head = [("EXAMINATION", "CHEST (PA AND LAT)"), ("INDICATION", study.indication or "___")]
    head += [("COMPARISON", "None."), ("TECHNIQUE", "Chest PA and lateral.")]
    body = [(findings, study.findings), (impression, study.impression)]
    return [*head, *[(header, text) for header, text in body if text]]


Renderer = Callable[[Study, random.Random], Rendered | str]  # text alone: its truth is the study's
RENDERERS: dict[str, Renderer] = {
    "published_layout": lambda study, rng: page(parts_of(study)),
    "lower_case": lambda study, rng: page([(h.lower(), t) for h, t in parts_of(study)]),
    "title_case": lambda study, rng: page([(h.capitalize(), t) for h, t in parts_of(study)]),
    "no_indent": lambda study, rng: page(parts_of(study), indent=rng.choice(["", "   ", "\t"])),
    "colon": lambda study, rng: page(parts_of(study), gap=rng.choice([":", " :", " : "])),
    "dash": lambda study, rng: page(parts_of(study), gap=rng.choice([" - ", " -- ", " – ", "- "])),
    "digits": lambda study, rng: page([("CHEST, 2 VIEWS", "___"), *parts_of(study)[1:]]),
    "one_line": lambda study, rng: " ".join(f"{h}: {t}" for h, t in parts_of(study)),
    "synonym": lambda study, rng: page(parts_of(study, impression=rng.choice(SYNONYMS))),
    "misspelled": lambda study, rng: page(parts_of(study, *map(rng.choice, MISSPELLED))),
    "addendum_above": lambda study, rng: ADDENDUM + page(parts_of(study)),
    "wet_read_above": lambda study, rng: WET_READ + page(parts_of(study)),
    "tail": lambda study, rng: page([*parts_of(study), rng.choice(TAILS)]),
    "signature": lambda study, rng: page(parts_of(study)) + f" {rng.choice(SIGNS)}\n ___ 12:01\n",
}
SYNONYMS = ["CONCLUSION", "INTERPRETATION", "OPINION", "IMPRESSIONS", "Conclusions", "SUMMARY"]
MISSPELLED = [["FINDNGS", "FINDIGNS", "FINDING"], ["IMPRESSON", "MPRESSION", "IMPRESSOIN"]]
ADDENDUM = page([("ADDENDUM", "Seen again:"), ("IMPRESSION", "Dr. ___ was told.")]) + RULE
WET_READ = " WET READ: ___ ___ ___ 9:56 PM\n   no pneumothorax. impression: fine\n" + RULE
TAILS = [
    *(("RECOMMENDATION(S)", "Repeat in 4 weeks."), ("Recommendation", "Repeat in 4 weeks.")),
    *(("NOTIFICATION", "Findings were telephoned at 14:30."), ("ADDENDUM", "IMPRESSION: none.")),
]
SIGNS = ["Dictated by: ___", "Electronically signed by Dr. ___", "dictating", " DR. ___", RULE]


def anomaly(render: Renderer) -> Renderer:
    RENDERERS[render.__name__] = render
    return render


@anomaly
def header_alone(study: Study, rng: random.Random) -> str:
    text = page(parts_of(study))
    for header, _ in parts_of(study):
        text = text.replace(f"\n {header}:  ", f"\n {header}{rng.choice([':', ''])}\n ", 1)
    return text


@anomaly
def combined(study: Study, rng: random.Random) -> Rendered:
    header = rng.choice(["FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "Findings & Impression"])
    text = f"{study.findings} {study.impression}".strip()
    return Rendered(page([*parts_of(study)[:4], (header, text)]).encode(), text, text)


@anomaly
def inside_line(study: Study, rng: random.Random) -> str:
    if not (study.findings and study.impression):
        return page(parts_of(study))
    both = f"{study.findings} IMPRESSION: {study.impression}"
    return page([*parts_of(study)[:4], ("FINDINGS", both)])


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


def spent(work: Callable[[str], Any], texts: list[str]) -> float:
    """Return the CPU seconds of one round."""
    start = time.process_time()
    for text in texts:
        work(text)
    return time.process_time() - start


def speed_ratio(parser: ReportParser, texts: list[str]) -> float:
    """Return how many times faster `parser` is than a blank pipeline with spaCy's defaults.

    The default pipeline only sets sentence boundaries, in the whole report as it knows no
    sections; ours also finds the sections and returns its sentences as strings.
    """
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    spent(nlp, texts)  # both have seen every word once
    spent(parser.parse, texts)
    rounds = [(spent(nlp, texts), spent(parser.parse, texts)) for _ in range(ROUNDS)]
    return statistics.median(theirs / ours for theirs, ours in rounds)


def bench() -> list[dict[str, Any]]:
    """Measure both goals of the reports."""
    parser = ReportParser()
    studies = studies_here()
    shares = recovery(parser, [*rendered(studies)])
    exact = statistics.mean(shares.values())
    ratio = speed_ratio(parser, [page(parts_of(study)) for study in studies])
    return [
        {
            "goal": "reports: exact Findings and Impression on the anomalies",
            "target": ">= 0.97",
            "measured": exact,
            "ok": exact >= 0.97,
            "unit": "share",
        },
        {
            "goal": "reports: faster than default spaCy on the same text",
            "target": ">= 4x",
            "measured": ratio,
            "ok": ratio >= 4,
            "unit": "ratio",
        },
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(bench(), indent=2) + "\n")
