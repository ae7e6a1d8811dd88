"""`imitate prep table`: any archive from a table, with every problem of it named at once."""

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.contract import ImitateError, InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.table import list_table
from imitate.prep.commands import app
from imitate.prep.download.columns import find_columns
from imitate.prep.phantoms.drawing.dicom import dicom_bytes, uid_of
from imitate.prep.phantoms.drawing.film import draw_film
from imitate.prep.record import Listing
from imitate.schema import MANIFEST, REJECTS

REPORT = "FINDINGS:\nThe lungs are clear, heart normal.\n\nIMPRESSION:\nNo acute process.\n"


def prepare(table: Path, root: Path, *more: object) -> Path:
    arguments = ["table", table, "--root", root, "--size", 32, "--key", "path", "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def reasons(folder: Path) -> dict[str, str]:
    rows = read_rows(folder / "rejects.parquet", REJECTS)
    return {row["source"]: row["reason"] for row in rows}


def write_table(path: Path, columns: Sequence[str], *rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        cells = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
        pq.write_table(pa.table(cells), path)
        return path
    lines = path.with_suffix("") if path.suffix == ".gz" else path
    with lines.open("w", newline="") as handle:
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        csv.writer(handle, delimiter=delimiter).writerows([columns, *rows])
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.read_bytes()))
        lines.unlink()
    return path


