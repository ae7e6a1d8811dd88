"""SIIM-ACR: stages, mirrors, masks end to end, damaged rows, protocols, and the real film."""

import csv
import gzip
import importlib.util
import io
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.siim import list_siim
from imitate.prep.commands import app
from imitate.prep.phantoms.siim import write_siim
from imitate.prep.pixels.mask import draw_runs, runs_of
from imitate.prep.pixels.png import encode_png
from imitate.prep.record import Runs
from imitate.schema import MANIFEST, REJECTS, SHARD_MANIFEST
from imitate.shards.audit.show import find_samples
from imitate.shards.plan import ShardOptions
from imitate.shards.verify import verify_path
from imitate.shards.write import write_shards

SIDE, PICTURES = 1024, 14


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["siim", source, "--root", root, "--size", 64, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def told(table: Path) -> dict[str, list[str]]:
    """Return the run lengths of each picture, read as any csv reader does."""
    rows = defaultdict(list)
    with table.open(newline="") as handle:
        _, *lines = csv.reader(handle)
    for image_id, runs in lines:
        rows[image_id] += [] if runs.strip() == "-1" else [runs]
    return rows


def region_of(parts: list[str]) -> np.ndarray:
    """Draw run lengths into a flat picture, column after column."""
    flat = np.zeros(SIDE * SIDE, bool)
    for part in parts:
        numbers, place = [int(number) for number in part.split()], 0
        for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
            flat[place + offset : place + offset + length] = True
            place += offset + length
    return flat.reshape(SIDE, SIDE).T


def picture(path: Path) -> np.ndarray:
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert array is not None
    return array


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siim") / "stage_1"
    write_siim(folder, pictures=PICTURES, seed=4, size=64)
    return folder


def test_the_header_and_the_negatives_begin_with_a_blank(tree: Path, tmp_path: Path) -> None:
    first, *rows = (tree / "train-rle.csv").read_text().splitlines()
    assert first == "ImageId, EncodedPixels"
    assert any(row.endswith(", -1") for row in rows)
    write_siim(tmp_path, pictures=4, seed=3, size=64, stage=2)
    first, *rows = (tmp_path / "stage_2_train.csv").read_text().splitlines()
    assert first == "ImageId,EncodedPixels"
    assert not any(", " in row for row in rows)


def test_equal_arguments_write_equal_bytes(tree: Path, tmp_path: Path) -> None:
    write_siim(tmp_path, pictures=PICTURES, seed=4, size=64)
    files = sorted(path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((tmp_path / file).read_bytes() == (tree / file).read_bytes() for file in files)


def test_labels_and_masks(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    regions, rows = told(tree / "train-rle.csv"), manifest(folder)
    assert rows.keys() == regions.keys() and len(rows) == PICTURES
    assert max(len(parts) for parts in regions.values()) > 1
    for image_id, row in rows.items():
        assert row["labels"] == {"Pneumothorax": float(bool(regions[image_id]))}
        assert row["study_id"] == Path(row["source"]).parts[1]
        assert (row["subject_id"], row["view_source"]) == (None, "header")
        assert (row["mask"] is None) == (not regions[image_id])
        if row["mask"]:
            assert row["mask"] == row["image"].replace("images/", "masks/")
            share = region_of(regions[image_id]).reshape(64, 16, 64, 16).mean(axis=(1, 3))
            mask = picture(folder / row["mask"])
            np.testing.assert_array_equal(mask > 0, share >= 0.5)
            shown = picture(folder / row["image"]).astype(float)
            assert shown[mask > 0].mean() < shown[mask == 0].mean() - 20  # air is dark
    left = read_rows(folder / "rejects.parquet", REJECTS)
    assert [row["reason"] for row in left] == ["unlabelled"]
    card = read_json(folder / "card.json")
    positive = sum(map(bool, regions.values()))
    assert card["archive"]["positive"] == card["counts"]["mask"]["marked"] == positive
    assert any("no patients" in note for note in card["notes"])


def test_masks_reach_the_shards_with_their_hashes(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    shards = write_shards(tmp_path, "siim", ShardOptions()).path
    rows = {row["key"]: row for row in manifest(folder).values()}
    for row in read_rows(shards / "manifest.parquet", SHARD_MANIFEST):
        told = rows[row["key"]]["mask_blake3"]
        assert row["mask_blake3"] == (told and bytes.fromhex(told)[:16])
    masked = next(row for row in rows.values() if row["mask"])
    find_samples(tmp_path, masked["key"], mask=tmp_path / "mask.png")
    assert (tmp_path / "mask.png").read_bytes() == (folder / masked["mask"]).read_bytes()
    assert verify_path(folder, deep=True).problems == verify_path(shards).problems == []
    (folder / masked["mask"]).write_bytes(encode_png(np.zeros((64, 64), np.uint8)))
    assert [p.key for p in verify_path(folder).problems] == [masked["key"]]


def test_stage_2_and_a_flat_folder_of_png_files(tmp_path: Path) -> None:
    write_siim(tmp_path / "dicom", pictures=10, seed=4, size=64, stage=2)
    table = tmp_path / "dicom" / "stage_2_train.csv"
    (tmp_path / "png").mkdir()
    shutil.copy(table, tmp_path / "png")
    for image_id in told(table):
        (tmp_path / "png" / f"{image_id}.png").write_bytes(b"")
    listings = [list_siim(tmp_path / name, protocol="clean", seed=0) for name in ("dicom", "png")]
    known = [{r.image_id: r for r in x.records if r.rejection is None} for x in listings]
    assert known[0].keys() == known[1].keys() == told(table).keys()
    for image_id, record in known[0].items():
        twin = known[1][image_id]
        assert (record.split, record.mask) == (twin.split, twin.mask)
        assert (record.view_source, twin.view_source) == ("header", "none")


@pytest.mark.parametrize("runs", ["7", "5 6 7", "1048570 9", "10 0", "", "five"])
def test_damaged_rows_are_rejects(tree: Path, tmp_path: Path, runs: str) -> None:
    source = shutil.copytree(tree, tmp_path / "tree")
    victim, *_ = told(source / "train-rle.csv")
    with (source / "train-rle.csv").open("a") as handle:
        handle.write(f"{victim}, {runs}\n")
    folder = prepare(source, tmp_path)
    left = {row["reason"]: row for row in read_rows(folder / "rejects.parquet", REJECTS)}
    assert left["mask_unreadable"]["image_id"] == victim
    assert victim not in manifest(folder)
    assert not list(folder.glob(f"*/*/{victim.replace('.', '-')}.png"))


def test_a_picture_of_another_size_has_no_mask(tree: Path, tmp_path: Path) -> None:
    regions = told(tree / "train-rle.csv")
    positive = next(image_id for image_id, parts in regions.items() if parts)
    negative = next(image_id for image_id, parts in regions.items() if not parts)
    shutil.copy(tree / "train-rle.csv", tmp_path)
    for image_id in (positive, negative):
        levels = np.arange(512 * 512, dtype=np.uint32).reshape(512, 512).astype(np.uint8)
        (tmp_path / f"{image_id}.png").write_bytes(encode_png(levels))
    folder = prepare(tmp_path, tmp_path / "root", "--max-failures", "50%")
    left = {row["image_id"]: row for row in read_rows(folder / "rejects.parquet", REJECTS)}
    assert (left[positive]["reason"], left[positive]["detail"]) == (
        "mask_unreadable",
        "drawn on 1024 x 1024 pixels",
    )
    assert manifest(folder).keys() == {negative}
    assert Counter(row["reason"] for row in left.values())["file_missing"] == PICTURES - 2


def write_mirror(folder: Path) -> dict[str, str]:
    """Write the mirror of PNG pictures in small; return its file names and the ids."""
    (folder / "png_images").mkdir(parents=True)
    (folder / "png_masks").mkdir()
    names = {}
    for part, numbers in (("train", range(6)), ("test", range(6, 9))):
        lines = ["new_filename,ImageId,has_pneumo"]
        for number in numbers:
            positive = number % 2
            name, image_id = f"{number}_{part}_{positive}_", f"1.2.276.{number}"
            rng = np.random.default_rng(number)
            levels = rng.integers(0, 255, (48, 48)).astype(np.uint8)
            mask = np.zeros((48, 48), np.uint8)
            mask[8 : 8 + 24 * positive, 12:36] = 255
            (folder / "png_images" / f"{name}.png").write_bytes(encode_png(levels))
            (folder / "png_masks" / f"{name}.png").write_bytes(encode_png(mask))
            lines.append(f"{name}.png,{image_id},{positive}")
            names[name] = image_id
        (folder / f"stage_1_{part}_images.csv").write_text("\n".join(lines))
    return names


def test_the_mirror_of_png_pictures_and_masks(tmp_path: Path) -> None:
    names = write_mirror(tmp_path / "mirror")
    (tmp_path / "mirror" / "png_masks" / "3_train_1_.png").unlink()
    folder = prepare(tmp_path / "mirror", tmp_path, "--max-failures", "50%")
    rows = manifest(folder)
    assert rows.keys() == set(names.values()) - {"1.2.276.3"}
    mask = picture(folder / rows["1.2.276.1"]["mask"])
    assert rows["1.2.276.1"]["height"] == 64 and mask.sum() == 255 * 32 * 32
    assert rows["1.2.276.2"]["mask"] is None
    (left,) = read_rows(folder / "rejects.parquet", REJECTS)
    assert (left["image_id"], left["reason"]) == ("1.2.276.3", "mask_unreadable")


def test_split_lists_name_the_files_of_the_mirror(tmp_path: Path) -> None:
    names = write_mirror(tmp_path / "mirror")
    (tmp_path / "lists").mkdir()
    parts = {"train": list(names)[:4], "val": list(names)[4:5], "test": list(names)[6:]}
    for part, listed in parts.items():
        (tmp_path / "lists" / f"{part}.txt").write_text("\n".join(listed))
    more = {"protocol": "benchx", "seed": 0, "split_lists": tmp_path / "lists"}
    records = list_siim(tmp_path / "mirror", **more).records
    splits = {record.image_id: record.split for record in records if not record.rejection}
    assert splits == {
        names[name]: {"val": "validate"}.get(part, part)
        for part, listed in parts.items()
        for name in listed
    }
    (left,) = [record for record in records if record.rejection]
    assert left.rejection is not None
    assert (left.image_id, left.rejection.reason) == ("1.2.276.5", "not_in_protocol")
    with pytest.raises(InputError, match="lists"):
        list_siim(tmp_path / "mirror", protocol="benchx", seed=0)


def test_rows_that_are_split_apart_are_marked(tmp_path: Path) -> None:
    """Under mgca rows are split, so a picture with several rows may also be trained on."""
    region = runs_of(np.eye(SIDE, dtype=bool))
    rows = [f"a{number // 2}, {region}" for number in range(80)]
    (tmp_path / "train-rle.csv").write_text("\n".join(["ImageId, EncodedPixels", *rows]))
    for number in range(40):
        (tmp_path / f"a{number}.dcm").write_bytes(b"")
    records = list_siim(tmp_path, protocol="mgca", seed=0).records
    marked = {r.image_id: r.split for r in records if r.metadata.get("also") == "train"}
    assert 3 < len(marked) < 40 and "train" not in marked.values()
    assert not any(r.metadata for r in list_siim(tmp_path, protocol="paper", seed=0).records)


def test_files_and_rows_that_do_not_meet(tree: Path, tmp_path: Path) -> None:
    source = shutil.copytree(tree, tmp_path / "tree")
    first, second, third, *_ = sorted(source.glob("dicom-images-train/*/*/*.dcm"))
    first.rename(first.with_name("stranger.dcm"))
    shutil.copy(second, source / second.name)
    outside = third.rename(tmp_path / third.name)
    third.symlink_to(outside)
    records = list_siim(source, protocol="clean", seed=0).records
    verdicts = Counter((r.image_id, r.rejection.reason) for r in records if r.rejection)
    assert verdicts == {
        ("stranger", "file_not_listed"): 1,
        (first.stem, "file_missing"): 1,
        (second.stem, "duplicate_name"): 1,
        (third.stem, "link_outside"): 1,
        (next(source.glob("dicom-images-test/*/*/*")).stem, "unlabelled"): 1,
    }


def test_tables_that_cannot_be(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage_2_train\.csv nor train-rle\.csv"):
        list_siim(tmp_path, protocol="clean", seed=0)
    (tmp_path / "train-rle.csv").write_text("ImageId,Pixels\na,-1\n")
    with pytest.raises(InputError, match="no column named EncodedPixels"):
        list_siim(tmp_path, protocol="clean", seed=0)
    with pytest.raises(UsageError, match="clean, paper, mgca"):
        list_siim(tree, protocol="other", seed=0)
    write_mirror(tmp_path / "mirror")
    table = tmp_path / "mirror" / "stage_1_test_images.csv"
    table.write_text(table.read_text().replace(",1\n", ",3\n"))
    with pytest.raises(InputError, match="neither 0 nor 1"):
        list_siim(tmp_path / "mirror", protocol="clean", seed=0)


@pytest.mark.real
def test_the_real_film(shared_data: Path, tmp_path: Path) -> None:
    film = shared_data / "dicom" / "chest" / "siim_cr_jpeg_baseline.dcm"
    image_id = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
    place = tmp_path / "siim" / "dicom-images-train" / "1.2.276.1" / "1.2.276.2"
    place.mkdir(parents=True)
    shutil.copy(film, place / f"{image_id}.dcm")
    region = np.zeros((SIDE, SIDE), bool)
    region[200:400, 100:260] = True
    table = f"ImageId, EncodedPixels\n{image_id}, {runs_of(region)}\n"
    (tmp_path / "siim" / "train-rle.csv").write_text(table)
    folder = prepare(tmp_path / "siim", tmp_path)
    (row,) = manifest(folder).values()
    assert (row["image_id"], row["study_id"], row["view"]) == (image_id, "1.2.276.1", "PA")
    assert (row["source_height"], row["source_width"]) == (SIDE, SIDE)
    share = region.reshape(64, 16, 64, 16).mean(axis=(1, 3))
    np.testing.assert_array_equal(picture(folder / row["mask"]) > 0, share >= 0.5)


@pytest.mark.real
def test_every_row_of_the_published_table(tmp_path: Path) -> None:
    """The table travels in the wheel of torchxrayvision 1.5.7; its terms forbid a copy here."""
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision is not installed, whose wheel holds the published table")
    table = Path(package.origin).parent / "data" / "siim-pneumothorax-train-rle.csv.gz"
    (tmp_path / "train-rle.csv").write_bytes(gzip.decompress(table.read_bytes()))
    with io.TextIOWrapper(gzip.open(table)) as text:
        ids = {row[0] for row in list(csv.reader(text))[1:]}
    for image_id in ids:
        (tmp_path / f"{image_id}.dcm").touch()
    records = list_siim(tmp_path, protocol="paper", seed=0).records
    splits = Counter(record.split for record in records)
    assert splits == {"train": 8433, "validate": 1807, "test": 1807}
    masks = [record.mask for record in records if isinstance(record.mask, Runs)]
    assert len(masks) == 2669
    assert all(draw_runs(mask).any() for mask in masks)
