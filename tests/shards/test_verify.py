"""The damage drill: whatever happens to a set, verify names the samples and nothing else."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitate.contract import Folders, InputError, UsageError
from imitate.files import blake3_file, blake3_hex, read_json, read_rows, write_json, write_table
from imitate.schema import MANIFEST, REJECTS, SHARD_MANIFEST, SHARDS
from imitate.shards.manifest import ShardSet, sha256sums
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import SampleDamaged, ShardReader
from imitate.shards.verify import verify_path
from imitate.shards.walk import Problem
from imitate.shards.write import write_shards

REJECT = {
    **dict.fromkeys(("source", "image_id", "study_id", "detail"), "x"),
    "stage": "pixels",
    "reason": "truncated",
}
Found = dict[str, set[str]]  # kind of problem -> keys


class Drill:
    """A whole shard set, and what is needed to damage it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set = ShardSet.open(folder)
        self.rows = read_rows(folder / "manifest.parquet", SHARD_MANIFEST)
        sizes = Counter(row["shard"] for row in self.rows if row["split"] == "train")
        self.name = max(sizes, key=lambda name: (sizes[name], name))
        self.tar = folder / "shards" / self.name
        self.mine = [row for row in self.rows if row["shard"] == self.name]

    def edit(self, change: Callable[[bytearray], Any]) -> None:
        data = bytearray(self.tar.read_bytes())
        change(data)
        self.tar.write_bytes(data)

    def keys(self, rows: list[dict[str, Any]]) -> set[str]:
        return {row["key"] for row in rows}

    def problems(self) -> tuple[Found, set[str]]:
        """Keys by kind of problem, and the files that are named without a key."""
        found: Found = {}
        files = set()
        for problem in verify_path(self.folder).problems:
            if problem.key is None:
                files.add(problem.file)
            else:
                found.setdefault(problem.problem, set()).add(problem.key)
        return found, files

    def unreadable(self) -> set[str]:
        """Keys that the reader refuses, of all samples, pictures and texts."""
        reader = ShardReader(self.set)
        bad = set()
        for ordinal in range(self.set.n):
            try:
                reader.images(np.array([ordinal]))
                reader.texts(np.array([ordinal]))
            except SampleDamaged as damage:
                bad.add(damage.key)
        return bad


@pytest.fixture(params=["short", "long"])
def drill(request: pytest.FixtureRequest, originals: Path, tmp_path: Path) -> Drill:
    shutil.copytree(originals / request.param, tmp_path, dirs_exist_ok=True)
    return Drill(Folders(tmp_path).shards("phantom"))


def test_a_whole_set_is_sound(drill: Drill) -> None:
    verdict = verify_path(drill.folder, deep=True)
    assert (verdict.kind, verdict.samples, verdict.problems) == ("shards", 40, [])


@pytest.mark.parametrize("kind", ["json", "png"])
def test_one_bit_in_a_member(drill: Drill, kind: str) -> None:
    row = drill.mine[3]
    place = row["offset"] + row[f"{kind}_off"] + 40
    drill.edit(lambda data: data.__setitem__(place, data[place] ^ 1))
    assert drill.problems() == ({"damaged": {row["key"]}}, {f"shards/{drill.name}"})
    assert drill.unreadable() == {row["key"]}


def test_one_bit_in_a_header(drill: Drill) -> None:
    for row in drill.mine:
        place = row["offset"] + 5
        drill.edit(lambda data, place=place: data.__setitem__(place, data[place] ^ 1))
        assert drill.problems() == ({"damaged": {row["key"]}}, {f"shards/{drill.name}"})
        assert drill.unreadable() == set()  # the reader needs no header
        drill.edit(lambda data, place=place: data.__setitem__(place, data[place] ^ 1))


def test_zeros_over_a_header(drill: Drill) -> None:
    row = drill.mine[3]
    zeros = bytes(512)
    drill.edit(lambda data: data.__setitem__(slice(row["offset"], row["offset"] + 512), zeros))
    assert drill.problems() == ({"damaged": {row["key"]}}, {f"shards/{drill.name}"})


