"""A phantom of MIMIC-CXR: the DICOM tree with reports, or the JPG tree, in the published layout.

Layout and column names: the PhysioNet pages of MIMIC-CXR 2.1.0 and MIMIC-CXR-JPG 2.1.0. The
`mimic-cxr-2.0.0-*` tables belong to the JPG release; in the phantom they lie beside the DICOMs too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .drawing.dicom import (
    EXPLICIT,
    IMPLICIT,
    RLE,
    cleaned_sequence,
    dicom_bytes,
    jpeg_bytes,
    uid_of,
)
from .drawing.film import LATERAL, draw_film, draws
from .drawing.packing import csv_bytes, gzip_bytes, write_file, zip_bytes
from .drawing.patients import (
    FAULTS,
    NULL_VIEW,
    Image,
    Study,
    draw_dicom_id,
    plan_studies,
    with_anomalies,
)
from .drawing.report import Report, report_bytes
from .drawing.wording import LABELS, labels_of

CODES = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral", "LL": "lateral"}
METADATA = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)


def write_mimic(
    folder: Path,
    *,
    studies: int,
    seed: int,
    size: int = 128,
    jpg: bool = False,
    anomalies: bool = True,
) -> None:
    """Write a phantom of `studies` studies below `folder`; equal arguments give equal bytes.

    `size` is the longest side of a film in pixels. `jpg` writes MIMIC-CXR-JPG (reports in the zip)
    in place of MIMIC-CXR. `anomalies` puts the flaws that real archives have into a few
    single-film studies; less than a tenth of the films is faulty.
    """
    plan = plan_studies(studies, seed, size)
    if anomalies:
        plan = with_anomalies(plan, seed, jpg=jpg)
    reports = {f"{s.folder}.txt": _report(s) for s in plan if s.flaw != "report_missing"}
    for study in plan:
        for path, data in _pictures(study, seed, jpg=jpg):
            write_file(folder / path, data)
    if jpg:
        write_file(folder / "mimic-cxr-reports.zip", zip_bytes(reports))
        write_file(folder / "mimic-cxr-2.1.0-test-set-labeled.csv", _radiologist(plan))
    else:
        for path, data in reports.items():
            write_file(folder / path, data)
        _write_lists(folder, plan)
    _write_tables(folder, plan)


def _report(study: Study) -> bytes:
    return report_bytes(
        Report(
            procedure=study.procedure,
            indication=study.indication,
            wording=study.wording,
            flaw=study.flaw,
        )
    )


def _pictures(study: Study, seed: int, *, jpg: bool) -> Iterable[tuple[str, bytes]]:
    """Yield path and bytes of a study's films, those of its fault included."""
    ending = "jpg" if jpg else "dcm"
    for number, image in enumerate(study.images):
        film = draw_film(
            study.findings,
            height=image.rows,
            width=image.columns,
            view=LATERAL if image.view == "LL" else image.view,
            seed=seed,
            name=f"{study.study}/{number}",
        )
        pixels_HW = film.pixels * (study.flaw != "blank_picture")
        data = _jpg(pixels_HW) if jpg else _dicom(study, image, pixels_HW, seed)
        if study.flaw == "truncated":
            data = data[: len(data) * 6 // 10]
        if study.flaw == "file_empty":
            data = b""
        if study.flaw != "file_missing":
            yield f"{study.folder}/{image.dicom_id}.{ending}", data
        if study.flaw == "file_not_listed":
            extra = draw_dicom_id(draws(seed, "mimic", "extra", image.dicom_id))
            yield f"{study.folder}/{extra}.{ending}", data


def _jpg(pixels_HW: npt.NDArray[np.uint16]) -> bytes:
    """Return a JPG made as MIMIC-CXR-JPG was (its PhysioNet page): stretched, equalized."""
    levels_HW = pixels_HW.astype(np.float64) - pixels_HW.min()
    levels_HW *= 255 / max(1, levels_HW.max())
    return jpeg_bytes(np.asarray(cv2.equalizeHist(levels_HW.astype(np.uint8)), dtype=np.uint8))


def _dicom(study: Study, image: Image, pixels_HW: npt.NDArray[np.uint16], seed: int) -> bytes:
    """Return a film as DICOM; a few are RLE or implicit VR, a few MONOCHROME1, stored inverted."""
    rng = draws(seed, "mimic", "dicom", image.dicom_id)
    syntax = str(rng.choice([EXPLICIT, RLE, IMPLICIT], p=[0.88, 0.06, 0.06]))
    inverse = bool(rng.random() < 0.12)
    pixels = 4095 - pixels_HW if inverse else pixels_HW
    if study.flaw in FAULTS:  # plain, so that a file cut short lacks pixels, not a stream's end
        syntax = EXPLICIT
    if study.flaw == "multi_frame":
        pixels = np.stack([pixels, pixels])
    tags = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["DERIVED", "PRIMARY"],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": uid_of(seed, image.dicom_id),
        "StudyInstanceUID": uid_of(seed, study.study),
        "SeriesInstanceUID": uid_of(seed, study.study, image.dicom_id),
        "StudyDate": study.date,
        "StudyTime": study.time,
        "Modality": "CT" if study.flaw == "modality_refused" else str(rng.choice(["DX", "CR"])),
        "PresentationIntentType": "FOR PRESENTATION",
        "PatientID": str(study.subject),
        "StudyID": str(study.study),
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethodCodeSequence": cleaned_sequence(),
        "BodyPartExamined": "CHEST",
        "ViewPosition": "" if study.flaw == NULL_VIEW else image.view,
        "PerformedProcedureStepDescription": study.procedure,
        "PixelSpacing": ["0.139", "0.139"],
        "WindowCenter": "2048",
        "WindowWidth": "3600",
        "PresentationLUTShape": "INVERSE" if inverse else "IDENTITY",
        "LossyImageCompression": "00",
    }
    photometric = "MONOCHROME1" if inverse else "MONOCHROME2"
    return dicom_bytes(pixels, tags, bits=12, photometric=photometric, syntax=syntax)


