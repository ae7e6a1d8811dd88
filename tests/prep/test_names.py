"""Names of an unknown archive: hashes with a key of the user's own, and one private file of who."""

import csv
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from imitate.contract import InputError
from imitate.files import read_rows
from imitate.prep.commands import app
from imitate.prep.names import name_key
from imitate.schema import MANIFEST, REJECTS, SOURCES

SECRET = "Miller-1961-04-01"


def write_archive(folder: Path) -> Path:
    """A table whose ids and paths are names of people, with one picture that is missing."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(5):
        name = f"{SECRET}-{number}"
        if number != 4:
            cv2.imwrite(str(folder / f"{name}.png"), rng.integers(0, 255, (40, 40), np.uint8))
        text = f"Phantom lungs number {number} are clear."
        rows.append((f"{name}.png", text, f"{SECRET} {number // 2}", f"{SECRET} study {number}"))
    with (folder / "archive.csv").open("w", newline="") as handle:
        columns = ("image", "findings", "subject_id", "study_id")
        csv.writer(handle).writerows([columns, *rows])
    return folder / "archive.csv"


def prepare(table: Path, root: Path, *more: str) -> Path:
    line = ["table", str(table), "--root", str(root), "--size", "32", "--quiet", *more]
    app(line, standalone_mode=False)
    return root / "data" / "prepared" / "archive"


def test_no_id_and_no_path_is_left_but_in_the_map(tmp_path: Path) -> None:
    folder = prepare(write_archive(tmp_path / "in"), tmp_path / "out")
    with_names = {
        path.name
        for path in folder.rglob("*")
        if SECRET in path.name or (path.is_file() and SECRET.encode() in path.read_bytes())
    }
    assert with_names == {"names.csv"}
    for name, table in (("manifest", MANIFEST), ("rejects", REJECTS), ("sources", SOURCES)):
        assert SECRET not in str(read_rows(folder / f"{name}.parquet", table))  # else compressed
    assert (folder / "names.csv").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "out" / "data" / "names.key").stat().st_mode & 0o777 == 0o600


def test_the_map_leads_back_and_patients_stay_together(tmp_path: Path) -> None:
    folder = prepare(write_archive(tmp_path / "in"), tmp_path / "out")
    rows = {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}
    with (folder / "names.csv").open(newline="") as handle:
        there = {row["image_id"]: row for row in csv.DictReader(handle)}
    assert len(rows) == 4 and len(there) == 5
    subjects: dict[str, set[str]] = {}
    for image_id, row in rows.items():
        assert re.fullmatch(r"[0-9a-f]{16}", image_id) and row["source"] == image_id
        assert row["findings"].endswith(f"{there[image_id]['source'][-5]} are clear.")
        subjects.setdefault(there[image_id]["subject_id_there"], set()).add(row["subject_id"])
    assert sorted(map(len, subjects.values())) == [1, 1]
    assert len(set.union(*subjects.values())) == 2


def test_one_key_gives_the_same_names_and_another_key_others(tmp_path: Path) -> None:
    table = write_archive(tmp_path / "in")
    first = prepare(table, tmp_path / "a")
    again = prepare(table, tmp_path / "a", "--name", "other").parent / "other"
    elsewhere = prepare(table, tmp_path / "b")
    ids = [
        {row["image_id"] for row in read_rows(folder / "manifest.parquet", MANIFEST)}
        for folder in (first, again, elsewhere)
    ]
    assert ids[0] == ids[1]
    assert not ids[0] & ids[2]


def test_ids_stay_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = prepare(write_archive(tmp_path / "in"), tmp_path / "out", "--key", "path")
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    assert {row["image_id"] for row in rows} == {f"{SECRET}-{number}" for number in range(4)}
    assert not (folder / "names.csv").exists()


def test_a_damaged_key_is_refused_not_replaced(tmp_path: Path) -> None:
    key = name_key(tmp_path)
    assert name_key(tmp_path) == key and len(key) == 32
    (tmp_path / "names.key").write_text("not a key")
    with pytest.raises(InputError, match=r"names\.key"):
        name_key(tmp_path)