def test_one_bit_in_the_padding(drill: Drill) -> None:
    row = drill.mine[2]
    place = row["offset"] + row["png_off"] + row["png_len"]
    drill.edit(lambda data: data.__setitem__(place, 1))
    assert drill.problems() == ({"damaged": {row["key"]}}, {f"shards/{drill.name}"})


def test_a_cut_shard(drill: Drill) -> None:
    row = drill.mine[3]
    drill.edit(lambda data: data.__delitem__(slice(row["offset"] + row["png_off"] + 9, None)))
    found, files = drill.problems()
    assert found == {"damaged": {row["key"]}, "missing": drill.keys(drill.mine[4:])}
    assert files == {f"shards/{drill.name}"}
    assert drill.unreadable() == drill.keys(drill.mine[3:])


def test_a_deleted_shard(drill: Drill) -> None:
    drill.tar.unlink()
    assert drill.problems() == ({"missing": drill.keys(drill.mine)}, {f"shards/{drill.name}"})
    assert drill.unreadable() == drill.keys(drill.mine)


def test_a_doubled_sample_in_the_middle(drill: Drill) -> None:
    row = drill.mine[2]
    end = row["offset"] + row["size"]
    drill.edit(lambda data: data.__setitem__(slice(end, end), data[row["offset"] : end]))
    found, _ = drill.problems()
    assert found == {"surplus": {row["key"]}, "displaced": drill.keys(drill.mine[3:])}
    assert drill.unreadable() == drill.keys(drill.mine[3:])


def test_a_doubled_sample_at_the_end(drill: Drill) -> None:
    row = drill.mine[2]
    end = row["offset"] + row["size"]
    drill.edit(lambda data: data.extend(data[row["offset"] : end]))
    assert drill.problems() == ({"surplus": {row["key"]}}, {f"shards/{drill.name}"})
    assert drill.unreadable() == set()


def test_a_sample_of_another_shard(drill: Drill) -> None:
    row = drill.rows[-1]
    data = (drill.folder / "shards" / row["shard"]).read_bytes()
    span = data[row["offset"] : row["offset"] + row["size"]]
    drill.edit(lambda data: data.extend(span))
    assert drill.problems()[0] == {"surplus": {row["key"]}}


def test_swapped_shards(drill: Drill) -> None:
    other = drill.rows[-1]["shard"]
    path = drill.folder / "shards" / other
    ours, theirs = drill.tar.read_bytes(), path.read_bytes()
    drill.tar.write_bytes(theirs)
    path.write_bytes(ours)
    both = drill.keys([row for row in drill.rows if row["shard"] in (drill.name, other)])
    found, files = drill.problems()
    assert found == {"missing": both}
    assert files == {f"shards/{drill.name}", f"shards/{other}"}
    assert drill.unreadable() == both


def test_a_shard_too_many(drill: Drill) -> None:
    shutil.copy(drill.tar, drill.folder / "shards" / "train-000099-abcdefabcdef.tar")
    found, files = drill.problems()
    assert (found, files) == ({}, {"shards/train-000099-abcdefabcdef.tar"})


def index_of(drill: Drill) -> Path:
    return drill.folder / "index" / f"{drill.name.rpartition('-')[0]}.parquet"


def test_a_stale_index(drill: Drill) -> None:
    rows = read_rows(index_of(drill), SHARD_MANIFEST)
    rows[1]["labels"] = {"Edema": 1.0}
    rows[4]["offset"] += 512
    write_table(index_of(drill), SHARD_MANIFEST, rows)
    found, files = drill.problems()
    assert found == {"table": {rows[1]["key"], rows[4]["key"]}} and files == set()


def test_an_index_without_a_sample(drill: Drill) -> None:
    rows = read_rows(index_of(drill), SHARD_MANIFEST)
    write_table(index_of(drill), SHARD_MANIFEST, rows[1:])
    assert drill.problems()[0] == {"table": {rows[0]["key"]}}


def test_a_deleted_index(drill: Drill) -> None:
    index_of(drill).unlink()
    assert drill.problems()[0] == {"table": drill.keys(drill.mine)}