def _write_lists(folder: Path, plan: list[Study]) -> None:
    studies = [(s.subject, s.study, f"{s.folder}.txt") for s in plan]
    records = [
        (s.subject, s.study, image.dicom_id, f"{s.folder}/{image.dicom_id}.dcm")
        for s in plan
        for image in s.images
    ]
    table = csv_bytes(("subject_id", "study_id", "dicom_id", "path"), records)
    write_file(folder / "cxr-record-list.csv.gz", gzip_bytes(table))
    table = csv_bytes(("subject_id", "study_id", "path"), studies)
    write_file(folder / "cxr-study-list.csv.gz", gzip_bytes(table))


def _write_tables(folder: Path, plan: list[Study]) -> None:
    metadata = [_metadata(study, image) for study in plan for image in study.images]
    splits = [(i.dicom_id, s.study, s.subject, s.split) for s in plan for i in s.images]
    labels = [
        (s.subject, s.study, *(s.wording.labels.get(name, "") for name in LABELS))
        for s in plan
        if s.flaw != "report_missing"
    ]
    for kind, columns, rows in (
        ("metadata", METADATA, metadata),
        ("split", ("dicom_id", "study_id", "subject_id", "split"), splits),
        ("chexpert", ("subject_id", "study_id", *LABELS), labels),
    ):
        write_file(folder / f"mimic-cxr-2.0.0-{kind}.csv.gz", gzip_bytes(csv_bytes(columns, rows)))


def _metadata(study: Study, image: Image) -> tuple[object, ...]:
    null = study.flaw == NULL_VIEW
    return (
        image.dicom_id,
        study.subject,
        study.study,
        study.procedure,
        "" if null else image.view,
        image.rows,
        image.columns,
        study.date,
        study.time,
        study.procedure,
        "" if null else CODES[image.view],
        "Erect" if image.view != "AP" else "",
    )


def _radiologist(plan: list[Study]) -> bytes:
    """Return labels of what the films show, for three in four test studies, as one reader's."""
    test = [study for study in plan if study.split == "test"]
    rows = [(s.study, *labels_of(s.findings).values()) for i, s in enumerate(test) if i % 4 != 3]
    names = ["Airspace Opacity" if name == "Lung Opacity" else name for name in LABELS]
    return csv_bytes(("study_id", *names), rows)
