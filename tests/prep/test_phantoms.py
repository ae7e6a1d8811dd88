"""Phantom archives: equal bytes, published layouts, labels, boxes and faults where they belong."""

import csv
import gzip
import io
import re
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from imitate.contract import REASONS
from imitate.prep.phantoms.drawing.patients import FAULTS
from imitate.prep.phantoms.drawing.report import FLAWS
from imitate.prep.phantoms.drawing.wording import LABELS, labels_in
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.phantoms.openi import write_openi
from imitate.prep.phantoms.rsna import write_rsna

STUDIES, SEED, SIZE = 260, 3, 64


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder, studies=STUDIES, seed=SEED, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rsna")
    write_rsna(folder, patients=80, seed=SEED, size=96)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.DictReader(io.StringIO(text)))


def header_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()[0]


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def body_of(data: bytes) -> str:
    """Text behind the comparison line: the findings and impression, whatever their headers."""
    text = re.split(r"COMPARISON:\s+None\.", data.decode("latin-1"))[1]
    return re.sub(r"(?i)(findings and impression|findings|impression):", "", text)


@pytest.mark.parametrize("jpg", [False, True])
def test_mimic_bytes_depend_on_the_arguments_alone(tmp_path: Path, jpg: bool) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_mimic(tmp_path / name, studies=24, seed=seed, size=48, jpg=jpg)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_mimic_tables_have_the_published_columns(tree: Path) -> None:
    assert header_of(tree / "cxr-record-list.csv.gz") == "subject_id,study_id,dicom_id,path"
    assert header_of(tree / "cxr-study-list.csv.gz") == "subject_id,study_id,path"
    assert header_of(tree / "mimic-cxr-2.0.0-split.csv.gz") == "dicom_id,study_id,subject_id,split"
    assert header_of(tree / "mimic-cxr-2.0.0-metadata.csv.gz") == (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
        "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
        "PatientOrientationCodeSequence_CodeMeaning"
    )
    expected = "subject_id,study_id," + ",".join(LABELS)
    assert header_of(tree / "mimic-cxr-2.0.0-chexpert.csv.gz") == expected


