"""Writing: the same bytes whatever the workers, interruptions and repairs."""

import os
import random
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from imitate.contract import Folders, InputError
from imitate.files import (
    blake3_file,
    blake3_hex,
    read_json,
    read_rows,
    write_bytes,
    write_json,
    write_table,
)
from imitate.options import FaultBudget
from imitate.schema import MANIFEST, REJECTS, SHARD_MANIFEST, SHARDS
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import ShardReport, write_shards

SMALL = ShardOptions(samples=5)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file that must be byte-identical, by its path below the folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("dataset.json", ".lock")
    }


def stable_card(folder: Path) -> dict[str, Any]:
    card = read_json(folder / "dataset.json")
    del card["run"]
    return card


def build(root: Path, **more: Any) -> ShardReport:
    return write_shards(root, "phantom", more.pop("options", SMALL), **more)


def test_one_and_two_workers_write_the_same_bytes(make_set: Any, tmp_path: Path) -> None:
    make_set(root=tmp_path / "a")
    make_set(root=tmp_path / "b")
    one = build(tmp_path / "a")
    two = build(tmp_path / "b", workers=2)
    assert files_of(one.path) == files_of(two.path)
    assert stable_card(one.path) == stable_card(two.path)
    assert one.digest == two.digest


def test_the_set_is_what_the_contract_says(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    report = build(tmp_path)
    before = {row["key"]: row for row in read_rows(prepared / "manifest.parquet", MANIFEST)}
    rows = read_rows(report.path / "manifest.parquet", SHARD_MANIFEST)
    shards = read_rows(report.path / "shards.parquet", SHARDS)
    assert [row["ordinal"] for row in rows] == list(range(40))
    assert {row["key"] for row in rows} == before.keys()
    assert read_rows(report.path / "rejects.parquet", REJECTS) == []
    index = [
        row
        for shard in shards
        for row in read_rows(
            report.path / "index" / f"{shard['name'].rpartition('-')[0]}.parquet", SHARD_MANIFEST
        )
    ]
    assert index == rows
    for row in rows:
        old = before[row["key"]]
        same = ("split", "subject_id", "study_id", "view", "labels", "width", "bits", "source")
        assert {name: row[name] for name in same} == {name: old[name] for name in same}
        assert row["png_blake3"] == bytes.fromhex(old["png_blake3"])[:16]
        assert (row["mask_len"] is None) == (old["mask"] is None)
        assert row["n_impression"] == 3
    for shard in shards:
        path = report.path / "shards" / shard["name"]
        assert shard["blake3"] == blake3_file(path)
        assert shard["name"].endswith(f"-{shard['blake3'][:12]}.tar")
        assert shard["bytes"] == path.stat().st_size
        assert shard["n_samples"] <= 5
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=report.path, capture_output=True)
    assert sums.returncode == 0 and sums.stdout.count(b": OK") == len(shards)
    assert not list(report.path.rglob(".partial-*")) and not (report.path / ".parts").exists()