def picture(path: Path, seed: int = 0, *, channels: int = 1) -> str:
    """Write a PNG, grey or coloured as a pathology tile, and return its name."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (40, 40, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
    return path.name


def dicom(path: Path, **tags: object) -> str:
    """Write a DICOM radiograph with these header tags, and return its name."""
    film = draw_film((), height=48, width=40, view="PA", seed=0, name=path.name)
    basic = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
        "SOPInstanceUID": uid_of(path.name),
        "Modality": "CR",
        "ViewPosition": "PA",
    }
    path.write_bytes(dicom_bytes(film.pixels, {**basic, **tags}, bits=12))
    return path.name


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "t.parquet"])
def test_every_kind_of_table_tells_the_same(tmp_path: Path, name: str) -> None:
    columns = ("image", "report", "subject_id", "study_id", "view", "split", "label_Edema", "age")
    for number in range(3):
        picture(tmp_path / "films" / f"{number}.png", number)
    table = write_table(
        tmp_path / name,
        columns,
        ("films/0.png", REPORT, "a", "s0", "pa", "train", 1.0, 61.0),
        ("films/1.png", REPORT, "b", "s1", "AP", "val", 0.0, 33.0),
        ("films/2.png", REPORT, "c", "s2", "LATERAL", "test", -1.0, 70.0),
    )
    rows = manifest(prepare(table, tmp_path))
    assert list(rows) == ["films/0", "films/1"]  # frontal where the table tells views
    row = rows["films/0"]
    assert (row["subject_id"], row["study_id"], row["view"]) == ("a", "s0", "PA")
    assert (row["split"], rows["films/1"]["split"]) == ("train", "validate")
    assert (row["dataset"], row["label_source"], row["labels"]) == ("t", "table", {"Edema": 1.0})
    assert row["findings"] == "The lungs are clear, heart normal."
    assert (row["impression"], row["section_source"]) == ("No acute process.", "header")
    assert row["metadata"] == {"age": "61"}


def test_columns_of_other_names_labels_and_report_files(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "r0.txt").write_text(REPORT)
    for number in range(3):
        picture(tmp_path / "png" / f"{number}.png", number)
    table = write_table(
        tmp_path / "elsewhere" / "list.csv",
        ("Path", "Text", "Mass", "find_a", "find_b", "who"),
        ("png/0.png", "texts/r0.txt", "1", "0", "", "x"),
        ("png/1.png", REPORT, "", "1", "-1", "y"),
        ("png/2.png", "texts/gone.txt", "0", "True", "nan", "z"),
    )
    maps = ("--map", "image=Path", "--map", "report=Text", "--map", "label_Nodule=who2")
    with pytest.raises(UsageError, match="no column 'who2'; the nearest: 'who'"):
        prepare(table, tmp_path, *maps, "--images", tmp_path)
    options = (*maps[:4], "--labels", "Mass,find_*", "--images", tmp_path, "--dataset", "mine")
    folder = prepare(table, tmp_path, *options, "--max-failures", 1)
    rows = manifest(folder)
    assert folder.name == "mine"
    assert {row["impression"] for row in rows.values()} == {"No acute process."}
    assert rows["png/0"]["labels"] == {"Mass": 1.0, "find_a": 0.0}
    assert rows["png/1"]["labels"] == {"find_a": 1.0, "find_b": -1.0}
    assert reasons(folder) == {"png/2.png": "report_missing"}
    card = read_json(folder / "card.json")
    assert card["access"] == "credentialed"
    assert card["options"]["map"] == ["image=Path", "report=Text"]


def test_sections_of_their_own_and_what_is_left_out(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    outside = picture(tmp_path / "outside" / "x.png")
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / f"{number}.png").rename(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside" / outside)
    text = ("The lungs are clear today.", "No acute process.")
    table = write_table(
        tmp_path / "in" / "t.csv",
        ("image", "findings", "impression", "split"),
        ("0.png", *text, "train"),
        ("1.png", "", "", "train"),
        ("2.png", *text, ""),
        ("./0.png", *text, "test"),
        ("link.png", *text, "train"),
        ("none.png", *text, "train"),
        (tmp_path / "in" / "3.png", "", text[1], "train"),
    )
    folder = prepare(table, tmp_path, "--max-failures", 3)
    rows = manifest(folder)
    assert rows.keys() == {"0", "3"}
    assert (rows["0"]["findings"], rows["3"]["findings"]) == (text[0], "")
    left = read_rows(folder / "rejects.parquet", REJECTS)
    assert sorted((row["source"], row["reason"]) for row in left) == [
        ("0.png", "duplicate_name"),
        ("1.png", "no_report"),
        ("2.png", "split_missing"),
        ("link.png", "link_outside"),
        ("none.png", "file_missing"),
    ]
    card = read_json(folder / "card.json")
    assert card["rows"] + sum(card["rejected"].values()) == 7


def test_split_without_a_column_keeps_patients_together(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(60)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    rows = [(name, f"p{number // 3}", 1) for number, name in enumerate(names)]
    table = write_table(tmp_path / "t.csv", ("image", "subject_id", "label_x"), *rows)
    listing = list_table(table, seed=0)
    splits = {record.subject_id: record.split for record in listing.records}
    assert {r.split for r in listing.records if r.subject_id == "p0"} == {splits["p0"]}
    assert all(splits[record.subject_id] == record.split for record in listing.records)
    assert Counter(splits.values()) == {"train": 14, "validate": 2, "test": 4}
    assert [r.split for r in list_table(table, seed=1).records] != [
        r.split for r in listing.records
    ]
    assert listing.notes == ()
    bare = write_table(tmp_path / "bare.csv", ("image", "label_x"), *((n, 1) for n in names))
    assert "no column subject_id" in list_table(bare, seed=0).notes[0]


def test_dicom_must_be_marked_as_deidentified(tmp_path: Path) -> None:
    names = [
        dicom(tmp_path / "marked.dcm", PatientIdentityRemoved="YES"),
        dicom(tmp_path / "marked_no.dcm", PatientIdentityRemoved="NO"),
        dicom(tmp_path / "bare.dcm"),
        dicom(tmp_path / "ct.dcm", Modality="CT", PatientIdentityRemoved="YES"),
        picture(tmp_path / "plain.png"),
    ]
    table = write_table(tmp_path / "t.csv", ("image", "label_x"), *((name, 1) for name in names))
    folder = prepare(table, tmp_path / "one", "--max-failures", 3)
    rows = manifest(folder)
    assert {i: row["view"] for i, row in rows.items()} == {"marked": "PA", "plain": None}
    assert reasons(folder) == {
        "bare.dcm": "identity_kept",
        "ct.dcm": "modality_refused",
        "marked_no.dcm": "identity_kept",
    }
    folder = prepare(table, tmp_path / "two", "--deidentified", "--any-modality")
    assert manifest(folder).keys() == {"bare", "ct", "marked", "marked_no", "plain"}
    assert read_json(folder / "card.json")["options"]["deidentified"] is True


def test_coloured_tiles_of_another_modality_become_grey(tmp_path: Path) -> None:
    name = picture(tmp_path / "tile.png", channels=3)
    table = write_table(
        tmp_path / "tiles.csv", ("image", "findings", "sex"), (name, "Invasive ductal tumour.", "f")
    )
    (row,) = manifest(folder := prepare(table, tmp_path)).values()
    pixels = cv2.imread(str(folder / row["image"]), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.shape == (32, 32)
    assert row["metadata"] == {"sex": "F"}


def test_masks_are_carried(tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 5:15] = 255
    cv2.imwrite(str(tmp_path / "a_mask.png"), mask)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    other = picture(tmp_path / "b.png", 1)
    rows = ((name, "a_mask.png"), (other, "bad.png"))
    table = write_table(tmp_path / "t.csv", ("image", "mask"), *rows)
    folder = prepare(table, tmp_path, "--max-failures", 1)
    (row,) = manifest(folder).values()
    found = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_UNCHANGED)
    assert found is not None
    assert 0.1 < (found > 0).mean() < 0.15
    assert reasons(folder) == {"b.png": "mask_unreadable"}


@pytest.mark.real
def test_real_pictures_and_reports(shared_data: Path, tmp_path: Path) -> None:
    openi = shared_data / "openi"
    with (openi / "indiana_reports.csv").open(newline="") as handle:
        reports = {row["uid"]: row for row in csv.DictReader(handle)}
    with (openi / "indiana_projections.csv").open(newline="") as handle:
        films = [row for row in csv.DictReader(handle) if row["uid"] in reports]
    rows = []
    for film in films:
        name = f"{film['filename'].removesuffix('.png')}.jpg"
        told = reports[film["uid"]]
        if told["findings"] and told["impression"] and (openi / "images" / name).is_file():
            whole = f"FINDINGS: {told['findings']}\n\nIMPRESSION: {told['impression']}\n"
            rows.append((name, whole, film["uid"], film["projection"]))
    columns = ("image", "report", "study_id", "view")
    table = write_table(tmp_path / "openi.parquet", columns, *rows[:12])
    folder = prepare(table, tmp_path, "--images", openi / "images", "--views", "all")
    found = manifest(folder)
    assert len(found) == 12
    for row in found.values():
        told = reports[row["study_id"]]
        assert " ".join(row["findings"].split()) == " ".join(told["findings"].split())
        assert " ".join(row["impression"].split()) == " ".join(told["impression"].split())
        assert row["view"] in ("FRONTAL", "LATERAL")


@pytest.mark.real
def test_real_dicom_without_the_mark_asks_for_deidentified(
    shared_data: Path, tmp_path: Path
) -> None:
    chest = shared_data / "dicom" / "chest"
    names = ("nih_dx_rle.dcm", "siim_cr_jpeg_baseline.dcm")
    table = write_table(tmp_path / "t.csv", ("image", "label_x"), *((name, 1) for name in names))
    with pytest.raises(InputError, match="2 identity_kept"):
        prepare(table, tmp_path, "--images", chest)
    folder = prepare(table, tmp_path, "--images", chest, "--deidentified")
    assert len(manifest(folder)) == 2


def problems(table: Path, **options: Any) -> tuple[type[ImitateError], str]:
    with pytest.raises(ImitateError) as caught:
        list_table(table, seed=0, **options)
    return type(caught.value), str(caught.value)


def test_all_problems_of_options_and_header_at_once(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", ("img_path", "rapport", "Oedema"), ("a", "b", "1"))
    kind, text = problems(table, maps=["imge=img_path", "report"], labels="oedema,xyz*")
    assert kind is UsageError
    for part in (
        "--map does not know 'imge'; the nearest: 'image'",
        "--map 'report' is not name=Column",
        "no column 'oedema'; the nearest: 'Oedema'",
        "no column 'xyz*'; there are: img_path, rapport, Oedema",
        "no column 'image' (paths of the pictures); the nearest: 'img_path'",
        "the nearest: 'rapport'",
    ):
        assert part in text
    kind, text = problems(table)
    assert kind is InputError
    assert "name it with --map image=Column" in text


def test_all_problems_of_the_cells_at_once_and_no_cell_in_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = write_table(
        tmp_path / "t.csv",
        ("image", "split", "label_x", "label_y"),
        ("a.png", "train", "1", "0"),
        ("", "train", "1", "0"),
        ("../secret/Miller.png", "train", "1", "0"),
        ("a.png", "holdout", "present", "0.5"),
        ("a.png", "holdout", "1", "inf"),
    )
    kind, text = problems(table)
    assert kind is InputError
    for part in (
        "image is empty: 1 of 5 rows, the first is row 2",
        "name the folder that holds all with --images: 1 of 5 rows, the first is row 3",
        "split is not train, validate or test: 2 of 5 rows, the first is row 4",
        "column 'label_x' is not 1, 0, -1 or empty: 1 of 5 rows, the first is row 4",
        "column 'label_y' is not 1, 0, -1 or empty: 2 of 5 rows, the first is row 4",
    ):
        assert part in text
    assert "Miller" not in text
    assert "holdout" not in text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.xlsx", b"PK", "not a kind of table"),
        ("t.csv", b"image,label_x\n", "the table has no row"),
        ("t.csv", b"image,image,label_x\na,b,1\n", "two columns named image"),
        ("t.csv", b"image,label_x\n\xff\xfe\x00,1\n", "damaged or is not csv"),
        ("t.csv.gz", b"image,label_x\na,1\n", "damaged or is not csv"),
        ("t.parquet", b"image,label_x\na,1\n", "not readable as Parquet"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    kind, text = problems(tmp_path / name)
    assert kind is InputError
    assert message in text
    assert name in text


def test_pictures_inside_the_table_and_missing_folders(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"\x89PNG"], "label_x": [1]}), table)
    assert "bytes or lists" in problems(table)[1]
    assert "--images names a folder" in problems(table, images=tmp_path / "gone")[1]
    assert problems(tmp_path / "gone.csv")[0] is InputError
    kind, text = problems(table, dataset="a/b")
    assert (kind, "--dataset" in text) == (UsageError, True)


NAMED = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(header=st.lists(NAMED, max_size=5), maps=st.lists(NAMED, max_size=3), labels=NAMED)
def test_columns_are_found_or_every_problem_is_said(
    header: list[str], maps: list[str], labels: str
) -> None:
    columns, wrong = find_columns(header, maps=maps, labels=labels)
    assert set(columns.all) <= set(header)
    complete = "image" in columns.named
    assert complete or any("'image'" in problem for problem in wrong.table)
    assert len(wrong.options) >= sum("=" not in text for text in maps)


def test_a_table_of_a_hundred_rows_reads_no_picture(tmp_path: Path) -> None:
    rows = [(f"{number}.png", number % 2) for number in range(100)]
    table = write_table(tmp_path / "t.csv", ("image", "label_x"), *rows)
    listing: Listing = list_table(table, seed=0)
    assert {r.rejection.reason for r in listing.records if r.rejection} == {"file_missing"}
    assert len(listing.records) == 100
