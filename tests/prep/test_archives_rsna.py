"""RSNA stage 2: labels, boxes in output pixels, protocols, subjects, and the real pictures."""

import csv
import gzip
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.rsna import list_rsna
from imitate.prep.commands import app
from imitate.prep.job.chunk import boxes_in
from imitate.prep.phantoms.rsna import write_rsna
from imitate.prep.pixels.png import Picture
from imitate.prep.protocols.protocol import load_protocol
from imitate.prep.record import Box
from imitate.schema import MANIFEST, REJECTS

SIZE, PATIENTS = 96, 40


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["rsna", source, "--root", root, "--size", 48, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def labels_of(source: Path) -> dict[str, list[dict[str, str]]]:
    rows = defaultdict(list)
    with (source / "stage_2_train_labels.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            rows[row["patientId"]].append(row)
    return rows


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rsna") / "stage_2"
    write_rsna(folder, patients=PATIENTS, seed=1, size=SIZE)
    return folder


def test_labels_boxes_and_classes(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    told, rows = labels_of(tree), manifest(folder)
    assert rows.keys() == told.keys()
    for image_id, row in rows.items():
        boxes = [box for box in told[image_id] if box["Target"] == "1"]
        assert row["labels"] == {"Pneumonia": float(bool(boxes))}
        assert (row["view_source"], row["section_source"]) == ("header", "none")
        expected = [
            tuple(float(box[name]) / 2 for name in ("x", "y", "width", "height")) for box in boxes
        ]
        assert [(b["x"], b["y"], b["w"], b["h"]) for b in row["boxes"]] == expected
    left = read_rows(folder / "rejects.parquet", REJECTS)
    tests = {path.stem for path in (tree / "stage_2_test_images").iterdir()}
    assert {(row["image_id"], row["reason"]) for row in left} == {(i, "unlabelled") for i in tests}
    card = read_json(folder / "card.json")
    assert card["boxes"] == {"kept": sum(len(r["boxes"]) for r in rows.values()), "dropped": 0}
    assert sum(card["archive"]["classes"].values()) == PATIENTS
    assert card["shared_subjects"] is None


def picture(**changes: Any) -> Picture:
    facts: dict[str, Any] = {
        "png": b"",
        "height": 100,
        "width": 80,
        "bits": 8,
        "source_height": 200,
        "source_width": 200,
        "orientation": 1,
        "scale_x": 0.5,
        "scale_y": 0.5,
        "offset_x": -10.0,
        "offset_y": 0.0,
        "norm": "none",
        "png_blake3": "",
        "pixel_blake3": "",
        "view": None,
    }
    return Picture(**{**facts, **changes})


@pytest.mark.parametrize(
    ("box", "placed"),
    [
        ((40, 20, 60, 40), (10, 10, 30, 20)),
        ((0, 0, 40, 40), (0, 0, 10, 20)),  # the crop cuts its left half
        ((160, 180, 40, 80), (70, 90, 10, 10)),
        ((0, 0, 20, 40), None),  # wholly in the crop
        ((40, 20, 0, 40), None),
    ],
)
def test_boxes_are_clipped_and_empty_ones_dropped(
    box: tuple[float, ...], placed: tuple[float, ...] | None
) -> None:
    given = Box(x=box[0], y=box[1], w=box[2], h=box[3], label="Pneumonia")
    found = boxes_in(picture(), (given,))
    assert [(b["x"], b["y"], b["w"], b["h"]) for b in found] == ([placed] if placed else [])


def write_mapping(tree: Path, path: Path) -> dict[str, str]:
    """Write a mapping in which about three pictures share a patient, and return it."""
    ids = sorted(labels_of(tree))
    subjects = {image_id: f"{index // 3:08d}" for index, image_id in enumerate(ids)}
    rows = [
        {"subset_img_id": i, "img_id": f"{s}_{n:03d}.png"}
        for n, (i, s) in enumerate(subjects.items())
    ]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    return subjects


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_clean_split_is_by_subject_where_a_mapping_tells_them(
    tree: Path, tmp_path: Path, ending: str
) -> None:
    subjects = write_mapping(tree, tmp_path / f"map.{ending}")
    listing = list_rsna(tree, protocol="clean", mapping=tmp_path / f"map.{ending}", seed=0)
    splits = defaultdict(set)
    for record in listing.records:
        if record.rejection is None:
            assert record.subject_id == subjects[record.image_id or ""]
            splits[record.subject_id].add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {name for found in splits.values() for name in found} == {"train", "validate", "test"}


def test_published_split_and_the_patients_it_shares(tree: Path, tmp_path: Path) -> None:
    write_mapping(tree, tmp_path / "map.csv")
    folder = prepare(tree, tmp_path, "--protocol", "mgca", "--mapping", tmp_path / "map.csv")
    assert folder.name == "rsna-mgca"
    rows = manifest(folder)
    assert {i: row["split"] for i, row in rows.items()} == load_protocol("rsna", "mgca").split(
        sorted(rows), subjects={}, official={}, seed=0
    )
    shared = {row["subject_id"] for row in rows.values() if row["split"] == "train"} & {
        row["subject_id"] for row in rows.values() if row["split"] == "test"
    }
    assert read_json(folder / "card.json")["shared_subjects"]["train-test"] == len(shared) > 0


def test_other_protocols_are_a_usage_error(tree: Path) -> None:
    with pytest.raises(UsageError, match="clean, paper, mgca, benchx"):
        list_rsna(tree, protocol="official", mapping=None, seed=0)


def test_benchx_keeps_the_share_of_the_classes(tree: Path) -> None:
    listing = list_rsna(tree, protocol="benchx", mapping=None, seed=0)
    shares = {}
    for split in ("train", "validate", "test"):
        of = [r.labels["Pneumonia"] for r in listing.records if r.split == split]
        shares[split] = (len(of), sum(of))
    positive = sum(count for _, count in shares.values())
    for count, found in shares.values():
        assert abs(found - positive * count / PATIENTS) <= 1
    assert [count for count, _ in shares.values()] == [28, 6, 6]


def test_published_lists_decide_and_are_part_of_the_plan(tree: Path, tmp_path: Path) -> None:
    ids = sorted(labels_of(tree))
    lists = tmp_path / "lists"
    lists.mkdir()
    for name, part in (("train", ids[:20]), ("val", ids[20:30]), ("test", ids[30:-2])):
        (lists / f"{name}.txt").write_text("\n".join(part))
    options = ("--protocol", "benchx", "--split-lists", lists)
    folder = prepare(tree, tmp_path, *options)
    splits = {image_id: row["split"] for image_id, row in manifest(folder).items()}
    assert splits == dict.fromkeys(ids[:20], "train") | dict.fromkeys(
        ids[20:30], "validate"
    ) | dict.fromkeys(ids[30:-2], "test")
    card = read_json(folder / "card.json")
    assert card["rejected"]["not_in_protocol"] == 2
    assert card["archive"]["protocol"]["lists"] is True
    (lists / "test.txt").write_text("\n".join(ids[30:]))
    with pytest.raises(UsageError, match="split_lists was"):
        prepare(tree, tmp_path, *options)


def test_pictures_that_two_splits_share_are_told(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = list_rsna(tree, protocol="mgca", mapping=None, seed=0)
    trained = next(r for r in listing.records if r.split == "train")
    tested = next(r for r in listing.records if r.split == "test")
    shutil.copytree(tree, tmp_path / "tree")
    shutil.copy(tree / trained.source, tmp_path / "tree" / tested.source)
    folder = prepare(tmp_path / "tree", tmp_path, "--protocol", "mgca")
    shared = read_json(folder / "card.json")["shared_pictures"]
    assert shared == {"train-validate": 0, "train-test": 1, "validate-test": 0}
    text = capsys.readouterr().out
    assert "note: 1 pictures, equal to the pixel, are in both splits of train-test" in text
    assert "most test pictures share a patient with train" in text
    assert "train has 23 pictures, 15,987 fewer than the 16,010 published" in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("patientId,x,y,width,Target\na,,,,0\n", "no column named height"),
        ("patientId,x,y,width,height,Target\na,,,,,2\n", "neither 0 nor 1"),
        ("patientId,x,y,width,height,Target\na,1,2,x,4,1\n", "not a number.*width"),
        ("patientId,x,y,width,height,Target\na,1,nan,3,4,1\n", "not a number.*column y"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "stage_2_train_labels.csv").write_text(row)
    with pytest.raises(InputError, match=message):
        list_rsna(tmp_path, protocol="clean", mapping=None, seed=0)


def test_missing_labels_and_mappings_are_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage_2_train_labels\.csv"):
        list_rsna(tmp_path, protocol="clean", mapping=None, seed=0)
    for name in ("none.json", "none.csv"):
        with pytest.raises(InputError, match=name):
            list_rsna(tree, protocol="clean", mapping=tmp_path / name, seed=0)
    (tmp_path / "bad.json").write_text('[{"img_id": 3}]')
    with pytest.raises(InputError, match="subset_img_id"):
        list_rsna(tree, protocol="clean", mapping=tmp_path / "bad.json", seed=0)


def test_packed_labels_and_unlisted_pictures(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    plain = tmp_path / "tree" / "stage_2_train_labels.csv"
    plain.with_name("stage_2_train_labels.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    images = tmp_path / "tree" / "stage_2_train_images"
    first, second, third, *_ = sorted(images.iterdir())
    first.rename(images / "stranger.dcm")
    shutil.copy(second, second.with_suffix(".png"))
    third.unlink()
    records = list_rsna(tmp_path / "tree", protocol="clean", mapping=None, seed=0).records
    verdicts = {r.image_id: r.rejection.reason for r in records if r.rejection}
    assert verdicts["stranger"] == "file_not_listed"
    assert verdicts[first.stem] == verdicts[third.stem] == "file_missing"
    assert verdicts[second.stem] == "duplicate_name"


@pytest.mark.real
def test_real_pictures_under_their_rsna_names(shared_data: Path, tmp_path: Path) -> None:
    images = tmp_path / "rsna" / "stage_2_train_images"
    images.mkdir(parents=True)
    shutil.copy(shared_data / "labels" / "rsna" / "stage_2_train_labels.csv.gz", images.parent)
    with gzip.open(shared_data / "labels" / "rsna" / "stage_2_train_labels.csv.gz", "rt") as handle:
        positive = {row["patientId"] for row in csv.DictReader(handle) if row["Target"] == "1"}
    with (shared_data / "labels" / "rsna" / "nih_to_rsna.csv").open(newline="") as handle:
        twins = [(r["nih_image"], r["rsna_patient_id"]) for r in csv.DictReader(handle)]
    chosen = [t for t in twins if t[1] in positive][:4] + [
        t for t in twins if t[1] not in positive
    ][:4]
    for nih, rsna in chosen:
        shutil.copy(shared_data / "nih" / "images" / nih, images / f"{rsna}.png")
    mapping = [{"subset_img_id": rsna, "img_id": nih} for nih, rsna in twins]
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    folder = prepare(tmp_path / "rsna", tmp_path, "--mapping", tmp_path / "map.json")
    rows = manifest(folder)
    assert rows.keys() == {rsna for _, rsna in chosen}
    for nih, rsna in chosen:
        row = rows[rsna]
        assert row["subject_id"] == nih.partition("_")[0]
        assert bool(row["boxes"]) == (rsna in positive) == bool(row["labels"]["Pneumonia"])
        pixels = cv2.imread(str(folder / row["image"]), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        assert pixels.shape == (48, 48)
        assert np.ptp(pixels) > 50
    assert read_json(folder / "card.json")["partial"]
