"""ChestX-ray14: odd headers, labels, boxes, patients, lists and faults, and the real pictures."""

import csv
import gzip
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.nih import LABELS, age_in_years, list_nih
from imitate.prep.commands import app
from imitate.prep.phantoms.nih import write_nih
from imitate.schema import MANIFEST, REJECTS

SIZE, PATIENTS = 96, 40
ENTRIES, TRAIN, TEST = "Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt"
BOXES = "BBox_List_2017.csv"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["nih", source, "--root", root, "--size", 48, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def entries_of(source: Path) -> dict[str, list[str]]:
    """Cells of each picture, by position: the names of the header are cut at their commas."""
    with (source / ENTRIES).open(newline="") as handle:
        _, *rows = csv.reader(handle)
    return {row[0].removesuffix(".png"): row for row in rows}


def boxes_of(source: Path) -> dict[str, list[tuple[str, list[float]]]]:
    found = defaultdict(list)
    with (source / BOXES).open(newline="") as handle:
        _, *rows = csv.reader(handle)
    for name, label, *cells in rows:
        found[name.removesuffix(".png")].append((label, [float(cell) for cell in cells[:4]]))
    return found


def listed(source: Path, name: str) -> set[str]:
    return {line.removesuffix(".png") for line in (source / name).read_text().split()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nih") / "ChestXray-NIHCC"
    write_nih(folder, patients=PATIENTS, seed=1, size=SIZE)
    return folder


@pytest.fixture
def copied(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "copy"))


def test_phantom_has_the_layout_of_the_download(tree: Path, tmp_path: Path) -> None:
    assert (tree / ENTRIES).read_text().splitlines()[0] == HEADER
    assert (tree / BOXES).read_text().splitlines()[
        0
    ] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    pictures = {path.stem: path for path in tree.glob("images_0??/images/*.png")}
    assert {path.parts[-3] for path in pictures.values()} == {
        f"images_{n:03d}" for n in range(1, 13)
    }
    entries = entries_of(tree)
    assert entries.keys() == pictures.keys() == listed(tree, TRAIN) | listed(tree, TEST)
    patients = [{name.partition("_")[0] for name in listed(tree, part)} for part in (TRAIN, TEST)]
    assert not patients[0] & patients[1] and all(patients)
    assert max(Counter(row[3] for row in entries.values()).values()) > 1
    channels = {cv2.imread(str(p), cv2.IMREAD_UNCHANGED).ndim for p in pictures.values()}
    assert channels == {2, 3}  # a few are RGBA
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_nih(tmp_path / name, patients=3, seed=seed, size=32)
    contents = [
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*.*")}
        for n in "abc"
    ]
    assert contents[0] == contents[1] != contents[2]


def test_phantom_boxes_are_brighter_than_the_lungs(tree: Path) -> None:
    contrasts = []
    for name, boxes in boxes_of(tree).items():
        (path,) = tree.glob(f"images_*/images/{name}.png")
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)
        for _, (x, y, w, h) in boxes:
            core = pixels[int(y + h / 4) : int(y + 3 * h / 4), int(x + w / 4) : int(x + 3 * w / 4)]
            contrasts.append(core.mean() - pixels[30:56, 16:80].mean())
    assert len(contrasts) > 3 and np.mean(np.array(contrasts) > 0) > 0.7


