"""A phantom of the RSNA Pneumonia Detection Challenge, stage 2, in the layout of its download.

Layout and column names: the challenge's files on Kaggle. A box encloses a drawn opacity exactly.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np

from .drawing.dicom import JPEG, dicom_bytes, uid_of
from .drawing.film import OPACITIES, Box, Finding, draw_film, draws, place
from .drawing.packing import csv_bytes, write_file

POSITIVE_SHARE = 0.35
NORMAL_SHARE = 0.36
OTHERS = ("Cardiomegaly", "Pleural Effusion", "Pneumothorax")
UNLABELLED = 8  # one picture of the test folder for so many labelled ones


def write_rsna(folder: Path, *, patients: int, seed: int, size: int = 128) -> None:
    """Write a phantom of `patients` labelled pictures of `size` x `size` pixels below `folder`.

    35 % have Target 1 with one or two boxes; the others are normal or show other findings. A few
    pictures without labels lie in `stage_2_test_images`. Equal arguments give equal bytes.
    """
    rng = draws(seed, "rsna", "ids", patients)
    names = sorted(str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(patients))
    labels: list[tuple[object, ...]] = []
    classes: list[tuple[str, str]] = []
    for name in names:
        findings = _draw_findings(draws(seed, "rsna", "findings", name))
        data, boxes = _picture(name, findings, seed, size)
        write_file(folder / "stage_2_train_images" / f"{name}.dcm", data)
        rows = [(name, *map(float, box), 1) for box in boxes] or [(name, "", "", "", "", 0)]
        labels += rows
        classes += [(name, _class_of(findings))] * len(rows)
    for _ in range(max(1, patients // UNLABELLED)):
        name = str(uuid.UUID(bytes=rng.bytes(16), version=4))
        data, _ = _picture(name, _draw_findings(draws(seed, "rsna", "findings", name)), seed, size)
        write_file(folder / "stage_2_test_images" / f"{name}.dcm", data)
    columns = ("patientId", "x", "y", "width", "height", "Target")
    write_file(folder / "stage_2_train_labels.csv", csv_bytes(columns, labels))
    info = csv_bytes(("patientId", "class"), classes)
    write_file(folder / "stage_2_detailed_class_info.csv", info)


def _draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw one or two opacities (each in its own lung), other findings, or nothing."""
    share = rng.random()
    if share < POSITIVE_SHARE:
        first, second = place("Pneumonia", rng), place("Pneumonia", rng)
        return (first, second) if first.side != second.side and rng.random() < 0.6 else (first,)
    if share < POSITIVE_SHARE + NORMAL_SHARE:
        return ()
    return (place(str(rng.choice(OTHERS)), rng),)


def _class_of(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return "Normal"
    opacity = any(finding.name in OPACITIES for finding in findings)
    return "Lung Opacity" if opacity else "No Lung Opacity / Not Normal"


def _picture(
    name: str, findings: tuple[Finding, ...], seed: int, size: int
) -> tuple[bytes, tuple[Box, ...]]:
    """Return the DICOM file (8-bit JPEG, as in the challenge) and the boxes of its opacities."""
    rng = draws(seed, "rsna", "dicom", name)
    view = str(rng.choice(["AP", "PA"]))
    film = draw_film(findings, height=size, width=size, view=view, seed=seed, name=name)
    tags = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": uid_of(seed, name),
        "StudyInstanceUID": uid_of(seed, name, "study"),
        "SeriesInstanceUID": uid_of(seed, name, "series"),
        "Modality": "CR",
        "ConversionType": "WSI",
        "PatientName": name,
        "PatientID": name,
        "PatientSex": str(rng.choice(["F", "M"])),
        "PatientAge": f"{rng.integers(18, 90):03d}Y",
        "BodyPartExamined": "CHEST",
        "ViewPosition": view,
        "SeriesDescription": f"view: {view}",
        "PixelSpacing": ["0.143", "0.143"],
    }
    levels_HW = (film.pixels >> 4).astype(np.uint8)
    return dicom_bytes(levels_HW, tags, bits=8, syntax=JPEG), film.boxes
