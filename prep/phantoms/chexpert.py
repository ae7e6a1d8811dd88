"""A phantom of CheXpert v1.0, with the later test set and the csv of CheXpert Plus.

Layout and column names: `train.csv`, `valid.csv` and folders of CheXpert (Irvin et al., AAAI 2019),
`test_labels.csv` of CheXlocalize, `df_chexpert_plus_240401.csv` of CheXpert Plus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .drawing.dicom import jpeg_bytes
from .drawing.film import LATERAL, Finding, draw_film, draw_findings, draws
from .drawing.packing import csv_bytes, write_file
from .drawing.wording import Wording, labels_of, write_wording

TABLE = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
PLUS_BEGIN = ("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id")
PLUS_TEXT = (
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_procedure_comments",
    "section_findings",
    "section_impression",
    "section_end_of_impression",
    "section_summary",
    "section_accession_number",
)
PLUS_END = ("race", "ethnicity", "interpreter_needed", "insurance_type", "recent_bmi", "deceased")
PLUS_COLUMNS = (
    *(*PLUS_BEGIN, "patient_report_date_order", "report"),
    *(*PLUS_TEXT, "age", "sex", *PLUS_END, "split"),
)
VIEWS = {("AP",): 0.5, ("PA", LATERAL): 0.5}  # the films of a study -> how often
HELD_OUT = 4  # one patient of valid, and one of test, for so many of train
FIRST = {"train": 1, "valid": 64541, "test": 64741}  # number of the first patient


@dataclass(frozen=True, kw_only=True)
class _Study:
    """One study: where it lies, whose it is, what it shows, what its report says."""

    split: str
    patient: str
    number: int
    sex: str
    age: int
    views: tuple[str, ...]
    findings: tuple[Finding, ...]
    wording: Wording

    def films(self) -> Iterator[tuple[str, str]]:
        """Yield path below the archive and view of each film."""
        folder = f"{self.split}/{self.patient}/study{self.number}"
        for number, view in enumerate(self.views, start=1):
            side = "lateral" if view == LATERAL else "frontal"
            yield f"{folder}/view{number}_{side}.jpg", view


def write_chexpert(
    folder: Path, *, patients: int, seed: int, size: int = 128, plus: bool = True
) -> None:
    """Write a phantom with `patients` patients in train, and a fourth of that in valid and test.

    `size` is the longest side of a film. Labels of train are those that the report states, of
    valid and test what the film shows. `plus` adds the reports of CheXpert Plus, in one of eight
    studies without sections. Equal arguments give equal bytes.
    """
    counts = dict.fromkeys(FIRST, max(2, patients // HELD_OUT)) | {"train": patients}
    plan = [
        study
        for split, count in counts.items()
        for number in range(FIRST[split], FIRST[split] + count)
        for study in _studies(split, f"patient{number:05d}", seed)
    ]
    for study in plan:
        for path, view in study.films():
            write_file(folder / path, _picture(study, path, view, seed=seed, size=size))
    for split in ("train", "valid"):
        rows = [row for study in plan if study.split == split for row in _rows(study)]
        write_file(folder / f"{split}.csv", csv_bytes((*TABLE, *LABELS), rows))
    truths = [
        (f"CheXpert-v1.0/{path}", *_truth(study))
        for study in plan
        if study.split == "test"
        for path, _ in study.films()
    ]
    write_file(folder / "test_labels.csv", csv_bytes(("Path", *LABELS), truths))
    if plus:
        reported = [study for study in plan if study.split != "test"]
        rows = [row for index, study in enumerate(reported) for row in _plus(study, index)]
        write_file(folder / "df_chexpert_plus_240401.csv", csv_bytes(PLUS_COLUMNS, rows))


def _studies(split: str, patient: str, seed: int) -> Iterator[_Study]:
    rng = draws(seed, "chexpert", patient)
    sex, age = str(rng.choice(["Female", "Male"])), int(rng.integers(18, 91))
    count = 1 if split != "train" else int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    for number in range(1, count + 1):
        findings = draw_findings(rng)
        yield _Study(
            split=split,
            patient=patient,
            number=number,
            sex=sex,
            age=age,
            views=list(VIEWS)[int(rng.choice(len(VIEWS), p=list(VIEWS.values())))],
            findings=findings,
            wording=write_wording(findings, rng),
        )


def _picture(study: _Study, path: str, view: str, *, seed: int, size: int) -> bytes:
    """Return a film as an 8-bit JPG, a sixth narrower than high, or lower than wide for AP."""
    short = round(size * 5 / 6)
    height, width = (short, size) if view == "AP" else (size, short)
    film = draw_film(study.findings, height=height, width=width, view=view, seed=seed, name=path)
    return jpeg_bytes((film.pixels >> 4).astype(np.uint8))


def _rows(study: _Study) -> Iterator[Sequence[object]]:
    """Yield the rows of train.csv or valid.csv: numbers with one decimal, blank for unlabelled."""
    told = study.wording.labels
    labels = [told.get(name, "") for name in LABELS] if study.split == "train" else _truth(study)
    for path, view in study.films():
        side = ("Lateral", "") if view == LATERAL else ("Frontal", view)
        yield (f"CheXpert-v1.0/{path}", study.sex, study.age, *side, *labels)


def _truth(study: _Study) -> list[float]:
    shown = labels_of(study.findings)
    return [shown[name] for name in LABELS]


def _plus(study: _Study, index: int) -> Iterator[Sequence[object]]:
    """Yield the rows of CheXpert Plus; every eighth report is not cut into sections."""
    wording, whole = study.wording, index % 8 == 7
    narrative = "Chest 1 View" if len(study.views) == 1 else "Chest 2 Views"
    report = (
        f"NARRATIVE:\n{narrative}\n\nCOMPARISON: None.\n\nFINDINGS:\n{wording.findings}\n\n"
        f"IMPRESSION:\n{wording.impression}\n\nACCESSION NUMBER:\n0000000\n"
    )
    sections = {
        "section_narrative": narrative,
        "section_comparison": "None.",
        "section_findings": "" if whole else wording.findings,
        "section_impression": "" if whole else wording.impression,
        "section_accession_number": "0000000",
    }
    texts = [sections.get(name, "") for name in PLUS_TEXT]
    for path, view in study.films():
        side = ("Lateral", "") if view == LATERAL else ("Frontal", view)
        begin = (path, path.replace(".jpg", ".dcm"), *side, study.patient, study.number, report)
        end = (float(study.age), study.sex, *([""] * len(PLUS_END)), study.split)
        yield (*begin, *texts, *end)