def test_labels_boxes_and_metadata(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    entries, boxes, rows = entries_of(tree), boxes_of(tree), manifest(folder)
    assert rows.keys() == entries.keys()
    assert read_rows(folder / "rejects.parquet", REJECTS) == []
    for image_id, row in rows.items():
        _, named, _, patient, age, sex, view, *_ = entries[image_id]
        present = {name for name, value in row["labels"].items() if value}
        assert row["labels"].keys() == set(LABELS)
        assert present == set(named.split("|")) - {"No Finding"}
        assert row["subject_id"] == f"{int(patient):08d}" == image_id.partition("_")[0]
        assert (row["view"], row["view_source"]) == (view, "table")
        assert row["metadata"] == {"sex": sex, "age": age}
        expected = [
            ({"Infiltrate": "Infiltration"}.get(label, label), [value / 2 for value in box])
            for label, box in boxes.get(image_id, [])
        ]
        assert [(b["label"], [b[n] for n in "xywh"]) for b in row["boxes"]] == expected
    assert any(row["boxes"] for row in rows.values())
    card = read_json(folder / "card.json")
    assert card["archive"]["boxes_without_their_label"] == 0
    assert not card["partial"]
    assert set(card["shared_subjects"].values()) == {0}


@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_official_test_list_is_the_test_split(tree: Path, protocol: str) -> None:
    listing = list_nih(tree, protocol=protocol, seed=0)
    splits = {record.image_id: record.split for record in listing.records}
    assert {name for name, split in splits.items() if split == "test"} == listed(tree, TEST)
    assert set(splits.values()) == {"train", "validate", "test"}
    assert listing.facts["protocol"]["name"] == protocol


def test_published_lists_leave_pictures_out(tree: Path, tmp_path: Path) -> None:
    names = sorted(entries_of(tree))
    for number, name in enumerate(("train", "val", "test")):
        chosen = "".join(f"{n}.png\n" for n in names[number:-2:3])
        (tmp_path / f"{name}.txt").write_text(chosen)
    listing = list_nih(tree, protocol="benchx", seed=0, split_lists=tmp_path)
    splits = {r.image_id: r.split for r in listing.records if r.rejection is None}
    assert splits == {
        name: ("train", "validate", "test")[n % 3] for n, name in enumerate(names[:-2])
    }
    left = {r.image_id: r.rejection.reason for r in listing.records if r.rejection}
    assert left == dict.fromkeys(names[-2:], "not_in_protocol")


def test_unknown_protocols_are_a_usage_error(tree: Path) -> None:
    with pytest.raises(UsageError, match="clean, paper"):
        list_nih(tree, protocol="other", seed=0)


def test_packed_tables_and_one_folder_of_images(tree: Path, copied: Path) -> None:
    for name in (ENTRIES, TRAIN, TEST, BOXES):
        plain = copied / name
        plain.with_name(name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    (copied / "images").mkdir()
    for path in copied.glob("images_0??/images/*.png"):
        path.rename(copied / "images" / path.name)
    listings = [list_nih(folder, protocol="clean", seed=0).records for folder in (tree, copied)]
    told = [
        {(r.image_id, r.split, r.subject_id, r.boxes, r.rejection) for r in records}
        for records in listings
    ]
    assert told[0] == told[1]


def test_every_file_and_every_row_has_a_verdict(copied: Path) -> None:
    train = sorted(listed(copied, TRAIN))
    missing, stranger, no_split, no_entry, twice = train[:5]
    files = {path.stem: path for path in copied.glob("images_*/images/*.png")}
    files[missing].unlink()
    shutil.copy(files[stranger], copied / "images_001" / "images" / "stranger.png")
    shutil.copy(files[twice], copied / f"{twice}.png")
    lines = [line for line in (copied / TRAIN).read_text().split() if no_split not in line]
    (copied / TRAIN).write_text("\n".join(lines))
    rows = (copied / ENTRIES).read_text().splitlines(keepends=True)
    (copied / ENTRIES).write_text("".join(row for row in rows if no_entry not in row))
    listing = list_nih(copied, protocol="clean", seed=0)
    verdicts = {(r.image_id, r.rejection.reason) for r in listing.records if r.rejection}
    assert verdicts == {
        (missing, "file_missing"),
        ("stranger", "file_not_listed"),
        (no_split, "split_missing"),
        (no_entry, "unlabelled"),
        (twice, "duplicate_name"),
    }
    assert len(listing.records) == len(files) + 2  # one missing, two more on the disk
    kept = [r.image_id for r in listing.records if r.rejection is None]
    assert len(kept) == len(set(kept)) and twice in kept


def test_pictures_behind_a_link_are_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "images_001").rename(tmp_path / "elsewhere")
    (copied / "images_001").symlink_to(tmp_path / "elsewhere")
    records = list_nih(copied, protocol="clean", seed=0).records
    behind = {path.stem for path in (tmp_path / "elsewhere").rglob("*.png")}
    verdicts = {r.image_id: r.rejection.reason for r in records if r.rejection}
    assert verdicts == dict.fromkeys(behind, "link_outside")


@pytest.mark.parametrize(
    ("cell", "age"),
    [
        *(("57", "57"), ("057Y", "57"), ("006M", "0"), ("030M", "2"), ("012D", "0")),
        *(("414", ""), ("411Y", ""), ("", ""), ("-3", ""), ("old", "")),
    ],
)
def test_ages_of_both_releases(cell: str, age: str) -> None:
    assert age_in_years(cell) == age


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (ENTRIES, "Image Index,Finding Labels\na.png,Mass\n", "no column named Patient ID"),
        (ENTRIES, f"{HEADER}\na.png,Mess,0,1,9,F,PA,1,1,1,1,\n", "'Mess' is not one of the 14"),
        (ENTRIES, f"{HEADER}\na.png,Mass,0,x,9,F,PA,1,1,1,1,\n", "not a number.*Patient ID"),
        (BOXES, "Image Index,Finding Label,x,y,w,h\n", r"no column named Bbox \[x, h\]"),
        (BOXES, "Image Index,Finding Label,Bbox [x,y,w,h]\na.png,Mass,1,2,?,4\n", "column w"),
        (TRAIN, "\0\xff", "a list of text|not text|both official lists"),
    ],
)
def test_damaged_tables_are_named(copied: Path, name: str, text: str, message: str) -> None:
    (copied / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as error:
        list_nih(copied, protocol="clean", seed=0)
    assert name in str(error.value)


@pytest.mark.parametrize("name", [ENTRIES, TRAIN, TEST])
def test_missing_tables_are_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(InputError, match=name):
        list_nih(copied, protocol="clean", seed=0)


def test_a_picture_in_both_lists_is_named(copied: Path) -> None:
    twice = sorted(listed(copied, TRAIN))[0]
    with (copied / TEST).open("a") as handle:
        handle.write(f"{twice}.png\n")
    with pytest.raises(InputError, match=rf"both official lists.*{twice}"):
        list_nih(copied, protocol="clean", seed=0)


@pytest.mark.real
def test_real_pictures_with_the_full_table(shared_data: Path, tmp_path: Path) -> None:
    """All 112,000 rows and 95 pictures; for want of the official lists, ours are by patient."""
    source = tmp_path / "ChestXray-NIHCC"
    shutil.copytree(shared_data / "nih" / "images", source / "images_001" / "images")
    tables = shared_data / "labels" / "nih"
    shutil.copy(tables / f"{ENTRIES}.gz", source)
    shutil.copy(tables / BOXES, source)
    with gzip.open(source / f"{ENTRIES}.gz", "rt", newline="") as handle:
        entries = {row["Image Index"].removesuffix(".png"): row for row in csv.DictReader(handle)}
    held_out = {name for name, row in entries.items() if int(row["Patient ID"]) % 4 == 0}
    for name, names in ((TRAIN, entries.keys() - held_out), (TEST, held_out)):
        (source / name).write_text("".join(f"{n}.png\n" for n in sorted(names)))
    listing = list_nih(source, protocol="clean", seed=0)
    chosen = {r.image_id: r for r in listing.records if r.rejection is None}
    assert chosen.keys() == {path.stem for path in (source / "images_001" / "images").iterdir()}
    assert len(listing.records) == len(entries) > 112_000
    boxes = boxes_of(source)
    for image_id, record in chosen.items():
        row = entries[image_id]
        present = {name for name, value in record.labels.items() if value}
        assert present == set(row["Finding Labels"].split("|")) - {"No Finding"}
        assert (record.split == "test") == (image_id in held_out)
        assert len(record.boxes) == len(boxes.get(image_id, []))
        assert record.metadata["sex"] == row["Patient Gender"]
    assert sum(bool(record.boxes) for record in chosen.values()) > 5
    folder = prepare(source, tmp_path, "--size", 64)
    rows = manifest(folder)
    assert rows.keys() == chosen.keys()
    assert all(min(b["w"], b["h"]) > 0 for row in rows.values() for b in row["boxes"])
    assert read_json(folder / "card.json")["listed_but_absent"] == len(entries) - len(chosen)
