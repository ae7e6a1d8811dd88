"""The patients of a MIMIC-CXR phantom: their studies, films, reports, and the faults among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .film import LATERAL, Finding, draw_findings, draws
from .report import FLAWS, flawed
from .wording import Wording, write_wording

FAULTS = (  # the first six exist in both trees; the names are the reason codes of `prep`
    "truncated",
    "file_missing",
    "file_not_listed",
    "report_missing",
    "blank_picture",
    "file_empty",
    "multi_frame",
    "modality_refused",
)
JPG_FAULTS = FAULTS[:6]
NULL_VIEW = "null_view"
VIEWS = {  # the films of a study -> how often
    ("AP",): 0.40,
    ("PA", LATERAL): 0.42,
    ("AP", "AP"): 0.10,
    ("PA", LATERAL, "PA"): 0.08,
}
INDICATIONS = ("___F with cough.", "___M with fever.", "___-year-old with shortness of breath.")


@dataclass(frozen=True, kw_only=True)
class Image:
    """One film: its id, its view and its size in pixels."""

    dicom_id: str
    view: str
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study; `flaw` names what is wrong with it, empty when nothing is."""

    subject: int
    study: int
    split: str
    date: str
    time: str
    findings: tuple[Finding, ...]
    wording: Wording
    indication: str
    images: tuple[Image, ...]
    flaw: str = ""

    @property
    def folder(self) -> str:
        """Folder of its films below the archive."""
        return f"files/p{self.subject // 1_000_000}/p{self.subject}/s{self.study}"

    @property
    def procedure(self) -> str:
        """Description of the performed procedure."""
        return "CHEST (PORTABLE AP)" if self.images[0].view == "AP" else "CHEST (PA AND LAT)"


def plan_studies(studies: int, seed: int, size: int) -> list[Study]:
    """Draw patients, their studies and films, in the order of the published lists."""
    rng = draws(seed, "mimic", "plan", studies)
    counts: list[int] = []
    while sum(counts) < studies:
        counts.append(min(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])), studies - sum(counts)))
    subjects = 10_000_000 + np.sort(rng.choice(10_000_000, len(counts), replace=False))
    numbers = 50_000_000 + rng.choice(10_000_000, studies, replace=False)
    splits = _splits(counts, rng)
    owners = np.repeat(np.arange(len(counts)), counts)
    plan = [
        _draw_study(int(subjects[owner]), int(number), splits[owner], seed, size)
        for owner, number in zip(owners, numbers, strict=True)
    ]
    return sorted(plan, key=lambda s: (s.subject, s.study))


def draw_dicom_id(rng: np.random.Generator) -> str:
    """Draw a name as MIMIC-CXR gives it to a film: five groups of eight hex digits."""
    return "-".join(rng.bytes(4).hex() for _ in range(5))


def _splits(counts: Sequence[int], rng: np.random.Generator) -> list[str]:
    """Return each patient's split: 17 % of studies test, 8 % validate, the rest train."""
    splits, before = [""] * len(counts), 0
    for rank, patient in enumerate(rng.permutation(len(counts))):
        share = before / sum(counts)
        name = "test" if share < 0.17 else "validate" if share < 0.25 else "train"
        splits[patient] = "validate" if rank == 1 else name
        before += counts[patient]
    return splits


def _draw_study(subject: int, number: int, split: str, seed: int, size: int) -> Study:
    rng = draws(seed, "mimic", "study", number)
    findings = draw_findings(rng)
    views = list(VIEWS)[int(rng.choice(len(VIEWS), p=list(VIEWS.values())))]
    short, lateral = round(size * 5 / 6), "LL" if rng.random() < 0.2 else LATERAL
    images = [
        Image(
            dicom_id=draw_dicom_id(rng),
            view=lateral if view == LATERAL else view,
            rows=short if view == "AP" else size,
            columns=size if view == "AP" else short,
        )
        for view in views
    ]
    return Study(
        subject=subject,
        study=number,
        split=split,
        date=f"{rng.integers(2110, 2200)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        time=f"{rng.integers(0, 24):02d}{rng.integers(0, 60):02d}{rng.integers(0, 60):02d}.531",
        findings=findings,
        wording=write_wording(findings, rng),
        indication=str(rng.choice(INDICATIONS)),
        images=tuple(sorted(images, key=lambda image: image.dicom_id)),
    )


def with_anomalies(plan: list[Study], seed: int, *, jpg: bool) -> list[Study]:
    """Give each fault to one single-film study, each flaw of a report to two; fewer if small."""
    images = sum(len(study.images) for study in plan)
    faults = (JPG_FAULTS if jpg else FAULTS)[: images // 12]
    flaws = ((NULL_VIEW, *FLAWS) * 2)[: len(plan) // 8]
    order = draws(seed, "mimic", "anomalies").permutation(len(plan))
    single = [int(i) for i in order if len(plan[i].images) == 1 and plan[i].images[0].view == "AP"]
    plan = list(plan)
    for index, flaw in zip(single, (*faults, *flaws), strict=False):
        wording = flawed(plan[index].wording, flaw)
        plan[index] = replace(plan[index], flaw=flaw, wording=wording)
    return plan
