"""Open-i in both forms: studies, views, splits, labels, and damaged reports."""

import csv
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import InputError
from imitate.files import read_json, read_rows
from imitate.prep.archives.openi import list_openi, picture_name
from imitate.prep.commands import app
from imitate.prep.download.openi_xml import parse_citation
from imitate.prep.phantoms.openi import write_openi
from imitate.schema import MANIFEST, REJECTS

XML = """<?xml version="1.0"?><eCitation><uId id="CXR{uid}"/><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">Clear lungs, no effusion.</AbstractText></Abstract>
<MeSH><major>Opacity/lung/left</major><automatic>lung</automatic></MeSH>
<parentImage id="CXR{uid}_IM-0001-1001"/><parentImage id="CXR{uid}_IM-0001-2001"/></eCitation>"""


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["openi", source, "--root", root, "--size", 32, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    return root / "data" / "prepared" / "openi"


def manifest(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "manifest.parquet", MANIFEST)


def rejects(folder: Path) -> dict[str | None, str]:
    rows = read_rows(folder / "rejects.parquet", REJECTS)
    return {row["image_id"]: row["reason"] for row in rows}


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels_HW = np.random.default_rng(seed).integers(0, 256, (40, 32), np.uint8)
    assert cv2.imwrite(str(path), pixels_HW)


@pytest.fixture
def csv_form(tmp_path: Path) -> Path:
    """Three studies with a frontal and a lateral picture each, one of them not downloaded."""
    folder = tmp_path / "csv"
    studies = [
        {
            "uid": str(uid),
            "MeSH": mesh,
            "Problems": "",
            "image": "Chest, 2 views",
            "indication": "Cough",
            "comparison": "",
            "findings": "The heart is normal in size.",
            "impression": impression,
        }
        for uid, mesh, impression in (
            (7, "normal", "No acute disease."),
            (10, "Cardiomegaly/mild;Opacity/lung", "Mild cardiomegaly."),
            (12, "", ""),
        )
    ]
    views = [
        {"uid": str(uid), "filename": f"{uid}_IM-0001-{n}001.dcm.png", "projection": view}
        for uid in (7, 10, 12)
        for n, view in ((1, "Frontal"), (2, "Lateral"))
    ]
    for number, row in enumerate(views):
        if row["filename"] != "12_IM-0001-2001.dcm.png":
            write_picture(folder / "images" / row["filename"].replace(".png", ".jpg"), number)
    write_csv(folder / "indiana_reports.csv", studies)
    write_csv(folder / "indiana_projections.csv", views)
    return folder


def test_csv_form_gives_texts_views_and_terms(csv_form: Path, tmp_path: Path) -> None:
    folder = prepare(csv_form, tmp_path)
    rows = {row["image_id"]: row for row in manifest(folder)}
    assert rows.keys() == {"7_IM-0001-1001", "10_IM-0001-1001", "12_IM-0001-1001"}
    row = rows["10_IM-0001-1001"]
    assert (row["study_id"], row["subject_id"]) == ("10", None)
    assert (row["view"], row["view_source"]) == ("FRONTAL", "table")
    assert row["impression"] == "Mild cardiomegaly."
    assert row["sections"]["indication"] == "Cough"
    assert (row["labels"], row["label_source"]) == ({"Cardiomegaly": 1.0, "Opacity": 1.0}, "mesh")
    assert rows["12_IM-0001-1001"]["label_source"] is None
    reasons = rejects(folder)
    assert reasons.pop("12_IM-0001-2001") == "file_missing"
    assert set(reasons.values()) == {"view_not_selected"}
    card = read_json(folder / "card.json")
    assert (card["archive"]["form"], card["partial"], card["access"]) == ("csv", True, "open")


def test_hand_made_labels_replace_the_terms(csv_form: Path) -> None:
    gold = [{"filename": f"CXR{uid}", "Edema": "1", "normal": "0"} for uid in (7, 10)]
    write_csv(csv_form / "openi_gld_std14.csv", gold)
    labels = {r.study_id: (r.labels, r.label_source) for r in list_openi(csv_form, seed=0).records}
    assert labels["7"] == ({"Edema": 1.0, "normal": 0.0}, "openi-gold-std14")
    assert labels["12"] == ({}, None)


def test_xml_form_as_downloaded(tmp_path: Path) -> None:
    write_openi(tmp_path / "openi", studies=24, seed=4, size=40)
    folder = prepare(tmp_path / "openi", tmp_path)
    rows, left = manifest(folder), rejects(folder)
    pictures = {path.stem for path in (tmp_path / "openi").rglob("*.png")}
    assert {row["image_id"] for row in rows} | left.keys() == pictures
    assert len(rows) + len(left) == len(pictures)
    # nothing tells the views of PNGs here, so all are kept
    assert {row["view"] for row in rows} == {None}
    assert read_json(folder / "card.json")["options"]["views"] == "all"


def test_no_view_is_invented_for_a_view_that_is_asked_for(tmp_path: Path) -> None:
    write_openi(tmp_path / "openi", studies=4, seed=4, size=40)
    with pytest.raises(InputError, match="view_not_selected"):
        prepare(tmp_path / "openi", tmp_path, "--views", "frontal")


def test_projections_tell_the_views_of_the_xml_form(csv_form: Path) -> None:
    (csv_form / "indiana_reports.csv").unlink()
    (csv_form / "ecgen-radiology").mkdir()
    for uid in (7, 10, 12):
        text = XML.format(uid=uid, findings="Normal heart.")
        (csv_form / "ecgen-radiology" / f"{uid}.xml").write_text(text)
    records = {r.image_id: r for r in list_openi(csv_form, seed=0).records}
    assert records["10_IM-0001-1001"].view == "FRONTAL"
    assert records["10_IM-0001-2001"].view == "LATERAL"
    assert records["10_IM-0001-1001"].labels == {"Opacity": 1.0}


def test_csv_form_is_preferred(csv_form: Path) -> None:
    data = XML.format(uid=7, findings="From XML.").encode()
    with tarfile.open(csv_form / "NLMCXR_reports.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("ecgen-radiology/7.xml")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    assert list_openi(csv_form, seed=0).facts["form"] == "csv"
    (csv_form / "indiana_projections.csv").unlink()
    assert list_openi(csv_form, seed=0).facts["form"] == "xml"


@pytest.mark.parametrize(
    "damage",
    [
        b"<eCitation><uId",
        b'<!DOCTYPE x [<!ENTITY a "b">]><eCitation><uId id="CXR3"/></eCitation>',
        b"",
        b"<eCitation></eCitation>",
        b"<eCitation>" + b" " * (1 << 20) + b'<uId id="CXR3"/></eCitation>',
    ],
)
def test_a_damaged_report_is_a_reject(csv_form: Path, damage: bytes) -> None:
    (csv_form / "indiana_reports.csv").unlink()
    (csv_form / "xml").mkdir()
    (csv_form / "xml" / "7.xml").write_bytes(XML.format(uid=7, findings="a").encode())
    (csv_form / "xml" / "3.xml").write_bytes(damage)
    assert parse_citation(damage) is None
    listing = list_openi(csv_form, seed=0)
    verdicts = {r.source: r.rejection.reason for r in listing.records if r.rejection}
    assert verdicts.pop("xml/3.xml") == "report_unreadable"
    # pictures that no readable report names are listed too
    assert set(verdicts.values()) == {"file_not_listed"}


def test_a_damaged_archive_of_reports_is_an_input_error(tmp_path: Path) -> None:
    write_openi(tmp_path / "openi", studies=3, seed=0, size=40)
    packed = tmp_path / "openi" / "ecgen-radiology.tar.gz"
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(InputError, match=r"ecgen-radiology\.tar\.gz"):
        list_openi(tmp_path / "openi", seed=0)


def test_the_same_film_in_another_format_is_no_second_picture(csv_form: Path) -> None:
    write_picture(csv_form / "png" / "7_IM-0001-1001.png", 90)
    write_picture(csv_form / "more" / "10_IM-0001-1001.dcm.jpg", 91)
    listing = list_openi(csv_form, seed=0)
    sources = [r.source for r in listing.records if r.study_id == "7" and r.view == "FRONTAL"]
    assert sources == ["png/7_IM-0001-1001.png"]
    twins = [
        r.source for r in listing.records if r.rejection and r.rejection.reason == "duplicate_name"
    ]
    assert twins == ["more/10_IM-0001-1001.dcm.jpg"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("CXR2_IM-0652-1001", "2_IM-0652-1001"),
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001"),
        ("2_IM-0652-1001", "2_IM-0652-1001"),
        ("other", "other"),
    ],
)
def test_one_name_for_all_forms(given: str, name: str) -> None:
    assert picture_name(given) == name


def test_what_is_missing_is_named(csv_form: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture"):
        list_openi(tmp_path / "empty", seed=0)
    write_csv(csv_form / "indiana_reports.csv", [{"uid": "7", "findings": "a"}])
    with pytest.raises(InputError, match="no column named MeSH, indication"):
        list_openi(csv_form, seed=0)
    (csv_form / "indiana_reports.csv").unlink()
    with pytest.raises(InputError, match="neither report XML nor the csv form"):
        list_openi(csv_form, seed=0)


@pytest.mark.real
def test_real_csv_form(shared_data: Path, tmp_path: Path) -> None:
    folder = prepare(shared_data / "openi", tmp_path, "--limit", 40)
    rows = manifest(folder)
    assert len(rows) + len(rejects(folder)) == 40
    assert {row["view"] for row in rows} == {"FRONTAL"}
    assert {row["label_source"] for row in rows} == {"openi-gold-std14"}
    with (shared_data / "openi" / "indiana_reports.csv").open(newline="") as handle:
        reports = {row["uid"]: row for row in csv.DictReader(handle)}
    for row in rows:
        told = reports[row["study_id"]]
        assert (row["findings"], row["impression"]) == (told["findings"], told["impression"])
    studies = {r.study_id: r.split for r in list_openi(shared_data / "openi", seed=0).records}
    counts = [sum(s == name for s in studies.values()) for name in ("train", "validate", "test")]
    assert counts == [round(0.7 * len(studies)), round(0.1 * len(studies)), counts[2]]


@pytest.mark.real
def test_real_xml_form(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "openi"
    (source / "images").mkdir(parents=True)
    shutil.copy(shared_data / "openi" / "ecgen-radiology.tar.gz", source)
    for path in sorted((shared_data / "openi" / "images").iterdir())[:8]:
        shutil.copy(path, source / "images")
    folder = prepare(source, tmp_path)
    card = read_json(folder / "card.json")
    assert card["archive"] == {"form": "xml", "views_known": False}
    assert card["rows"] == 8
    assert card["partial"]
    texts = {r.image_id: r.report for r in list_openi(shared_data / "openi", seed=0).records}
    for row in manifest(folder):
        report = texts[row["image_id"]]
        assert (row["findings"], row["impression"]) == (report.findings, report.impression)
