"""Repair: damaged shards get their bytes back, whole ones are not touched."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imitate.contract import Folders, InputError, UsageError
from imitate.files import read_json, read_rows, write_json, write_table
from imitate.schema import MANIFEST, SHARD_MANIFEST
from imitate.shards.audit.repair import verify_and_repair
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    """A whole shard set beside its prepared set."""
    shutil.copytree(originals / "short", tmp_path, dirs_exist_ok=True)
    return Folders(tmp_path).shards("phantom")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("dataset.json", ".lock")
    }


def tars(folder: Path) -> list[Path]:
    return sorted((folder / "shards").iterdir())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def stale_offset(folder: Path) -> None:
    path = folder / "index" / f"{tars(folder)[1].name.rpartition('-')[0]}.parquet"
    rows = read_rows(path, SHARD_MANIFEST)
    rows[4]["offset"] += 512
    write_table(path, SHARD_MANIFEST, rows)


def wrong_length(folder: Path) -> None:
    path = folder / "index" / f"{tars(folder)[1].name.rpartition('-')[0]}.parquet"
    rows = read_rows(path, SHARD_MANIFEST)
    rows[4]["png_len"] += 1
    write_table(path, SHARD_MANIFEST, rows)


def swap(folder: Path) -> None:
    one, two, *_ = tars(folder)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


@pytest.mark.parametrize(
    ("damage", "shards"),
    [
        (lambda folder: flip(tars(folder)[2]), 1),
        (lambda folder: tars(folder)[0].unlink(), 1),
        (lambda folder: tars(folder)[0].write_bytes(tars(folder)[0].read_bytes()[:900]), 1),
        (swap, 2),
        (stale_offset, 1),
        (wrong_length, 1),
        (lambda folder: (folder / "manifest.parquet").unlink(), 0),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), 0),
        (lambda folder: shutil.copy(tars(folder)[0], folder / "shards" / "train-ff.tar"), 0),
    ],
)
def test_only_what_is_damaged_is_made_again(
    folder: Path, damage: Callable[[Path], Any], shards: int
) -> None:
    before, card = files_of(folder), read_json(folder / "dataset.json")
    times = {path: path.stat().st_mtime_ns for path in tars(folder)}
    damage(folder)
    done = verify_and_repair(folder)
    assert done.before.problems and done.left == []
    assert len(done.shards) == shards
    assert files_of(folder) == before
    assert read_json(folder / "dataset.json")["digest"] == card["digest"]
    untouched = [path for path in tars(folder) if path.name not in done.shards]
    assert all(path.stat().st_mtime_ns == times[path] for path in untouched)


def test_a_whole_set_is_left_alone(folder: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = verify_and_repair(folder)
    assert (done.before.problems, done.shards, done.left) == ([], (), ())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_a_damaged_or_changed_prepared_set_repairs_nothing(folder: Path, tmp_path: Path) -> None:
    flip(tars(folder)[0])
    before = files_of(folder)
    prepared = Folders(tmp_path).prepared("phantom")
    picture = sorted((prepared / "images").glob("*.png"))[0]
    whole = picture.read_bytes()
    picture.unlink()
    with pytest.raises(InputError, match="damaged as well"):
        verify_and_repair(folder)
    picture.write_bytes(whole)
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    write_table(prepared / "manifest.parquet", MANIFEST, rows[1:])
    with pytest.raises(InputError, match="no longer the one"):
        verify_and_repair(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match="what to repair from"):
        verify_and_repair(folder)
    assert files_of(folder) == before


def test_samples_left_out_from_the_beginning_do_not_hinder(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    sorted((prepared / "images").glob("*.png"))[0].unlink()
    report = write_shards(tmp_path, "phantom", ShardOptions(samples=5))
    assert report.rejected
    flip(tars(report.path)[0])
    done = verify_and_repair(report.path)
    assert done.left == []
    assert read_json(report.path / "dataset.json")["digest"] == report.digest


def test_a_joined_set_is_repaired_from_all_its_sets(make_set: Any, tmp_path: Path) -> None:
    make_set("one", n=12)
    prepared = make_set("two", n=12)
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    write_table(prepared / "manifest.parquet", MANIFEST, [r | {"dataset": "b"} for r in rows])
    card = read_json(prepared / "card.json")
    del card["files"]
    write_json(prepared / "card.json", card | {"files": {}})
    report = write_shards(tmp_path, "joined", ShardOptions(samples=5), sets=["one", "two"])
    before = files_of(report.path)
    flip(tars(report.path)[1])
    done = verify_and_repair(report.path)
    assert done.left == [] and len(done.shards) == 1
    assert files_of(report.path) == before


def test_only_shards_are_repaired(make_set: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        verify_and_repair(make_set())
    with pytest.raises(UsageError):
        verify_and_repair(tmp_path / "runs" / "x")
