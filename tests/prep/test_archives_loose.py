"""Loose pictures and reports: every file comes out or has a reason, under its own name."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import InputError, TooManyFaults, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.commands import app
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import REJECTS, SECTIONS

REPORT = " FINDINGS:  The lungs are clear.\n\n IMPRESSION:  No acute disease.\n"
XML = (
    '<eCitation><uId id="CXR9"/><AbstractText Label="FINDINGS">Clear lungs.</AbstractText>'
    '<AbstractText Label="INDICATION">Cough</AbstractText></eCitation>'
)


def run(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def images(out: Path, *more: object) -> dict[str, str]:
    run("images", *more, "-o", out, "--quiet")
    rows = read_rows(out / "rejects.parquet", REJECTS)
    return {row["source"]: row["reason"] for row in rows}


def reports(out: Path, *more: object) -> dict[str, dict[str, Any]]:
    run("reports", *more, "-o", out, "--quiet")
    return {row["report_id"]: row for row in read_rows(out, SECTIONS)}


def reasons(out: Path) -> dict[str, str]:
    path = out.with_name(f"{out.stem}.rejects.parquet")
    return {row["source"]: row["reason"] for row in read_rows(path, REJECTS)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_rsna(tmp_path / "phantom", patients=2, seed=0, size=64)
    dicoms = sorted((tmp_path / "phantom").rglob("*.dcm"))
    (folder / "a" / "b").mkdir(parents=True)
    shutil.copy(dicoms[0], folder / "a" / "film.dcm")
    shutil.copy(dicoms[1], folder / "1.2.840.113619")  # a file named by its UID
    pixels_HW = np.arange(64 * 40, dtype=np.uint16).reshape(64, 40)
    cv2.imwrite(str(folder / "a" / "b" / "photo.png"), (pixels_HW // 10).astype(np.uint8))
    cv2.imwrite(str(folder / "a" / "b" / "photo.jpg"), (pixels_HW // 10).astype(np.uint8))
    (folder / "notes.txt").write_text("nothing to see")
    (folder / "empty.png").write_bytes(b"")
    return folder


def test_every_picture_comes_out_or_has_a_reason(pictures: Path, tmp_path: Path) -> None:
    left = images(tmp_path / "out", pictures, "--size", 0, "--max-failures", "50%")
    assert left == {
        "a/b/photo.png": "duplicate_name",  # photo.jpg comes first
        "notes.txt": "not_a_picture",
        "empty.png": "file_empty",
    }
    out = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert out == {"a/film.png", "1.2.840.113619.png", "a/b/photo.png"}
    assert len(out) + len(left) == sum(path.is_file() for path in pictures.rglob("*"))
    kept = cv2.imread(str(tmp_path / "out" / "a" / "b" / "photo.png"), cv2.IMREAD_UNCHANGED)
    assert kept is not None
    assert kept.shape == (64, 40)
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_single_files_and_several_paths(pictures: Path, tmp_path: Path) -> None:
    left = images(tmp_path / "out", pictures / "a" / "film.dcm", pictures / "a" / "b" / "photo.png")
    assert left == {}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"film.png", "photo.png"}


def test_output_inside_the_input_is_not_read_again(pictures: Path) -> None:
    out = pictures / "png"
    first = images(out, pictures, "--max-failures", "50%")
    assert images(out, pictures, "--max-failures", "50%") == first
    assert not (out / "png").exists()


def test_other_options_for_the_same_folder_are_refused(pictures: Path, tmp_path: Path) -> None:
    images(tmp_path / "out", pictures / "a", "--max-failures", "50%")
    with pytest.raises(UsageError, match="size was 256, now 64"):
        images(tmp_path / "out", pictures / "a", "--size", 64)


def test_names_that_are_not_utf_8_become_readable(pictures: Path, tmp_path: Path) -> None:
    odd = bytes(tmp_path / "odd") + b"/caf\xe9.png"
    (tmp_path / "odd").mkdir()
    with open(odd, "wb") as handle:  # noqa: PTH123 - a Path cannot be made of these bytes
        handle.write((pictures / "a" / "b" / "photo.png").read_bytes())
    assert images(tmp_path / "out", tmp_path / "odd") == {}
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == [r"caf\xe9.png"]


def test_what_is_missing_or_unknown_is_named(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        images(tmp_path / "out", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--key 'name' is not one of path, hash"):
        images(tmp_path / "out", pictures, "--key", "name")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no file"):
        images(tmp_path / "out", tmp_path / "none")
    with pytest.raises(InputError, match="2 file_empty"):
        shutil.copy(pictures / "empty.png", tmp_path / "none" / "a.png")
        shutil.copy(pictures / "empty.png", tmp_path / "none" / "b.png")
        images(tmp_path / "out", tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_reports_of_every_kind_give_the_same_sections(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "p10").mkdir(parents=True)
    (folder / "p10" / "s1.txt").write_text(REPORT)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("files/p10/s1.txt", REPORT)
    (tmp_path / "table.csv").write_text(f'study_id,report\ns1,"{REPORT}"\n')
    (tmp_path / "apart.csv").write_text(
        "uid,findings,impression\ns1,The lungs are clear.,No acute disease.\n"
    )
    for number, source in enumerate((folder, tmp_path / "packed.zip", tmp_path / "table.csv")):
        rows = reports(tmp_path / f"{number}.parquet", source)
        assert rows.keys() == {"s1"}
        row = rows["s1"]
        assert (row["findings"], row["impression"]) == ("The lungs are clear.", "No acute disease.")
        start, end = row["spans"]["impression"]
        assert REPORT[start:end] == "No acute disease."
        assert row["section_source"] == "header"
    apart = reports(tmp_path / "apart.parquet", tmp_path / "apart.csv")["s1"]
    assert (apart["findings"], apart["impression"]) == ("The lungs are clear.", "No acute disease.")


def test_open_i_reports(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "reports.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("ecgen-radiology/9.xml")
        member.size = len(XML)
        archive.addfile(member, io.BytesIO(XML.encode()))
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "9.xml").write_text(XML)
    for number, source in enumerate(("reports.tgz", "xml", "xml/9.xml")):
        row = reports(tmp_path / f"{number}.parquet", tmp_path / source)["9"]
        assert row["findings"] == "Clear lungs."
        assert row["sections"]["indication"] == "Cough"


def test_bad_and_repeated_reports_are_rejects(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    for name, text in (("a/s1", REPORT), ("b/s1", REPORT), ("s2", "x" * 70_000), ("s3", REPORT)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(text)
    out = tmp_path / "sections.parquet"
    with pytest.raises(TooManyFaults):
        reports(out, folder)
    assert {row["report_id"] for row in read_rows(out, SECTIONS)} == {"s1", "s3"}
    assert reasons(out) == {"b/s1.txt": "duplicate_name", "s2.txt": "report_unreadable"}


def test_errors_hold_no_text_of_a_report(tmp_path: Path) -> None:
    (tmp_path / "headless.csv").write_text("Heart size normal and lungs are clear\nNo effusion\n")
    with pytest.raises(InputError, match="no column named report") as caught:
        reports(tmp_path / "out.parquet", tmp_path / "headless.csv")
    assert "Heart" not in str(caught.value)
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(InputError, match="not a kind of report file"):
        reports(tmp_path / "out.parquet", tmp_path / "notes.doc")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no report"):
        reports(tmp_path / "out.parquet", tmp_path / "none")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="not readable as a zip"):
        reports(tmp_path / "out.parquet", tmp_path / "broken.zip")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.real
def test_real_reports(shared_data: Path, tmp_path: Path) -> None:
    rows = reports(tmp_path / "txt.parquet", shared_data / "reports" / "negbio_00000086.txt")
    assert rows["negbio_00000086"]["findings"]
    assert rows["negbio_00000086"]["impression"]
    table = reports(tmp_path / "csv.parquet", shared_data / "openi" / "indiana_reports.csv")
    packed = reports(tmp_path / "xml.parquet", shared_data / "openi" / "ecgen-radiology.tar.gz")
    both = table.keys() & packed.keys()
    assert len(both) > 3_000
    differ = [i for i in both if table[i]["impression"] != packed[i]["impression"]]
    assert len(differ) < 0.01 * len(both)


@pytest.mark.real
def test_real_pictures_of_every_kind(shared_data: Path, tmp_path: Path) -> None:
    chest = shared_data / "dicom" / "chest"
    left = images(
        tmp_path / "out", chest, shared_data / "dicom" / "broken", "--max-failures", "90%"
    )
    made = sorted(path.stem for path in (tmp_path / "out").rglob("*.png"))
    inputs = [
        p for folder in ("chest", "broken") for p in (shared_data / "dicom" / folder).iterdir()
    ]
    assert len(made) + len(left) == len(inputs)
    assert {path.stem for path in chest.glob("nih_*.dcm")} <= set(made)
    card = read_json(tmp_path / "out" / "card.json")
    assert card["rows"] == len(made)
