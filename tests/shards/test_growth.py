"""Growth: a few samples more or less touch a few shards; the bytes follow from the set alone."""

from pathlib import Path
from typing import Any

import pytest

from imitate.contract import Folders, InputError
from imitate.files import blake3_file, read_json, read_rows, write_json, write_table
from imitate.schema import MANIFEST, SHARD_MANIFEST
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import ShardReport, write_shards

OPTIONS = ShardOptions(samples=8)


def keep(prepared: Path, keys: set[str]) -> None:
    """Leave only these samples in a prepared set."""
    rows = [r for r in read_rows(prepared / "manifest.parquet", MANIFEST) if r["key"] in keys]
    write_table(prepared / "manifest.parquet", MANIFEST, rows)
    card = read_json(prepared / "card.json")
    card["rows"] = len(rows)
    card["files"]["manifest.parquet"] = blake3_file(prepared / "manifest.parquet")
    write_json(prepared / "card.json", card)


def build(root: Path) -> ShardReport:
    return write_shards(root, "phantom", OPTIONS)


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def keys_of(prepared: Path) -> list[str]:
    return [row["key"] for row in read_rows(prepared / "manifest.parquet", MANIFEST)]


@pytest.mark.parametrize("more", [1, 4])
def test_a_few_samples_more_or_less_leave_most_shards_untouched(
    make_set: Any, tmp_path: Path, more: int
) -> None:
    prepared = make_set(n=400, size=4)
    every = keys_of(prepared)
    keep(prepared, set(every[:200] + every[200 + more :]))
    small = build(tmp_path)
    before = tars(small.path)
    times = {path: path.stat().st_mtime_ns for path in (small.path / "shards").iterdir()}
    make_set(n=400, size=4)
    grown = build(tmp_path)
    after = tars(grown.path)
    kept = before.keys() & after.keys()
    assert len(before) - len(kept) <= more and len(after) - len(kept) <= 2 * more
    assert set(grown.written) == after.keys() - kept
    for name in kept:
        path = grown.path / "shards" / name
        assert before[name] == after[name] and path.stat().st_mtime_ns == times[path]
    keep(prepared, set(every[:200] + every[200 + more :]))
    shrunk = build(tmp_path)
    assert tars(shrunk.path) == before and shrunk.digest == small.digest
    assert set(shrunk.written) == before.keys() - kept


def test_a_grown_set_is_the_one_written_at_once(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set(n=60)
    keep(prepared, set(keys_of(prepared)[7:]))
    build(tmp_path)
    make_set(n=60)
    grown = build(tmp_path)
    make_set(n=60, root=tmp_path / "other")
    clean = build(tmp_path / "other")
    assert grown.digest == clean.digest
    for name in ("manifest.parquet", "shards.parquet", "SHA256SUMS"):
        assert (grown.path / name).read_bytes() == (clean.path / name).read_bytes()
    assert tars(grown.path) == tars(clean.path)
    rows = read_rows(grown.path / "manifest.parquet", SHARD_MANIFEST)
    assert [row["ordinal"] for row in rows] == list(range(60))
    assert ShardSet.open(grown.path).n == 60


def test_an_edited_report_changes_one_shard(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set(n=60)
    before = tars(build(tmp_path).path)
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    rows[7]["impression"] = "Another impression."
    write_table(prepared / "manifest.parquet", MANIFEST, rows)
    again = build(tmp_path)
    assert len(before.keys() - tars(again.path).keys()) == len(again.written) == 1


# ---- joined sets


def join(root: Path, *sets: str, name: str = "joined") -> ShardReport:
    return write_shards(root, name, OPTIONS, sets=sets)


def archive(make_set: Any, name: str, n: int, **more: Any) -> Path:
    """A prepared set of an archive of that name."""
    prepared: Path = make_set(name, n=n, **more)
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    write_table(prepared / "manifest.parquet", MANIFEST, [r | {"dataset": name} for r in rows])
    return prepared


def test_joined_sets_are_one_with_prefixed_keys(make_set: Any, tmp_path: Path) -> None:
    parts = {name: archive(make_set, name, n) for name, n in (("one", 20), ("two", 30))}
    report = join(tmp_path, "one", "two")
    assert (report.dataset, report.samples) == ("joined", 50)
    rows = read_rows(report.path / "manifest.parquet", SHARD_MANIFEST)
    expected = {
        f"{name}_{row['key']}": (name, row["split"], row["png_blake3"][:32], row["labels"])
        for name, prepared in parts.items()
        for row in read_rows(prepared / "manifest.parquet", MANIFEST)
    }
    found = {r["key"]: (r["dataset"], r["split"], r["png_blake3"].hex(), r["labels"]) for r in rows}
    assert found == expected
    assert any(row["mask_len"] for row in rows)
    card = read_json(report.path / "dataset.json")
    assert card["source"]["sets"] == ["one", "two"] == sorted(card["prep"]["sets"])
    assert ShardSet.open(report.path).name == "joined"


def test_the_order_of_joined_sets_means_nothing(make_set: Any, tmp_path: Path) -> None:
    archive(make_set, "one", 20)
    archive(make_set, "two", 30)
    first = join(tmp_path, "two", "one")
    assert not first.fresh
    assert join(tmp_path, "one", "two").fresh


def test_one_set_more_leaves_a_changed_set_to_be_written_again(
    make_set: Any, tmp_path: Path
) -> None:
    archive(make_set, "one", 20)
    archive(make_set, "two", 30)
    first = join(tmp_path, "one", "two")
    archive(make_set, "two", 29)
    second = join(tmp_path, "one", "two")
    assert not second.fresh and second.samples == 49 and second.digest != first.digest
    assert len(second.written) < second.shards


def test_the_stricter_access_holds_for_all(make_set: Any, tmp_path: Path) -> None:
    archive(make_set, "one", 5)
    archive(make_set, "two", 5, access="credentialed")
    report = join(tmp_path, "one", "two")
    assert ShardSet.open(report.path).access == "credentialed"
    assert (report.path / "manifest.parquet").stat().st_mode & 0o077 == 0


def test_equal_keys_are_refused(make_set: Any, tmp_path: Path) -> None:
    make_set("one", n=5)
    make_set("two", n=9)  # the same archive once more
    with pytest.raises(InputError, match="same key"):
        join(tmp_path, "one", "two")
    assert not (Folders(tmp_path).shards("joined") / "dataset.json").exists()