def test_mimic_ids_paths_and_splits(tree: Path) -> None:
    records = rows_of(tree / "cxr-record-list.csv.gz")
    pattern = r"files/p(1\d)/p(\1\d{6})/s(5\d{7})/([0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.dcm"
    for row in records:
        match = re.fullmatch(pattern, row["path"])
        assert match is not None
        assert match.groups()[1:] == (row["subject_id"], row["study_id"], row["dicom_id"])
    splits = rows_of(tree / "mimic-cxr-2.0.0-split.csv.gz")
    assert [row["dicom_id"] for row in splits] == [row["dicom_id"] for row in records]
    patients: dict[str, set[str]] = {}
    for row in splits:
        patients.setdefault(row["subject_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in patients.values())
    share = {name: len({r["study_id"] for r in splits if r["split"] == name}) / STUDIES
             for name in ("train", "validate", "test")}  # fmt: skip
    assert 0.7 < share["train"] < 0.8 and 0.05 < share["validate"] < 0.12
    assert len(rows_of(tree / "cxr-study-list.csv.gz")) == STUDIES


@pytest.mark.parametrize("studies", [2, 3, 8])
def test_small_mimic_has_a_validation_and_a_test_split(tmp_path: Path, studies: int) -> None:
    write_mimic(tmp_path, studies=studies + 8, seed=0, size=32)
    names = {row["split"] for row in rows_of(tmp_path / "mimic-cxr-2.0.0-split.csv.gz")}
    assert names == {"train", "validate", "test"}


def test_mimic_dicom_attributes_and_pixels(tree: Path) -> None:
    metadata = {row["dicom_id"]: row for row in rows_of(tree / "mimic-cxr-2.0.0-metadata.csv.gz")}
    syntaxes, inverted, faulty = set(), 0, 0
    for name, row in metadata.items():
        subject, study = row["subject_id"], row["study_id"]
        path = tree / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{name}.dcm"
        if not path.is_file() or not path.stat().st_size:
            faulty += 1
            continue
        data = pydicom.dcmread(path)
        odd = data.Modality == "CT" or data.get("NumberOfFrames", 1) != 1
        if odd or len(data.PixelData) < data.Rows * data.Columns // 2:
            faulty += 1
            continue
        assert data.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
        assert (data.PatientIdentityRemoved, data.PatientID, data.StudyID) == (
            "YES",
            subject,
            study,
        )
        assert data.Modality in ("DX", "CR") and data.SpecificCharacterSet == "ISO_IR 100"
        assert (data.BitsAllocated, data.BitsStored, data.HighBit) == (16, 12, 11)
        assert data.ViewPosition == row["ViewPosition"]
        assert (str(data.Rows), str(data.Columns)) == (row["Rows"], row["Columns"])
        assert max(data.Rows, data.Columns) == SIZE
        syntaxes.add(str(data.file_meta.TransferSyntaxUID))
        inverted += data.PhotometricInterpretation == "MONOCHROME1"
    assert syntaxes == {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"}
    assert 0 < inverted < len(metadata) / 3
    assert 2 <= faulty < len(metadata) / 10


def test_monochrome1_is_stored_inverted(tree: Path) -> None:
    """Above and beside the shoulders is air: dark on screen whatever the interpretation."""
    seen = set()
    for path in sorted(tree.rglob("*.dcm"))[:150]:
        if not path.stat().st_size:
            continue
        data = pydicom.dcmread(path)
        if data.get("NumberOfFrames", 1) != 1 or data.ViewPosition != "AP":
            continue
        try:
            pixels = data.pixel_array
        except ValueError:  # the one that is cut short
            continue
        if pixels.min() == pixels.max():
            continue
        inverse = data.PhotometricInterpretation == "MONOCHROME1"
        corner, middle = pixels[:4, :4].mean(), pixels[-8:, 24:40].mean()
        assert (corner > middle) == inverse
        assert data.PresentationLUTShape == ("INVERSE" if inverse else "IDENTITY")
        seen.add(inverse)
    assert seen == {True, False}


def test_mimic_labels_are_those_of_the_reports(tree: Path) -> None:
    rows = rows_of(tree / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert len(rows) == STUDIES - 1  # the study without a report has none
    values = set()
    for row in rows:
        subject, study = row.pop("subject_id"), row.pop("study_id")
        report = tree / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"
        labels = {name: float(value) for name, value in row.items() if value}
        assert labels == labels_in(body_of(report.read_bytes()))
        values |= set(labels.values())
    assert values == {-1.0, 0.0, 1.0}


def test_mimic_anomalies_are_there_and_few(tree: Path, tmp_path: Path) -> None:
    assert set(FAULTS) <= set(REASONS)
    listed = {row["path"] for row in rows_of(tree / "cxr-record-list.csv.gz")}
    there = {str(path.relative_to(tree)) for path in tree.rglob("*.dcm")}
    reports = {str(path.relative_to(tree)) for path in tree.rglob("*.txt")}
    studies = {row["path"] for row in rows_of(tree / "cxr-study-list.csv.gz")}
    assert len(listed - there) == len(there - listed) == len(studies - reports) == 1
    assert sum(not (tree / name).stat().st_size for name in there) == 1
    metadata = rows_of(tree / "mimic-cxr-2.0.0-metadata.csv.gz")
    null = [row for row in metadata if not row["ViewPosition"]]
    assert len(null) == 2 and {r["PerformedProcedureStepDescription"] for r in null} == {
        "CHEST (PORTABLE AP)"
    }
    texts = [(tree / name).read_bytes() for name in reports]
    for flaw, pattern in {
        "lower_case": rb"\n findings: ",
        "combined": rb"FINDINGS AND IMPRESSION:",
        "wet_read": rb"^ WET READ:",
        "addendum": rb"^ ADDENDUM",
        "crlf": rb"\r\n",
        "latin_1": rb"\xb0C",
        "two_studies": rb"(?s)FINDINGS:.*FINDINGS:",
        "too_short": rb"Normal\.\n$",
        "marks": rb"Dr\. ___",
    }.items():
        assert flaw in FLAWS
        assert 1 <= sum(bool(re.search(pattern, text)) for text in texts) <= 4, flaw
    headers = [(b"FINDINGS" in text, b"IMPRESSION" in text) for text in texts]
    assert {(True, True), (True, False), (False, True), (False, False)} <= set(headers)
    write_mimic(tmp_path, studies=60, seed=SEED, size=32, anomalies=False)
    clean = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.dcm")}
    assert clean == {row["path"] for row in rows_of(tmp_path / "cxr-record-list.csv.gz")}


def test_mimic_jpg_layout(tmp_path: Path) -> None:
    write_mimic(tmp_path, studies=40, seed=SEED, size=48, jpg=True, anomalies=False)
    splits = rows_of(tmp_path / "mimic-cxr-2.0.0-split.csv.gz")
    pictures = {path.stem: path for path in tmp_path.glob("files/p1?/p1*/s5*/*.jpg")}
    assert set(pictures) == {row["dicom_id"] for row in splits}
    for path in pictures.values():
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture.ndim == 2 and max(picture.shape) == 48
        assert picture.max() > 240 and picture.min() < 15  # equalized
    with zipfile.ZipFile(tmp_path / "mimic-cxr-reports.zip") as archive:
        members = archive.namelist()
    studies = {row["study_id"] for row in splits}
    assert {re.fullmatch(r"files/p1\d/p1\d{7}/s(5\d{7})\.txt", m)[1] for m in members} == studies
    labelled = rows_of(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv")
    assert set(labelled[0]) == {"study_id", "Airspace Opacity", *LABELS} - {"Lung Opacity"}
    test = {row["study_id"] for row in splits if row["split"] == "test"}
    assert {row["study_id"] for row in labelled} < test


def test_rsna_layout_and_classes(challenge: Path) -> None:
    labels = rows_of(challenge / "stage_2_train_labels.csv")
    classes = rows_of(challenge / "stage_2_detailed_class_info.csv")
    assert list(labels[0]) == ["patientId", "x", "y", "width", "height", "Target"]
    assert list(classes[0]) == ["patientId", "class"]
    assert [r["patientId"] for r in labels] == [r["patientId"] for r in classes]
    pictures = {path.stem for path in (challenge / "stage_2_train_images").iterdir()}
    assert pictures == {row["patientId"] for row in labels} and len(pictures) == 80
    assert len(list((challenge / "stage_2_test_images").glob("*.dcm"))) == 10
    for label, row in zip(labels, classes, strict=True):
        assert (label["Target"] == "1") == (row["class"] == "Lung Opacity") == (label["x"] != "")
    assert {row["class"] for row in classes} == {
        "Lung Opacity",
        "No Lung Opacity / Not Normal",
        "Normal",
    }
    positive = {row["patientId"] for row in labels if row["Target"] == "1"}
    assert 0.2 < len(positive) / 80 < 0.5
    assert max(sum(r["patientId"] == name for r in labels) for name in positive) == 2


def test_rsna_dicom_and_bright_boxes(challenge: Path) -> None:
    contrasts = []
    for row in rows_of(challenge / "stage_2_train_labels.csv"):
        data = pydicom.dcmread(challenge / "stage_2_train_images" / f"{row['patientId']}.dcm")
        assert (data.Modality, data.PhotometricInterpretation) == ("CR", "MONOCHROME2")
        assert (data.Rows, data.Columns, data.BitsStored) == (96, 96, 8)
        assert data.ViewPosition in ("AP", "PA") and data.PatientID == row["patientId"]
        if row["Target"] == "1":
            pixels = data.pixel_array.astype(float)
            x, y, w, h = (int(float(row[name])) for name in ("x", "y", "width", "height"))
            core = pixels[y + h // 4 : y + 3 * h // 4, x + w // 4 : x + 3 * w // 4]
            lung = pixels[30:56, 16:80]  # both lungs without shoulders and belly
            contrasts.append(core.mean() - lung.mean())
    assert len(contrasts) > 15 and np.mean(np.array(contrasts) > 0) > 0.9


@pytest.mark.parametrize("write", [write_rsna, write_openi])
def test_other_phantoms_depend_on_the_arguments_alone(tmp_path: Path, write: object) -> None:
    count = "patients" if write is write_rsna else "studies"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / name, **{count: 6}, seed=seed, size=32)  # type: ignore[operator]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_openi_layout(tmp_path: Path) -> None:
    write_openi(tmp_path, studies=60, seed=SEED, size=48)
    named, empty, marks, none = set(), 0, 0, 0
    with tarfile.open(tmp_path / "ecgen-radiology.tar.gz") as archive:
        for member in archive:
            root = ET.parse(archive.extractfile(member)).getroot()
            number = root.find("uId").get("id").removeprefix("CXR")
            assert member.name == f"ecgen-radiology/{number}.xml"
            texts = root.findall("MedlineCitation/Article/Abstract/AbstractText")
            labels = [text.get("Label") for text in texts]
            assert labels == ["COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION"]
            empty += any(not text.text for text in texts)
            marks += "XXXX" in (texts[2].text or "")
            assert root.find("MeSH/major").text
            pictures = [picture.get("id") for picture in root.findall("parentImage")]
            urls = [url.text for url in root.findall("parentImage/panel/url")]
            assert [Path(url).stem for url in urls] == pictures
            named |= set(pictures)
            none += not pictures
    assert named == {path.stem for path in (tmp_path / "images").glob("*.png")}
    assert empty and none and 10 < marks < 40


@pytest.mark.real
def test_openi_phantom_has_the_elements_of_the_real_reports(
    shared_data: Path, tmp_path: Path
) -> None:
    write_openi(tmp_path, studies=30, seed=SEED, size=32)

    def paths(path: Path, limit: int) -> set[str]:
        found: set[str] = set()
        with tarfile.open(path) as archive:
            for member in [m for m in archive if m.isfile()][:limit]:
                walk(ET.parse(archive.extractfile(member)).getroot(), "", found)
        return found

    def walk(node: ET.Element, above: str, found: set[str]) -> None:
        here = f"{above}/{node.tag}"
        found |= {here, *(f"{here}@{name}" for name in node.attrib)}
        for child in node:
            walk(child, here, found)

    real = paths(shared_data / "openi" / "ecgen-radiology.tar.gz", 60)
    assert paths(tmp_path / "ecgen-radiology.tar.gz", 30) <= real