def test_an_unreadable_index(drill: Drill) -> None:
    index_of(drill).write_bytes(b"PAR1 no table")
    assert drill.problems() == ({}, {"index"})


def rewrite_manifest(drill: Drill, rows: list[dict[str, Any]], *, card: bool) -> None:
    path = drill.folder / "manifest.parquet"
    write_table(path, SHARD_MANIFEST, rows)
    if card:
        content = read_json(drill.folder / "dataset.json")
        for name in content["files"]:
            content["files"][name] = blake3_file(drill.folder / name)
        write_json(drill.folder / "dataset.json", content)


@pytest.mark.parametrize("card", [False, True], ids=["card untouched", "card rewritten"])
def test_a_tampered_manifest(drill: Drill, card: bool) -> None:
    drill.rows[3]["split"] = "test"
    drill.rows[6]["labels"]["Edema"] = 0.5
    rewrite_manifest(drill, drill.rows, card=card)
    found, files = drill.problems()
    assert found == {"table": {drill.rows[3]["key"], drill.rows[6]["key"]}}
    assert files == (set() if card else {"manifest.parquet"})


@pytest.mark.parametrize("card", [False, True], ids=["card untouched", "card rewritten"])
def test_a_sample_taken_out_of_the_manifest(drill: Drill, card: bool) -> None:
    rewrite_manifest(drill, drill.rows[:3] + drill.rows[4:], card=card)
    found, files = drill.problems()
    gone = {drill.rows[3]["key"]}
    assert found == ({"table": gone, "surplus": gone} if card else {"table": gone})
    assert files == (set() if card else {"manifest.parquet"})


def test_an_unreadable_manifest_leaves_the_index_to_check_with(drill: Drill) -> None:
    (drill.folder / "manifest.parquet").write_bytes(b"no table")
    row = drill.mine[1]
    place = row["offset"] + row["png_off"] + 40
    drill.edit(lambda data: data.__setitem__(place, data[place] ^ 1))
    found, files = drill.problems()
    assert found == {"damaged": {row["key"]}}
    assert files == {"manifest.parquet", f"shards/{drill.name}"}


def test_a_doubled_manifest_row(drill: Drill) -> None:
    rewrite_manifest(drill, [*drill.rows, drill.rows[5]], card=True)
    assert drill.problems()[0]["surplus"] == {drill.rows[5]["key"]}


@pytest.mark.parametrize("field", ["digest", "samples"])
def test_a_tampered_card(drill: Drill, field: str) -> None:
    card = read_json(drill.folder / "dataset.json")
    card[field] = 39 if field == "samples" else blake3_hex(b"another")
    write_json(drill.folder / "dataset.json", card)
    assert drill.problems() == ({}, {"dataset.json"})


@pytest.mark.parametrize(
    "name", ["dataset.json", "shards.parquet", "SHA256SUMS", "rejects.parquet"]
)
def test_a_deleted_table_or_card(drill: Drill, name: str) -> None:
    (drill.folder / name).unlink()
    found, files = drill.problems()
    assert found == {} and name in files


def test_an_edited_report(drill: Drill) -> None:
    row = drill.mine[3]
    drill.edit(lambda data: edit_report(data, row))
    assert drill.problems() == ({"damaged": {row["key"]}}, {f"shards/{drill.name}"})
    assert drill.unreadable() == {row["key"]}


def edit_report(data: bytearray, row: dict[str, Any]) -> bytes:
    start = row["offset"] + row["json_off"]
    end = start + row["json_len"]
    text = bytes(data[start:end])
    assert b"Normal film" in text
    data[start:end] = text.replace(b"Normal film", b"Broken film")
    return bytes(data[start:end])


