"""Showing samples: found by key or study, with what the shard holds and where."""

from pathlib import Path
from typing import Any

import pytest

from imitate.contract import Folders, InputError, UsageError
from imitate.files import read_rows, write_table
from imitate.schema import MANIFEST
from imitate.shards.audit.show import find_samples
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import SampleDamaged
from imitate.shards.write import write_shards


@pytest.fixture
def prepared(make_set: Any, tmp_path: Path) -> Path:
    folder: Path = make_set()
    write_shards(tmp_path, "phantom", ShardOptions(samples=8))
    return folder


def test_a_sample_by_its_key(prepared: Path, tmp_path: Path) -> None:
    row = read_rows(prepared / "manifest.parquet", MANIFEST)[7]
    (shown,) = find_samples(tmp_path, row["key"])
    for name in ("study_id", "view", "split", "findings", "sections", "labels", "boxes"):
        assert shown.sample[name] == row[name]
    span = shown.shard.read_bytes()[shown.offset : shown.offset + shown.size]
    assert span.startswith(f"{row['key']}.json".encode())
    assert (prepared / row["image"]).read_bytes() in span
    text = shown.as_text()
    for part in (row["key"], row["image_id"], "train", str(shown.shard), str(shown.offset), "PA"):
        assert part in text
    for part in ("Edema 1", "Atelectasis -1", "x 1, y 2, w 3, h 4.5", "16 x 16", "cough"):
        assert part in text
    assert "The lungs are cléar.\n    No effusion." in text


def test_a_sample_by_the_id_that_the_archive_gives(prepared: Path, tmp_path: Path) -> None:
    (shown,) = find_samples(tmp_path, "film/0007")  # other characters become '-'
    assert shown.sample["key"] == "film-0007"


def test_a_study_shows_all_its_samples(prepared: Path, tmp_path: Path) -> None:
    shown = find_samples(tmp_path, "t3")
    assert sorted(each.sample["key"] for each in shown) == ["film-0006", "film-0007"]


def test_the_picture_is_written_as_the_shard_holds_it(prepared: Path, tmp_path: Path) -> None:
    row = read_rows(prepared / "manifest.parquet", MANIFEST)[3]
    find_samples(tmp_path, row["key"], picture=tmp_path / "out" / "film.png")
    assert (tmp_path / "out" / "film.png").read_bytes() == (prepared / row["image"]).read_bytes()
    with pytest.raises(UsageError, match="2 samples"):
        find_samples(tmp_path, "t3", picture=tmp_path / "two.png")
    assert not (tmp_path / "two.png").exists()


def test_the_mask_is_written_as_the_shard_holds_it(prepared: Path, tmp_path: Path) -> None:
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    masked, plain = rows[3], rows[4]
    (shown,) = find_samples(tmp_path, masked["key"], mask=tmp_path / "mask.png")
    mask = (prepared / masked["mask"]).read_bytes()
    assert (tmp_path / "mask.png").read_bytes() == mask
    assert shown.mask == len(mask) and f"mask       {len(mask)} bytes" in shown.as_text()
    with pytest.raises(InputError, match="has no mask"):
        find_samples(tmp_path, plain["key"], mask=tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    (shown,) = find_samples(tmp_path, plain["key"])
    assert shown.mask is None and "mask       -" in shown.as_text()


def test_a_damaged_picture_is_not_written(prepared: Path, tmp_path: Path) -> None:
    (shown,) = find_samples(tmp_path, "film-0003")
    data = bytearray(shown.shard.read_bytes())
    data[shown.offset + shown.size - 512] ^= 1  # the picture fills one block
    shown.shard.write_bytes(data)
    with pytest.raises(SampleDamaged):
        find_samples(tmp_path, "film-0003", picture=tmp_path / "film.png")
    assert not (tmp_path / "film.png").exists()


def test_restricted_pictures_are_private(make_set: Any, tmp_path: Path) -> None:
    make_set(access="credentialed")
    write_shards(tmp_path, "phantom", ShardOptions())
    find_samples(tmp_path, "film-0003", picture=tmp_path / "film.png")
    assert (tmp_path / "film.png").stat().st_mode & 0o077 == 0


def test_all_sets_are_searched_unless_one_is_named(
    prepared: Path, make_set: Any, tmp_path: Path
) -> None:
    make_set("other", n=5)
    write_shards(tmp_path, "other", ShardOptions())
    assert [shown.set for shown in find_samples(tmp_path, "film-0003")] == ["other", "phantom"]
    assert [s.set for s in find_samples(tmp_path, "film-0003", name="phantom")] == ["phantom"]
    with pytest.raises(InputError, match="not a finished shard set"):
        find_samples(tmp_path, "film-0003", name="nothing")


def test_unknown_keys_name_those_that_hold_them(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as unknown:
        find_samples(tmp_path, "0007")
    assert unknown.value.todo == "keys that hold it: film-0007"
    with pytest.raises(InputError) as unknown:
        find_samples(tmp_path, "film")
    assert unknown.value.todo.endswith("film-0004, …")
    with pytest.raises(InputError, match="no sample"):
        find_samples(tmp_path, "nobody")
    with pytest.raises(InputError, match="no shard set"):
        find_samples(tmp_path / "empty", "x")


def test_control_characters_of_a_report_do_not_reach_the_terminal(
    make_set: Any, tmp_path: Path
) -> None:
    path = make_set(n=5) / "manifest.parquet"
    rows = read_rows(path, MANIFEST)
    rows[1]["findings"] = "Clear.\x1b[2J\x07"
    write_table(path, MANIFEST, rows)
    write_shards(tmp_path, "phantom", ShardOptions())
    (shown,) = find_samples(tmp_path, rows[1]["key"])
    assert "\x1b" not in shown.as_text() and "\x07" not in shown.as_text()
    assert shown.as_json()["sample"]["findings"] == rows[1]["findings"]


def test_the_shards_stay_where_the_contract_says(prepared: Path, tmp_path: Path) -> None:
    (shown,) = find_samples(tmp_path, "film-0003")
    assert shown.shard.parent == Folders(tmp_path).shards("phantom") / "shards"
