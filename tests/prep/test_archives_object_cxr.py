"""Object-CXR: shapes, boxes and masks, the official sets, and annotations that cannot be read."""

import csv
import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.object_cxr import list_object_cxr, read_shapes
from imitate.prep.commands import app
from imitate.prep.phantoms.object_cxr import LEVEL, write_object_cxr
from imitate.prep.record import Shape
from imitate.schema import MANIFEST, REJECTS

PICTURES, SIZE = 40, 96
PARTS = {"train": range(1, 33), "dev": range(33, 37), "test": range(37, 41)}


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["object-cxr", source, "--root", root, "--size", SIZE, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def annotations(source: Path) -> dict[str, str]:
    found = {}
    for part in PARTS:
        with (source / f"{part}.csv").open(newline="") as handle:
            _, *rows = csv.reader(handle)
        found.update({name[-9:-4]: annotation for name, annotation in rows})
    return found


def picture(path: Path) -> np.ndarray:
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert array is not None
    return array


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("object-cxr") / "object-CXR"
    write_object_cxr(folder, pictures=PICTURES, seed=2, size=SIZE)
    return folder


def test_the_tables_are_those_of_the_download(tree: Path, tmp_path: Path) -> None:
    first = {part: (tree / f"{part}.csv").read_text().splitlines()[0] for part in PARTS}
    assert first == {
        "train": "image_name,annotation",
        "dev": "image_name,annotation",
        "test": "image_path,annotation",
    }
    write_object_cxr(tmp_path, pictures=PICTURES, seed=2, size=SIZE)
    files = [path.relative_to(tree) for path in sorted(tree.rglob("*.*"))]
    assert all((tmp_path / file).read_bytes() == (tree / file).read_bytes() for file in files)
    kinds = Counter(
        part[0] for text in annotations(tree).values() for part in text.split(";") if part
    )
    assert kinds.keys() == {"0", "1", "2"}


def test_labels_boxes_and_masks(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    told, rows = annotations(tree), manifest(folder)
    assert len(rows) == 36  # the test set is not in this protocol
    for image_id, row in rows.items():
        parts = [part.split() for part in told[image_id].split(";") if part]
        assert row["labels"] == {"Foreign Object": float(bool(parts))}
        assert len(row["boxes"]) == len(parts) and (row["mask"] is None) == (not parts)
        levels = picture(folder / row["image"]).astype(int)
        marked = np.zeros(levels.shape, bool)
        if row["mask"]:
            marked = picture(folder / row["mask"]) > 0
        bright = levels > LEVEL - 8
        assert np.count_nonzero(bright & ~marked) <= 12 * len(parts)  # JPEG and half pixels
        assert np.count_nonzero(marked & ~(levels > LEVEL - 60)) <= 12 * len(parts)
        for box, (_, *numbers) in zip(row["boxes"], parts, strict=True):
            xs, ys = (np.array(numbers[axis::2], float) for axis in (0, 1))
            left, top = xs.min() + row["offset_x"], ys.min() + row["offset_y"]
            assert (box["x"], box["y"]) == (left, max(top, 0.0))
            assert box["w"] == np.ptp(xs) and box["y"] + box["h"] == ys.max()
            inside = marked[round(box["y"]) :, round(box["x"]) :]
            assert inside[: round(box["h"]), : round(box["w"])].any()
    card = read_json(folder / "card.json")
    assert card["rejected"] == {"not_in_protocol": 4}
    assert sum(card["archive"]["shapes"].values()) == sum(
        text.count(";") + 1 for text in told.values() if text
    )


def official(records: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"train": set(), "validate": set(), "test": set(), "": set()}
    for record in records:
        found[record.split].add(record.image_id)
    return found


def names(part: str) -> set[str]:
    return {f"{number:05d}" for number in PARTS[part]}


@pytest.mark.parametrize(("protocol", "train"), [("clean", 26), ("paper", 25), ("mgca", 28)])
def test_dev_is_the_test_split(tree: Path, protocol: str, train: int) -> None:
    listing = list_object_cxr(tree, protocol=protocol, seed=0)
    found = official(listing.records)
    assert found["test"] == names("dev") and found[""] == names("test")
    assert found["train"] | found["validate"] == names("train") and len(found["train"]) == train
    assert any("polygons" in note for note in listing.notes) == (protocol == "mgca")


def test_benchx_takes_the_three_sets_as_they_are(tree: Path) -> None:
    found = official(list_object_cxr(tree, protocol="benchx", seed=0).records)
    assert found == {
        "train": names("train"),
        "validate": names("dev"),
        "test": names("test"),
        "": set(),
    }


@pytest.mark.parametrize(
    ("annotation", "shapes"),
    [
        ("", ()),
        (" ; ", ()),
        ("0 1 2 30 40;", (Shape(kind="rectangle", points=(1.0, 2.0, 30.0, 40.0)),)),
        ("1 1.5 2 30 40", (Shape(kind="ellipse", points=(1.5, 2.0, 30.0, 40.0)),)),
        ("2 1 2 3 4 5 0", (Shape(kind="polygon", points=(1.0, 2.0, 3.0, 4.0, 5.0, 0.0)),)),
        ("0 1 2 30", None),
        ("0 1 2 30 40 50 60", None),
        ("2 1 2 3 4", None),
        ("2 1 2 3 4 5 6 7", None),
        ("3 1 2 3 4", None),
        ("1 2 x 3 4", None),
        ("1 2 nan 3 4", None),
        ("0 1 2 3 1e999", None),
    ],
)
def test_shapes_of_an_annotation(annotation: str, shapes: tuple[Shape, ...] | None) -> None:
    assert read_shapes(annotation) == shapes


def write_tables(folder: Path, **tables: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in tables.items():
        (folder / f"{part}.csv").write_text("\n".join(["image_name,annotation", *rows]))


def test_what_tables_and_folders_do_not_share(tmp_path: Path) -> None:
    write_tables(tmp_path / "x", train=["1.jpg,", "2.jpg,0 1 2", "3.jpg,0 1 2 9 9"], dev=["4.jpg,"])
    for name in ("train/1.jpg", "train/2.jpg", "dev/1.jpg", "dev/9.jpg", "test/5.jpg"):
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"")
    (tmp_path / "out.jpg").write_bytes(b"")
    (tmp_path / "x" / "dev" / "4.jpg").symlink_to(tmp_path / "out.jpg")
    records = list_object_cxr(tmp_path / "x", protocol="clean", seed=0).records
    verdicts = {(r.source, r.rejection.reason) for r in records if r.rejection}
    assert verdicts == {
        ("train/1.jpg", "duplicate_name"),
        ("train/2.jpg", "mask_unreadable"),
        ("train/3.jpg", "file_missing"),
        ("dev/4.jpg", "link_outside"),
        ("dev/9.jpg", "file_not_listed"),
        ("test/5.jpg", "unlabelled"),
    }


def test_tables_that_cannot_be(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.csv nor dev\.csv"):
        list_object_cxr(tmp_path, protocol="clean", seed=0)
    write_tables(tmp_path / "twice", train=["1.jpg,", "2.jpg,"], dev=["2.jpg,"])
    with pytest.raises(InputError, match="listed twice"):
        list_object_cxr(tmp_path / "twice", protocol="clean", seed=0)
    (tmp_path / "train.csv").write_text("name,annotation\n1.jpg,\n")
    with pytest.raises(InputError, match="no column named image_path"):
        list_object_cxr(tmp_path, protocol="clean", seed=0)
    with pytest.raises(UsageError, match="clean, paper, mgca"):
        list_object_cxr(tree, protocol="other", seed=0)


def test_packed_tables_and_a_damaged_annotation(tree: Path, tmp_path: Path) -> None:
    for part in ("train", "dev"):
        (tmp_path / "x" / part).mkdir(parents=True)
        data = (tree / f"{part}.csv").read_bytes().replace(b"00001.jpg,", b"00001.jpg,2 1 2 3;", 1)
        (tmp_path / "x" / f"{part}.csv.gz").write_bytes(gzip.compress(data))
        for path in (tree / part).iterdir():
            (tmp_path / "x" / part / path.name).hardlink_to(path)
    folder = prepare(tmp_path / "x", tmp_path)
    (left,) = read_rows(folder / "rejects.parquet", REJECTS)
    assert (left["image_id"], left["reason"]) == ("00001", "mask_unreadable")
    assert len(manifest(folder)) == 35
