"""CheXpert: labels, views, protocols and metadata, with and without reports, in every layout."""

import csv
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imitate.contract import InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.chexpert import list_chexpert
from imitate.prep.commands import app
from imitate.prep.phantoms.chexpert import write_chexpert
from imitate.prep.record import Listing, Record
from imitate.schema import MANIFEST, REJECTS

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
LABELS_BEGIN = 5  # columns of train.csv before the labels
PLUS = "df_chexpert_plus_240401.csv"


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["chexpert", source, "--root", root, "--size", 32, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def listed(source: Path, protocol: str = "clean", **more: Any) -> Listing:
    return list_chexpert(source, protocol=protocol, **{"reports": None, "seed": 0, **more})


def by_id(listing: Listing) -> dict[str, Record]:
    return {record.image_id or "": record for record in listing.records}


def reasons(listing: Listing) -> Counter[str]:
    return Counter(r.rejection.reason if r.rejection else "" for r in listing.records)


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as handle:
        told = {row["Path"]: row for row in csv.DictReader(handle)}
    return {path.partition("/")[2].removesuffix(".jpg"): row for path, row in told.items()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chexpert") / "CheXpert-v1.0"
    write_chexpert(folder, patients=24, seed=3, size=48)
    return folder


@pytest.fixture
def plain(tree: Path, tmp_path: Path) -> Path:
    """The archive as most have it: no later test set, no reports."""
    copy = tmp_path / "plain"
    shutil.copytree(tree, copy)
    for name in (PLUS, "test_labels.csv"):
        (copy / name).unlink()
    shutil.rmtree(copy / "test")
    return copy


def test_labels_views_and_metadata_are_those_of_the_tables(plain: Path, tmp_path: Path) -> None:
    folder = prepare(plain, tmp_path, "--views", "all")
    told = {**rows_of(plain / "train.csv"), **rows_of(plain / "valid.csv")}
    rows = manifest(folder)
    assert rows.keys() == told.keys()
    for image_id, row in rows.items():
        cells = told[image_id]
        marked = {k: float(v) for k, v in list(cells.items())[LABELS_BEGIN:] if v}
        assert row["labels"] == marked
        assert row["view"] == (cells["AP/PA"] or "LATERAL")
        person = {"sex": cells["Sex"][0], "age": cells["Age"]}
        assert {k: v for k, v in row["metadata"].items() if k != "5x200"} == person
        patient, study = image_id.split("/")[1:3]
        assert (row["subject_id"], row["study_id"]) == (patient, f"{patient}/{study}")
        valid = image_id.startswith("valid/")
        assert row["label_source"] == ("radiologists" if valid else "chexpert")
        assert (row["split"] == "test") == valid
        assert (row["findings"], row["section_source"]) == ("", "none")
    assert -1.0 in {value for row in rows.values() for value in row["labels"].values()}
    card = read_json(folder / "card.json")
    assert card["access"] == "credentialed"
    assert card["shared_subjects"] == {"train-validate": 0, "train-test": 0, "validate-test": 0}


def test_films_of_5x200_carry_their_one_finding(plain: Path) -> None:
    told = rows_of(plain / "train.csv")
    found = {
        record.image_id: record.metadata["5x200"]
        for record in listed(plain).records
        if "5x200" in record.metadata
    }
    assert len(found) > 3 and found.keys() <= told.keys()
    free = {"Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding"}
    for image_id, cells in told.items():
        marked = {k: float(v) for k, v in cells.items() if k not in free and v and float(v)}
        alone = image_id.endswith("frontal") and [*marked.values()] == [1] and {*marked} <= {*FIVE}
        assert ([found[image_id]] == [*marked]) if alone else (image_id not in found)


def test_only_frontal_films_without_a_wish(plain: Path, tmp_path: Path) -> None:
    folder = prepare(plain, tmp_path)
    assert {row["view"] for row in manifest(folder).values()} == {"AP", "PA"}
    left = read_rows(folder / "rejects.parquet", REJECTS)
    assert {row["reason"] for row in left} == {"view_not_selected"}


@pytest.mark.parametrize("protocol", ["paper", "mgca"])
def test_targets_of_the_published_protocols(plain: Path, protocol: str) -> None:
    told = {**rows_of(plain / "train.csv"), **rows_of(plain / "valid.csv")}
    listing = listed(plain, protocol)
    kept = [record for record in listing.records if record.rejection is None]
    uncertain = {"Atelectasis": 1, "Cardiomegaly": 0, "Consolidation": 0, "Edema": 1}
    for record in kept:
        cells = told[record.image_id or ""]
        for name in FIVE:
            text = cells[name]
            target = uncertain.get(name, 1) if text == "-1.0" else float(text or 0)
            assert record.labels[name] == target
        assert record.view in ("AP", "PA")
    frontal_valid = {i for i in told if i.startswith("valid/") and i.endswith("frontal")}
    assert {r.image_id for r in kept if r.split == "test"} == frontal_valid
    assert reasons(listing)["not_in_protocol"] > 0
    assert listing.facts["protocol"]["name"] == protocol


def test_films_that_mgca_trains_and_validates_on_are_marked(tree: Path) -> None:
    told = [r for r in listed(tree, "mgca").records if r.metadata.get("also") == "train"]
    assert {record.split for record in told} <= {"validate"}
    assert not any("also" in r.metadata for r in listed(tree, "paper").records)


def test_reports_of_chexpert_plus_are_joined_by_study(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    with (tree / PLUS).open(newline="") as handle:
        told = {row["path_to_image"].removesuffix(".jpg"): row for row in csv.DictReader(handle)}
    rows = manifest(folder)
    assert rows
    for image_id, row in rows.items():
        cells = told[image_id]
        whole = "" if cells["section_findings"] else cells["report"]
        assert row["impression"]
        assert row["findings"] == (cells["section_findings"] or row["sections"]["findings"])
        assert row["findings"] in (whole or cells["section_findings"])
        assert "accession_number" not in row["sections"] or whole
    assert any(not told[image_id]["section_findings"] for image_id in rows)
    left = read_rows(folder / "rejects.parquet", REJECTS)
    assert {r["image_id"].split("/")[0] for r in left if r["reason"] == "no_report"} == {"test"}
    assert "films have no report" in " ".join(read_json(folder / "card.json")["notes"])


def test_reports_named_elsewhere_and_the_later_test_set(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    (copy / PLUS).rename(tmp_path / "plus.csv")
    assert not listed(copy).facts["reports"]
    folder = prepare(copy, tmp_path, "--reports", tmp_path / "plus.csv", "--keep-image-only")
    tests = {i: r for i, r in manifest(folder).items() if i.startswith("test/")}
    assert tests
    for image_id, row in tests.items():
        assert (row["split"], row["label_source"]) == ("test", "radiologists")
        assert len(row["labels"]) == 14
        assert (row["view"], row["impression"]) == ("FRONTAL", ""), image_id


def test_a_table_of_studies_labels_every_film_of_them(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    told = rows_of(copy / "test_labels.csv")
    studies = {path.rpartition("/")[0]: row for path, row in told.items()}
    with (copy / "groundtruth.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["Study", *FIVE])
        writer.writerow(["CheXpert-v1.0/test/patient65000/study1", *"00000"])
        for study, row in studies.items():
            writer.writerow([f"CheXpert-v1.0/{study}", *(row[name] for name in FIVE)])
    (copy / "test_labels.csv").unlink()
    found = {i: r for i, r in by_id(listed(copy)).items() if i.startswith("test/")}
    absent = found.pop("test/patient65000/study1/view1_frontal").rejection
    assert absent is not None
    assert absent.reason == "file_missing"
    assert found.keys() == told.keys()
    for image_id, record in found.items():
        assert record.labels == {name: float(told[image_id][name]) for name in FIVE}


@pytest.mark.parametrize("layout", ["small", "nested", "batches", "packed"])
def test_every_layout_gives_the_same_films(plain: Path, tmp_path: Path, layout: str) -> None:
    expected = by_id(listed(plain))
    if layout == "small":
        for name in ("train.csv", "valid.csv"):
            text = (plain / name).read_text()
            (plain / name).write_text(text.replace("CheXpert-v1.0/", "CheXpert-v1.0-small/"))
    elif layout == "nested":
        shutil.copytree(plain, tmp_path / "outer" / "archive" / "CheXpert-v1.0-small")
        plain = tmp_path / "outer"
    elif layout == "batches":
        (plain / "train").rename(plain / "CheXpert-v1.0 batch 2 (train 1)")
    else:
        for name in ("train.csv", "valid.csv"):
            data = (plain / name).read_bytes()
            (plain / name).unlink()
            (plain / f"{name}.gz").write_bytes(gzip.compress(data))
    found = by_id(listed(plain))
    assert found.keys() == expected.keys()
    for image_id, record in found.items():
        assert record.rejection is None
        assert (record.split, record.labels) == (
            expected[image_id].split,
            expected[image_id].labels,
        )
        assert (record.root / record.source).is_file()


def test_chexpert_plus_alone(tree: Path, tmp_path: Path) -> None:
    plus = tmp_path / "plus"
    for split in ("train", "valid"):
        for path in (tree / split).rglob("*.jpg"):
            place = plus / "PNG" / path.relative_to(tree).with_suffix(".png")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)  # the reader goes by the bytes, the listing by the name
    shutil.copy(tree / PLUS, plus)
    told = rows_of(tree / "train.csv")
    lines = []
    for image_id, row in told.items():
        marks = {name: float(row[name]) if row[name] else None for name in FIVE}
        lines.append(json.dumps({"path_to_image": f"{image_id}.jpg", **marks}))
    (plus / "report_fixed.json").write_text("\n".join(lines))
    folder = prepare(plus, tmp_path)
    rows = manifest(folder)
    assert {i for i in told if i.endswith("frontal")} <= rows.keys()
    for image_id, row in rows.items():
        known = image_id in told
        assert row["label_source"] == ("chexbert" if known else None)
        marked = {n: float(told[image_id][n]) for n in FIVE if known and told[image_id][n]}
        assert row["labels"] == marked
        assert row["impression"]
        assert row["metadata"].keys() - {"5x200"} == {"sex", "age"}
    assert read_json(folder / "card.json")["archive"]["form"] == "chexpert-plus"


def test_what_tables_and_folders_do_not_agree_on_is_named(plain: Path) -> None:
    first, second, third, *_ = sorted((plain / "train").rglob("*.jpg"))
    first.unlink()
    shutil.copy(second, plain / "train" / "stranger.jpg")
    outside = plain.parent / "outside.jpg"
    third.rename(outside)
    third.symlink_to(outside)
    copy = plain / "copy" / second.relative_to(plain)
    copy.parent.mkdir(parents=True)
    shutil.copy(second, copy)
    test = plain / "test" / "patient64741" / "study1" / "view1_frontal.jpg"
    test.parent.mkdir(parents=True)
    shutil.copy(second, test)
    found = reasons(listed(plain))
    names = ("file_missing", "file_not_listed", "link_outside", "duplicate_name", "unlabelled")
    assert {name: found[name] for name in names} == dict.fromkeys(names, 1)
    assert len(listed(plain).records) == found.total()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.csv", "Path,Sex\na,b\n", "no column named Age"),
        ("valid.csv", None, "not a number.*column Edema"),
        ("train.csv", "", "no column named Path"),
        (PLUS, "path_to_image,report\n", "no column named section_findings"),
    ],
)
def test_damaged_tables_are_named(plain: Path, name: str, text: str | None, message: str) -> None:
    if text is None:
        lines = (plain / name).read_text().splitlines()
        cells = lines[1].split(",")
        cells[lines[0].split(",").index("Edema")] = "yes"
        text = "\n".join([lines[0], ",".join(cells)])
    (plain / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        listed(plain)
    assert name in str(caught.value)


def test_a_film_listed_twice_or_with_a_strange_path(plain: Path) -> None:
    table = plain / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match="listed twice"):
        listed(plain)
    table.write_text("\n".join([lines[0], "CheXpert-v1.0/train/one.jpg" + "," * 18]))
    with pytest.raises(InputError, match="patientN/studyN"):
        listed(plain)


def test_missing_tables_mixed_forms_and_unknown_protocols(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither train\.csv nor valid\.csv"):
        listed(tmp_path / "empty")
    with pytest.raises(UsageError, match="clean, paper, mgca"):
        listed(plain, "mine")
    (plain / "train" / "one.dcm").write_bytes(b"")
    with pytest.raises(UsageError, match="both DICOM files and"):
        listed(plain)


def test_equal_arguments_give_equal_phantoms(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_chexpert(tmp_path / name, patients=3, seed=5, size=32)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert files
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
