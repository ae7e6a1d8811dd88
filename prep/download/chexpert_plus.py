"""The tables that CheXpert Plus adds to CheXpert: reports by study, labels of CheXbert by film.

Column names: `df_chexpert_plus_240401.csv` (Chambon et al. 2024, arXiv 2405.19538).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ...contract import InputError
from ..record import Sections, Whole
from .tables import read_csv, read_lines

STUDY = re.compile(r"(patient\d+/study\d+)/")
SECTION = "section_"  # columns of this prefix are sections of the report
NO_TEXT = ("findings", "impression", "accession_number")  # the first two are named apart

Report = Sections | Whole


def plus_reports(path: Path) -> dict[str, Report]:
    """Return the report of each study: its published sections, or the whole where both are empty.

    All films of a study carry the same report. Raises InputError for a damaged table or header.
    """
    columns = ["path_to_image", "report", "section_findings", "section_impression"]
    reports: dict[str, Report] = {}
    for row in read_csv(path, columns):
        match = STUDY.search(row["path_to_image"])
        if match is None:
            raise InputError("a path has no patientN/studyN", where=f"{path}, path_to_image")
        if match[1] not in reports and (report := _report(row)):
            reports[match[1]] = report
    return reports


def _report(row: dict[str, str]) -> Report | None:
    findings, impression = row["section_findings"].strip(), row["section_impression"].strip()
    if not (findings or impression):
        return Whole(text=row["report"]) if row["report"].strip() else None
    names = [name.removeprefix(SECTION) for name in row if name.startswith(SECTION)]
    others = {name: row[SECTION + name] for name in names if name not in NO_TEXT}
    return Sections(
        findings=findings,
        impression=impression,
        others={name: text for name, text in others.items() if text.strip()},
    )


def plus_labels(path: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the labels of each film by its `path_to_image`, from one JSON object a line.

    Labels that are null are left out. Raises InputError when the file is damaged.
    """
    labels = {}
    try:
        for line in read_lines(path):
            row = json.loads(line)
            told = {name: row[name] for name in names if row.get(name) is not None}
            labels[str(row["path_to_image"])] = {name: float(x) for name, x in told.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError("not one JSON object with labels a line", where=str(path)) from None
    return labels