def test_an_edited_report_with_every_hash_but_the_identity_made_to_fit(drill: Drill) -> None:
    row = drill.mine[3]
    data = bytearray(drill.tar.read_bytes())
    digest = blake3_hex(edit_report(data, row))
    shards = read_rows(drill.folder / "shards.parquet", SHARDS)
    mine = next(shard for shard in shards if shard["name"] == drill.name)
    mine["blake3"], mine["sha256"] = blake3_hex(bytes(data)), hashlib.sha256(data).hexdigest()
    mine["name"] = drill.name.replace(drill.name[-16:-4], mine["blake3"][:12])
    drill.tar.unlink()
    (drill.folder / "shards" / mine["name"]).write_bytes(data)
    row["json_blake3"] = bytes.fromhex(digest)[:16]
    for each in drill.mine:
        each["shard"] = mine["name"]
    write_table(drill.folder / "shards.parquet", SHARDS, shards)
    (drill.folder / "SHA256SUMS").write_text(sha256sums(shards))
    write_table(index_of(drill), SHARD_MANIFEST, drill.mine)
    rewrite_manifest(drill, drill.rows, card=True)
    assert drill.problems() == ({}, {"dataset.json"})


def test_pixels_that_are_not_the_prepared_ones(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    rows[8]["pixel_blake3"] = blake3_hex(b"other pixels")
    write_table(prepared / "manifest.parquet", MANIFEST, rows)
    card = read_json(prepared / "card.json")
    card["files"]["manifest.parquet"] = blake3_file(prepared / "manifest.parquet")
    write_json(prepared / "card.json", card)
    folder = write_shards(tmp_path, "phantom", ShardOptions()).path
    for path in (prepared, folder):
        assert verify_path(path).problems == []
        problems = verify_path(path, deep=True).problems
        assert [problem.key for problem in problems] == [rows[8]["key"]]


def test_a_prepared_set(make_set: Any) -> None:
    folder: Path = make_set()
    assert verify_path(folder, deep=True).problems == []
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    masked = next(row for row in rows if row["mask"] and row["key"] != rows[0]["key"])
    (folder / rows[0]["image"]).unlink()
    (folder / masked["mask"]).unlink()
    blurred = next(row for row in rows if row["mask"] and row is not masked)
    (folder / blurred["mask"]).write_bytes((folder / masked["image"]).read_bytes())
    (folder / "masks").mkdir()
    (folder / "masks" / "stranger.png").write_bytes(b"x")
    picture = folder / rows[1]["image"]
    picture.write_bytes(picture.read_bytes()[:-1])
    (folder / "images" / "foreign.png").write_bytes(b"x")
    found = {(p.problem, p.key) for p in verify_path(folder).problems}
    assert found == {
        ("missing", rows[0]["key"]),
        ("damaged", rows[1]["key"]),
        ("missing", masked["key"]),
        ("damaged", blurred["key"]),
        ("surplus", "foreign"),
        ("surplus", "stranger"),
    }


def test_a_prepared_set_with_a_broken_manifest(make_set: Any) -> None:
    folder: Path = make_set()
    data = bytearray((folder / "manifest.parquet").read_bytes())
    del data[len(data) // 2 :]
    (folder / "manifest.parquet").write_bytes(data)
    assert [p.problem for p in verify_path(folder).problems] == ["table"]


def test_a_prepared_set_of_which_rows_were_taken(make_set: Any) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    write_table(folder / "manifest.parquet", MANIFEST, rows[1:])
    write_table(folder / "rejects.parquet", REJECTS, [REJECT])
    found = {(p.problem, p.file, p.key) for p in verify_path(folder).problems}
    assert found == {
        ("surplus", rows[0]["image"], rows[0]["key"]),
        ("table", "manifest.parquet", None),
        ("table", "rejects.parquet", None),
    }


def test_an_edited_report_in_a_prepared_set(make_set: Any) -> None:
    folder: Path = make_set()
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    rows[3]["findings"] += " No pneumothorax."
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    assert [p.file for p in verify_path(folder).problems] == ["manifest.parquet"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        verify_path(tmp_path / "nothing")
    (tmp_path / "recipe.yaml").write_text("x")
    with pytest.raises(UsageError):
        verify_path(tmp_path)


def test_a_problem_is_one_line() -> None:
    problem = Problem(problem="damaged", file="shards/a.tar", key="k", detail="png damaged")
    assert str(problem) == "damaged   k  shards/a.tar  png damaged"