def test_members_are_in_order_and_unchanged(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set(long=True)
    report = build(tmp_path)
    rows = read_rows(report.path / "manifest.parquet", SHARD_MANIFEST)
    before = {row["key"]: row for row in read_rows(prepared / "manifest.parquet", MANIFEST)}
    for name in {row["shard"] for row in rows}:
        mine = [row for row in rows if row["shard"] == name]
        expected = [
            f"{row['key']}.{kind}"
            for row in mine
            for kind in ("json", "mask.png", "png")
            if kind != "mask.png" or row["mask_len"]
        ]
        with tarfile.open(report.path / "shards" / name) as tar:
            assert tar.getnames() == expected
            for row in mine:
                old = before[row["key"]]
                for kind, path in (("png", old["image"]), ("mask.png", old["mask"])):
                    if path:
                        member = tar.extractfile(f"{row['key']}.{kind}")
                        assert member and member.read() == (prepared / path).read_bytes()


def test_a_second_run_finds_the_set_up_to_date(make_set: Any, tmp_path: Path) -> None:
    make_set()
    assert not build(tmp_path).fresh
    folder = Folders(tmp_path).shards("phantom")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = build(tmp_path)
    assert again.fresh and again.samples == 40
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_finished_shards_are_not_written_again(make_set: Any, tmp_path: Path) -> None:
    make_set()
    report = build(tmp_path)
    tars = sorted((report.path / "shards").iterdir())
    before = files_of(report.path)
    times = {path: path.stat().st_mtime_ns for path in tars}
    (report.path / "dataset.json").unlink()
    damaged = bytearray(tars[0].read_bytes())
    damaged[700] ^= 1
    tars[0].write_bytes(damaged)
    (report.path / "index" / tars[1].name).with_name(
        f"{tars[1].name.rpartition('-')[0]}.parquet"
    ).unlink()
    assert not build(tmp_path).fresh
    assert files_of(report.path) == before
    changed = {path for path in tars if path.stat().st_mtime_ns != times[path]}
    assert changed == set(tars[:2])


def test_a_changed_set_is_rebuilt_and_nothing_old_stays(make_set: Any, tmp_path: Path) -> None:
    make_set()
    first = build(tmp_path)
    write_bytes(first.path / "text" / "cache.npy", b"of the old texts")
    make_set(n=33)
    second = build(tmp_path)
    assert not second.fresh
    make_set(n=33, root=tmp_path / "other")
    clean = build(tmp_path / "other")
    assert first.digest != second.digest == clean.digest
    assert files_of(second.path) == files_of(clean.path)


def test_other_options_rebuild_and_come_back(make_set: Any, tmp_path: Path) -> None:
    make_set()
    first = build(tmp_path)
    before = files_of(first.path)
    other = build(tmp_path, options=ShardOptions(samples=7, seed=4))
    assert not other.fresh and other.digest != first.digest
    assert build(tmp_path).digest == first.digest
    assert files_of(first.path) == before


def test_a_changed_mask_is_found_when_shards_are_rebuilt(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    report = build(tmp_path)
    mask = sorted(prepared.glob("images/*.mask.png"))[0]
    mask.write_bytes(mask.read_bytes() + b"x")
    (report.path / "dataset.json").unlink()
    again = build(tmp_path)
    assert again.digest != report.digest
    (left,) = read_rows(again.path / "rejects.parquet", REJECTS)
    assert (left["reason"], left["detail"]) == ("sample_damaged", "the mask no longer has its hash")


def damage_two(prepared: Path) -> list[str]:
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    (prepared / rows[4]["image"]).unlink()
    path = prepared / rows[9]["image"]
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX", 1))
    return [rows[4]["image_id"], rows[9]["image_id"]]


def test_damaged_pictures_are_rejects_and_a_repair_converges(make_set: Any, tmp_path: Path) -> None:
    make_set(root=tmp_path / "whole")
    whole = build(tmp_path / "whole")
    prepared = make_set()
    lost = damage_two(prepared)
    report = build(tmp_path)
    rejects = read_rows(report.path / "rejects.parquet", REJECTS)
    rows = read_rows(report.path / "manifest.parquet", SHARD_MANIFEST)
    assert sorted(row["image_id"] for row in rejects) == lost
    assert {(row["stage"], row["reason"]) for row in rejects} == {("shard", "sample_damaged")}
    assert [row["ordinal"] for row in rows] == list(range(38))
    assert report.samples == 38 and report.rejected == {"sample_damaged": 2}
    assert ShardSet.open(report.path).n == 38
    assert build(tmp_path, budget=FaultBudget(number=2)).fresh
    assert not build(tmp_path).fresh  # more than the default allows: looked at once more
    make_set()
    assert build(tmp_path).digest == whole.digest
    assert files_of(report.path) == files_of(whole.path)


def test_a_set_without_one_whole_picture_is_an_input_error(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set(n=6)
    for picture in (prepared / "images").iterdir():
        picture.write_bytes(b"no picture")
    with pytest.raises(InputError, match="every picture"):
        build(tmp_path)


def test_a_shard_of_damaged_samples_only_is_left_out(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    for row in read_rows(prepared / "manifest.parquet", MANIFEST):
        if row["split"] == "validate":
            (prepared / row["image"]).unlink()
    report = build(tmp_path)
    shards = ShardSet.open(report.path)
    assert report.samples == 32
    assert shards.rows("validate").tolist() == []
    assert not list((report.path / "shards").glob("validate-*"))


def test_credentialed_shards_are_private(make_set: Any, tmp_path: Path) -> None:
    make_set(access="credentialed")
    report = build(tmp_path)
    assert ShardSet.open(report.path).access == "credentialed"
    for path in [report.path, *report.path.rglob("*")]:
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path


def test_equal_pictures_of_other_texts_have_another_identity(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    first = build(tmp_path)
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    rows[7]["impression"] = "Another impression."
    write_table(prepared / "manifest.parquet", MANIFEST, rows)
    assert build(tmp_path).digest != first.digest


def test_the_manifest_gives_typed_columns(make_set: Any, tmp_path: Path) -> None:
    make_set()
    shards = ShardSet.open(build(tmp_path).path)
    splits = shards.column("split")
    for split in ("train", "validate", "test"):
        assert [splits[i] for i in shards.rows(split)] == [split] * len(shards.rows(split))
    assert sum(len(shards.rows(split)) for split in ("train", "validate", "test")) == shards.n
    keys = shards.column("key")
    rows = read_rows(shards.folder / "manifest.parquet", SHARD_MANIFEST)
    masks, hashes = shards.column("mask_len"), shards.column("mask_blake3")
    for place, row in enumerate(rows):
        assert keys[place] == row["key"]
        assert masks[place] == (-1 if row["mask_len"] is None else row["mask_len"])
        assert bytes(hashes[place]) == (row["mask_blake3"] or bytes(16))
        assert shards.column("labels")[place] == row["labels"]


def test_opening_finds_what_is_wrong(make_set: Any, tmp_path: Path) -> None:
    make_set()
    folder = build(tmp_path).path

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            ShardSet.open(folder)

    tar = sorted((folder / "shards").iterdir())[0]
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-100])
    refused("instead of")
    tar.unlink()
    refused("shard is missing")
    tar.write_bytes(whole)
    card = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", card | {"digest": blake3_hex(b"")})
    refused("digest")
    write_json(folder / "dataset.json", card | {"schema_version": 99})
    refused("another version")
    write_json(folder / "dataset.json", card)
    write_table(folder / "manifest.parquet", SHARD_MANIFEST, [])
    refused("not the one the card names")
    (folder / "dataset.json").unlink()
    refused("not a finished shard set")


ARGUMENTS = ["shard", "phantom", "--shard-samples", "2", "--quiet"]


def killed(
    program: list[str], root: Path, *, files: int, wait: float, workers: int, alone: bool = False
) -> bool:
    """Kill the program once `files` index files are there, and tell whether it was at work.

    Its workers are killed with it, unless the program is to die `alone`.
    """
    folder = Folders(root).shards("phantom") / "index"
    process = subprocess.Popen(
        [*program, *ARGUMENTS, "--root", str(root), "-j", str(workers)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list(folder.glob("[!.]*"))) < files:
        time.sleep(0.001)
    time.sleep(wait)
    working = process.poll() is None
    if working and alone:
        process.kill()
    elif working:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return working


def converges(program: list[str], root: Path, workers: int) -> dict[str, bytes]:
    done = subprocess.run(
        [*program, *ARGUMENTS, "--root", str(root), "-j", str(workers)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return files_of(Folders(root).shards("phantom"))


def test_killed_anywhere_the_next_run_gives_the_same_bytes(
    make_set: Any, tmp_path: Path, program: list[str]
) -> None:
    make_set(root=tmp_path / "whole")
    whole = files_of(build(tmp_path / "whole", options=ShardOptions(samples=2)).path)
    make_set()
    draw = random.Random(0)
    # early, in the middle, and around the commit, when every index file is there
    hits = [
        killed(program, tmp_path, files=files, wait=draw.random() * 0.01, workers=1)
        for files in (1, 11, len([name for name in whole if name.startswith("index/")]))
    ]
    assert hits[:2] == [True, True]
    assert converges(program, tmp_path, workers=1) == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_kills(make_set: Any, tmp_path: Path, program: list[str], workers: int) -> None:
    make_set(root=tmp_path / "whole")
    whole = files_of(build(tmp_path / "whole", options=ShardOptions(samples=2)).path)
    make_set()
    draw = random.Random(workers)
    hits = 0
    for _ in range(20):
        files, wait, alone = draw.randrange(22), draw.random() * 0.1, draw.random() < 0.3
        hits += killed(program, tmp_path, files=files, wait=wait, workers=workers, alone=alone)
        if draw.random() < 0.4:
            assert converges(program, tmp_path, workers) == whole
            shutil.rmtree(Folders(tmp_path).shards("phantom"))
    assert hits >= 10
    assert converges(program, tmp_path, workers) == whole
