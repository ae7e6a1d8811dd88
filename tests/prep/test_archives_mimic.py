"""MIMIC-CXR in both forms: what is listed, kept, left out, and why."""

import csv
import gzip
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imitate.contract import InputError, TooManyFaults, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.mimic import list_mimic, view_of_procedure
from imitate.prep.commands import app
from imitate.prep.phantoms.mimic import write_mimic
from imitate.schema import MANIFEST, REJECTS

Rows = dict[str, dict[str, Any]]
STUDIES, SEED, SIZE = 110, 5, 48
JPG_FAULTS = (
    "truncated",
    "file_missing",
    "file_not_listed",
    "report_missing",
    "blank_picture",
    "file_empty",
)
FAULTS = (*JPG_FAULTS, "multi_frame", "modality_refused")


def prepare(source: Path, root: Path, *more: object) -> Path:
    name = f"set-{sum(1 for _ in root.glob('data/prepared/*'))}"
    arguments = ["mimic", source, "--root", root, "--name", name, "--size", 32, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    return root / "data" / "prepared" / name


def manifest(folder: Path) -> Rows:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def rejects(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "rejects.parquet", REJECTS)


def table(source: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(source / name, "rt") as handle:
        return list(csv.DictReader(handle))


def write_gz(path: Path, rows: list[dict[str, str]]) -> None:
    with gzip.open(path, "wt", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mimic") / "mimic-cxr"
    write_mimic(folder, studies=STUDIES, seed=SEED, size=SIZE)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "mimic-cxr"
    write_mimic(folder, studies=8, seed=1, size=SIZE, anomalies=False)
    return folder


@pytest.fixture(scope="module")
def prepared(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tree, tmp_path_factory.mktemp("root"))


def test_every_image_comes_out_or_has_a_reason(tree: Path, prepared: Path) -> None:
    listed = {row["dicom_id"] for row in table(tree, "cxr-record-list.csv.gz")}
    on_disk = {path.stem for path in tree.rglob("*.dcm")}
    out, left = manifest(prepared), rejects(prepared)
    assert out.keys() | {row["image_id"] for row in left} == listed | on_disk
    assert len(out) + len(left) == len(listed | on_disk)
    funnel = {step["step"]: step["count"] for step in read_json(prepared / "card.json")["funnel"]}
    assert funnel["listed"] == len(listed | on_disk)
    assert funnel["prepared"] == len(out) == len(list(prepared.rglob("images/*/*.png")))


def test_each_anomaly_has_its_code(prepared: Path) -> None:
    counts = Counter(row["reason"] for row in rejects(prepared))
    for fault in FAULTS:
        assert counts.pop(fault) == 1, fault
    assert counts.keys() == {"view_not_selected", "no_text", "too_short"}
    stages = {row["reason"]: row["stage"] for row in rejects(prepared)}
    assert stages["view_not_selected"] == "archive"
    assert stages["no_text"] == stages["report_missing"] == "reports"
    assert stages["truncated"] == "pixels"


def test_rows_say_what_the_tables_say(tree: Path, prepared: Path) -> None:
    metadata = {row["dicom_id"]: row for row in table(tree, "mimic-cxr-2.0.0-metadata.csv.gz")}
    splits = {row["dicom_id"]: row for row in table(tree, "mimic-cxr-2.0.0-split.csv.gz")}
    labels = {row["study_id"]: row for row in table(tree, "mimic-cxr-2.0.0-chexpert.csv.gz")}
    from_procedure = 0
    for image_id, row in manifest(prepared).items():
        told = metadata[image_id]
        assert row["split"] == splits[image_id]["split"]
        assert (row["subject_id"], row["study_id"]) == (told["subject_id"], told["study_id"])
        assert row["view"] == (told["ViewPosition"] or "AP")
        assert row["view_source"] == ("metadata" if told["ViewPosition"] else "procedure")
        from_procedure += not told["ViewPosition"]
        published = {
            k: float(v) for k, v in labels[row["study_id"]].items() if "_id" not in k and v
        }
        assert row["labels"] == published
        assert row["label_source"] == "chexpert"
        assert row["norm"] == "mimic"
        assert (tree / row["source"]).is_file()
    assert from_procedure


def test_credentialed_files_are_private(prepared: Path) -> None:
    for path in [prepared, *prepared.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The DICOM and the JPG form of one phantom, without flaws, both prepared."""
    folder = tmp_path_factory.mktemp("twins")
    for name in ("dicom", "jpg"):
        jpg = name == "jpg"
        write_mimic(folder / name, studies=16, seed=2, size=SIZE, jpg=jpg, anomalies=False)
    return prepare(folder / "dicom", folder), prepare(folder / "jpg", folder)


def test_both_forms_give_the_same_texts_and_splits(twins: tuple[Path, Path]) -> None:
    dicom, jpg = map(manifest, twins)
    assert dicom.keys() == jpg.keys()
    same = ("key", "subject_id", "study_id", "view", "split", "findings", "impression", "sections")
    for image_id, row in dicom.items():
        assert {name: row[name] for name in same} == {name: jpg[image_id][name] for name in same}
        assert (row["norm"], jpg[image_id]["norm"]) == ("mimic", "none")


def test_radiologist_labels_stand_beside_the_automatic_ones_in_the_test_split(
    twins: tuple[Path, Path],
) -> None:
    dicom, jpg = map(manifest, twins)
    read = {i: row for i, row in jpg.items() if row["label_source"].endswith("radiologist-2.1.0")}
    assert {row["split"] for row in read.values()} == {"test"}
    assert {row["label_source"] for row in read.values()} == {"chexpert + radiologist-2.1.0"}
    source = next(Path(twins[1]).parents[2].glob("jpg/*-test-set-labeled.csv"))
    with source.open() as handle:
        told = {row["study_id"]: row for row in csv.DictReader(handle)}
    assert read.keys() == {i for i, row in jpg.items() if row["study_id"] in told}
    for image_id, row in jpg.items():
        automatic = {n: v for n, v in row["labels"].items() if not n.endswith(" (radiologist)")}
        assert automatic == dicom[image_id]["labels"]  # where no radiologist's table lies
        beside = {n: v for n, v in row["labels"].items() if n not in automatic}
        names = {n: n.replace("Airspace", "Lung") for n in told.get(row["study_id"], {})}
        assert beside == {
            f"{name} (radiologist)": float(told[row["study_id"]][column])
            for column, name in names.items()
            if column != "study_id" and image_id in read
        }
    assert any("Lung Opacity (radiologist)" in row["labels"] for row in read.values())


def test_radiologist_labels_count_in_the_test_split_only(tmp_path: Path) -> None:
    write_mimic(tmp_path / "jpg", studies=16, seed=2, size=SIZE, jpg=True, anomalies=False)
    path = tmp_path / "jpg" / "mimic-cxr-2.1.0-test-set-labeled.csv"
    records = list_mimic(tmp_path / "jpg", reports=None, tables=None).records
    study = next(r.study_id for r in records if r.split == "train")
    path.write_text(f"study_id,Edema\n{study},1\n")
    records = list_mimic(tmp_path / "jpg", reports=None, tables=None).records
    assert {r.label_source for r in records} == {"chexpert"}
    assert not any("radiologist" in name for r in records for name in r.labels)


def test_anomalies_of_the_jpg_form(tmp_path: Path) -> None:
    write_mimic(tmp_path / "jpg", studies=90, seed=SEED, size=SIZE, jpg=True)
    counts = Counter(row["reason"] for row in rejects(prepare(tmp_path / "jpg", tmp_path)))
    assert all(counts[fault] == 1 for fault in JPG_FAULTS)


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("CHEST (PORTABLE AP)", "AP"),
        ("CHEST (PA AND LAT)", None),
        ("CHEST (SINGLE VIEW)", None),
        ("CHEST (LAT DECUB ONLY)", None),
        ("CHEST PA", "PA"),
        ("Chest lateral", "LATERAL"),
        ("CHEST (APICAL LORDOTIC)", None),
        ("", None),
    ],
)
def test_a_procedure_tells_a_view_only_where_it_can_mean_one(text: str, view: str | None) -> None:
    assert view_of_procedure(text) == view


def test_reports_in_another_tree_or_zip(small: Path, tmp_path: Path) -> None:
    write_mimic(tmp_path / "jpg", studies=8, seed=1, size=SIZE, jpg=True, anomalies=False)
    shutil.copytree(small / "files", tmp_path / "texts", ignore=shutil.ignore_patterns("*.dcm"))
    (tmp_path / "jpg" / "mimic-cxr-reports.zip").rename(tmp_path / "reports.zip")
    places = (tmp_path / "reports.zip", tmp_path / "texts")
    sets = [prepare(tmp_path / "jpg", tmp_path, "--reports", place) for place in places]
    assert (sets[0] / "manifest.parquet").read_bytes() == (
        sets[1] / "manifest.parquet"
    ).read_bytes()
    with pytest.raises(InputError, match=r"mimic-cxr-reports.zip"):
        prepare(tmp_path / "jpg", tmp_path)
    kept = prepare(tmp_path / "jpg", tmp_path, "--keep-image-only")
    assert {row["section_source"] for row in manifest(kept).values()} == {"none"}
    assert manifest(kept).keys() == manifest(sets[0]).keys()


def test_tables_may_lie_elsewhere_and_the_split_must_lie_somewhere(
    small: Path, tmp_path: Path
) -> None:
    tree, tables = tmp_path / "tree", tmp_path / "tables"
    shutil.copytree(small, tree)
    tables.mkdir()
    for path in tree.glob("mimic-cxr-2.0.0-*"):
        path.rename(tables / path.name)
    with pytest.raises(InputError, match=r"mimic-cxr-2\.0\.0-split\.csv\.gz"):
        list_mimic(tree, reports=None, tables=None)
    moved = list_mimic(tree, reports=None, tables=tables)
    assert {r.split for r in moved.records} == {"train", "validate", "test"}
    assert {r.label_source for r in moved.records} == {"chexpert"}


def test_without_metadata_the_view_is_read_from_the_dicom_header(
    small: Path, tmp_path: Path
) -> None:
    shutil.copytree(small, tmp_path / "tree")
    (tmp_path / "tree" / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    told, read = prepare(small, tmp_path), prepare(tmp_path / "tree", tmp_path)
    assert {row["view_source"] for row in manifest(read).values()} == {"header"}
    assert {i: r["view"] for i, r in manifest(read).items()} == {
        i: r["view"] for i, r in manifest(told).items()
    }
    late = [row for row in rejects(read) if row["reason"] == "view_not_selected"]
    assert {row["stage"] for row in late} == {"pixels"}


def test_gzipped_dicom_files_are_read_in_place(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    for path in (tmp_path / "tree").rglob("*.dcm"):
        path.with_suffix(".dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    plain, packed = prepare(small, tmp_path), prepare(tmp_path / "tree", tmp_path)
    hashes = [{i: row["png_blake3"] for i, row in manifest(f).items()} for f in (plain, packed)]
    assert hashes[0] == hashes[1]


def test_a_missing_column_is_named(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    path = tmp_path / "tree" / "mimic-cxr-2.0.0-metadata.csv.gz"
    rows = table(small, path.name)
    write_gz(path, [{k: v for k, v in row.items() if k != "ViewPosition"} for row in rows])
    with pytest.raises(InputError, match=r"ViewPosition.*metadata"):
        list_mimic(tmp_path / "tree", reports=None, tables=None)


def test_a_damaged_table_is_named(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    path = tmp_path / "tree" / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"damaged.*split"):
        list_mimic(tmp_path / "tree", reports=None, tables=None)


def test_both_forms_in_one_folder_are_refused(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    first = next((tmp_path / "tree").rglob("*.dcm"))
    first.with_suffix(".jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="both DICOM files and JPG"):
        list_mimic(tmp_path / "tree", reports=None, tables=None)


def test_a_partial_download_is_no_failure(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    pictures = sorted((tmp_path / "tree").rglob("*.dcm"))
    for path in pictures[::2]:
        path.unlink()
    folder = prepare(tmp_path / "tree", tmp_path)
    card = read_json(folder / "card.json")
    assert card["partial"] is True
    assert card["listed_but_absent"] == card["rejected"]["file_missing"] == len(pictures[::2])


def test_faults_over_the_budget_fail_after_the_set_is_written(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    frontal = [r for r in list_mimic(small, reports=None, tables=None).records if r.view == "AP"]
    (tmp_path / "tree" / frontal[0].source).write_bytes(b"")
    with pytest.raises(TooManyFaults, match="1 of"):
        prepare(tmp_path / "tree", tmp_path, "--max-failures", 0)
    folder = tmp_path / "data" / "prepared" / "set-0"
    assert read_json(folder / "card.json")["rejected"]["file_empty"] == 1
    with pytest.raises(TooManyFaults):  # the finished set is still over that budget
        arguments = ["mimic", tmp_path / "tree", "--root", tmp_path, "--name", "set-0"]
        arguments += ["--size", 32, "--quiet", "--max-failures", 0]
        app([str(argument) for argument in arguments], standalone_mode=False)


def test_links_that_leave_the_archive_are_not_followed(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "tree")
    first, second, *_ = sorted((tmp_path / "tree").rglob("*.dcm"))
    first.rename(tmp_path / "elsewhere.dcm")
    first.symlink_to(tmp_path / "elsewhere.dcm")
    study = second.parent
    study.rename(tmp_path / "study")
    study.symlink_to(tmp_path / "study")
    records = list_mimic(tmp_path / "tree", reports=None, tables=None).records
    outside = {
        r.source
        for r in records
        if r.rejection is not None and r.rejection.reason == "link_outside"
    }
    moved = {str(p.relative_to(tmp_path / "tree")) for p in (first, second)}
    assert moved <= outside


def test_sections_asked_for(tree: Path, tmp_path: Path) -> None:
    kinds = {
        kind: manifest(prepare(tree, tmp_path, "--sections", kind)) for kind in ("both", "findings")
    }
    assert all(row["findings"] and row["impression"] for row in kinds["both"].values())
    assert all(row["findings"] for row in kinds["findings"].values())
    assert kinds["both"].keys() < kinds["findings"].keys()


def test_a_last_paragraph_counts_only_as_an_impression(tree: Path, tmp_path: Path) -> None:
    paragraph = ("--last-paragraph", "impression")
    either = manifest(prepare(tree, tmp_path, *paragraph)).values()
    impression = manifest(prepare(tree, tmp_path, *paragraph, "--sections", "impression")).values()
    assert "last_paragraph" not in {row["section_source"] for row in either}
    stands_in = [row for row in impression if row["section_source"] == "last_paragraph"]
    assert stands_in
    assert all(row["impression"] and not row["findings"] for row in stands_in)


def test_pictures_without_text_are_kept_on_demand(
    tree: Path, prepared: Path, tmp_path: Path
) -> None:
    kept = manifest(prepare(tree, tmp_path, "--keep-image-only"))
    bare = {
        row["image_id"] for row in rejects(prepared) if row["reason"] in ("no_text", "too_short")
    }
    assert kept.keys() == manifest(prepared).keys() | bare
    for image_id in bare:
        row = kept[image_id]
        assert (row["findings"], row["impression"], row["section_source"]) == ("", "", "none")
