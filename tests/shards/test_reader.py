"""Reading: what was prepared, verified, in order, whatever the threads; damage is named."""

import itertools
import json
import shutil
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import Exit, Folders, TooManyFaults, UsageError
from imitate.files import read_rows
from imitate.options import FaultBudget
from imitate.schema import MANIFEST
from imitate.shards.manifest import ShardSet
from imitate.shards.order import EpochPlan
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import (
    OPEN_SHARDS,
    Batch,
    DamagePolicy,
    SampleDamaged,
    ShardReader,
    iterate,
)
from imitate.shards.reading.source import AHEAD
from imitate.shards.write import write_shards

ANY = FaultBudget(share=0.5)


@pytest.fixture
def prepared(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals / "short", tmp_path, dirs_exist_ok=True)
    return Folders(tmp_path).prepared("phantom")


@pytest.fixture
def shards(prepared: Path, tmp_path: Path) -> ShardSet:
    return ShardSet.open(Folders(tmp_path).shards("phantom"))


def flip(shards: ShardSet, ordinal: int, kind: str = "png", at: int = 60) -> None:
    """Flip one bit in a member of a sample."""
    path = shards.folder / "shards" / str(shards.column("shard")[ordinal])
    place = int(shards.column("offset")[ordinal]) + int(shards.column(f"{kind}_off")[ordinal])
    data = bytearray(path.read_bytes())
    data[place + at] ^= 1
    path.write_bytes(data)


def test_pictures_and_texts_are_those_that_were_prepared(prepared: Path, shards: ShardSet) -> None:
    before = {row["key"]: row for row in read_rows(prepared / "manifest.parquet", MANIFEST)}
    reader = ShardReader(shards)
    ordinals = np.arange(shards.n)[::-1]
    images, texts = reader.images(ordinals), reader.texts(ordinals)
    assert images.shape == (40, 16, 16) and images.dtype == np.uint8
    for ordinal, image, text in zip(ordinals, images, texts, strict=True):
        row = before[shards.column("key")[ordinal]]
        picture = cv2.imread(str(prepared / row["image"]), cv2.IMREAD_UNCHANGED)
        assert picture is not None and np.array_equal(image, picture)
        plain = ("key", "image_id", "findings", "sections", "sentences", "labels", "boxes", "view")
        assert {name: text[name] for name in plain} == {name: row[name] for name in plain}
        assert text["geometry"]["offset_y"] == -1.25


def test_sets_of_sixteen_bits_keep_them(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set("deep", n=6, bits=16)
    reader = ShardReader(ShardSet.open(write_shards(tmp_path, "deep", ShardOptions()).path))
    image = reader.images(np.array([2]))[0]
    key = reader.shards.column("key")[2]
    assert image.dtype == np.uint16
    picture = cv2.imread(str(prepared / "images" / f"{key}.png"), cv2.IMREAD_UNCHANGED)
    assert picture is not None and np.array_equal(image, picture)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_batches_do_not_depend_on_threads(shards: ShardSet, workers: int, prefetch: int) -> None:
    plan = EpochPlan(shards.rows("train"), seed=0, global_batch=8)
    steps = [plan.batch(step) for step in range(7)]
    reader = ShardReader(shards)
    batches = list(iterate(reader, steps, workers=workers, prefetch=prefetch))
    assert len(batches) == len(steps)
    for batch, ordinals in zip(batches, steps, strict=True):
        assert np.array_equal(batch.ordinals, ordinals)
        assert np.array_equal(batch.images, reader.images(ordinals))


def test_batches_over_many_chunks_are_whole(shards: ShardSet) -> None:
    ordinals = np.tile(np.arange(40), 3)
    reader = ShardReader(shards)
    [batch] = iterate(reader, [ordinals], workers=2)
    assert np.array_equal(batch.ordinals, ordinals)
    assert np.array_equal(batch.images, reader.images(ordinals))


def test_only_a_bounded_number_of_batches_is_read_ahead(shards: ShardSet) -> None:
    taken = itertools.count()

    def endless() -> Iterator[np.ndarray]:
        while True:
            next(taken)
            yield np.arange(4)

    batches = iterate(ShardReader(shards), endless(), workers=2, prefetch=3)
    for _ in range(5):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert next(taken) <= 5 + 3 + AHEAD // 4


def test_more_shards_than_open_files_can_be_read(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ShardReader(shards).images(np.arange(40))
    monkeypatch.setattr("imitate.shards.reader.OPEN_SHARDS", 2)
    reader = ShardReader(shards)
    assert np.array_equal(reader.images(np.arange(40)), expected)
    assert np.array_equal(reader.images(np.arange(40)), expected)
    reader.close()
    assert OPEN_SHARDS >= 185  # all of MIMIC-CXR at 256 pixels


def test_texts_are_read_without_the_pictures(shards: ShardSet) -> None:
    flip(shards, 3, "png")
    assert ShardReader(shards).texts(np.array([3]))[0]["key"] == shards.column("key")[3]


@pytest.mark.parametrize("kind", ["png", "json"])
def test_one_flipped_bit_is_named_with_key_and_shard(shards: ShardSet, kind: str) -> None:
    flip(shards, 7, kind)
    reader = ShardReader(shards)
    read = reader.images if kind == "png" else reader.texts
    read(np.array([6, 8]))
    with pytest.raises(SampleDamaged) as error:
        read(np.array([6, 7, 8]))
    key, shard = shards.column("key")[7], shards.column("shard")[7]
    assert error.value.code == Exit.INPUT
    assert (error.value.ordinal, error.value.key, error.value.shard) == (7, key, shard)
    text = str(error.value)
    assert key in text and shard in text and kind in text and "imitate verify" in text


def test_cut_and_deleted_shards_give_one_clear_message(shards: ShardSet) -> None:
    last = int(shards.rows("train")[-1])
    shard = str(shards.column("shard")[last])
    path = shards.folder / "shards" / shard
    path.write_bytes(path.read_bytes()[: int(shards.column("offset")[last]) + 20])
    with pytest.raises(SampleDamaged, match="png is cut off"):
        ShardReader(shards).images(np.array([last]))
    path.unlink()
    with pytest.raises(SampleDamaged, match="png cannot be read") as error:
        ShardReader(shards).images(np.array([last]))
    assert shard in str(error.value)


def test_without_verification_a_broken_png_is_still_found(shards: ShardSet) -> None:
    flip(shards, 2, at=20)
    with pytest.raises(SampleDamaged, match="decode"):
        ShardReader(shards, verify=False).images(np.array([2]))


def test_pictures_of_several_sizes_cannot_share_a_batch(make_set: Any, tmp_path: Path) -> None:
    folder = make_set("a", n=10)
    other = make_set("b", n=10, size=24)
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    more = [
        row
        | {
            "key": f"b-{row['key']}",
            "image": f"../b/{row['image']}",
            "mask": None,
            "mask_blake3": None,
        }
        for row in read_rows(other / "manifest.parquet", MANIFEST)
    ]
    for row in more:
        name = f"images/b-{Path(row['image']).name}"
        (folder / name).write_bytes((folder / row["image"]).read_bytes())
        row["image"] = name
    from imitate.files import write_table

    rows = sorted(rows + more, key=lambda row: row["key"])
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    shards = ShardSet.open(write_shards(tmp_path, "a", ShardOptions()).path)
    reader = ShardReader(shards)
    with pytest.raises(UsageError, match="differ in size"):
        reader.images(np.arange(shards.n))
    sizes = np.asarray(shards.column("width"))
    assert reader.images(np.flatnonzero(sizes == 24)).shape == (10, 24, 24)


def run_with_damage(
    shards: ShardSet, rows: np.ndarray, *, workers: int, parts: int, budget: FaultBudget = ANY
) -> tuple[list[Batch], DamagePolicy]:
    """Five global batches, read by one process or in `parts` as by several ranks."""
    plan = EpochPlan(rows, seed=1, global_batch=8)
    policy = DamagePolicy(rows, seed=1, budget=budget)
    steps = [plan.batch(step) for step in range(3, 8)]
    ranks = [
        list(
            iterate(
                ShardReader(shards),
                [step[rank * (8 // parts) : (rank + 1) * (8 // parts)] for step in steps],
                workers=workers,
                damage=policy,
                first_step=3,
            )
        )
        for rank in range(parts)
    ]
    joined = [
        Batch(
            ordinals=np.concatenate([rank[step].ordinals for rank in ranks]),
            images=np.concatenate([rank[step].images for rank in ranks]),
        )
        for step in range(5)
    ]
    return joined, policy


def test_training_replaces_damaged_samples_the_same_way_on_any_topology(
    shards: ShardSet,
) -> None:
    rows = shards.rows("train")
    whole, _ = run_with_damage(shards, rows, workers=1, parts=1)
    bad = {int(rows[2]), int(rows[11]), int(rows[12])}
    for ordinal in bad:
        flip(shards, ordinal)
    one, policy = run_with_damage(shards, rows, workers=1, parts=1)
    four, _ = run_with_damage(shards, rows, workers=3, parts=4)
    assert set(policy.quarantine) == bad
    replaced = 0
    for clean, batch, other in zip(whole, one, four, strict=True):
        assert np.array_equal(batch.ordinals, other.ordinals)
        assert np.array_equal(batch.images, other.images)
        kept = ~np.isin(clean.ordinals, list(bad))
        assert np.array_equal(batch.ordinals[kept], clean.ordinals[kept])
        assert not set(batch.ordinals.tolist()) & bad
        assert set(batch.ordinals.tolist()) <= set(rows.tolist())
        replaced += int((~kept).sum())
    assert replaced


def test_training_ends_beyond_the_bound(shards: ShardSet) -> None:
    rows = shards.rows("train")
    for ordinal in rows[:3].tolist():
        flip(shards, ordinal)
    with pytest.raises(TooManyFaults) as error:
        run_with_damage(shards, rows, workers=2, parts=1, budget=FaultBudget(number=2))
    assert error.value.code == Exit.FAULTS
    assert "3 of 24 training samples" in str(error.value)


def test_training_does_not_search_for_ever_when_everything_is_damaged(shards: ShardSet) -> None:
    rows = shards.rows("validate")
    for ordinal in rows.tolist():
        flip(shards, ordinal)
    with pytest.raises(TooManyFaults):
        run_with_damage(shards, rows, workers=1, parts=1, budget=FaultBudget(number=10**6))


def test_by_default_one_sample_in_a_hundred_thousand_may_be_damaged(shards: ShardSet) -> None:
    flip(shards, int(shards.rows("train")[0]))
    policy = DamagePolicy(shards.rows("train"), seed=0)
    steps = [shards.rows("train")[:8]]
    with pytest.raises(TooManyFaults):
        list(iterate(ShardReader(shards), steps, workers=1, damage=policy))


def test_evaluation_stops_at_a_damaged_sample(shards: ShardSet) -> None:
    ordinals = shards.rows("test")
    flip(shards, int(ordinals[5]))
    batches = iterate(ShardReader(shards), [ordinals[:4], ordinals[4:]], workers=2)
    assert np.array_equal(next(batches).ordinals, ordinals[:4])
    with pytest.raises(SampleDamaged):
        next(batches)


def test_stock_webdataset_reads_the_same_keys_and_bytes(prepared: Path, shards: ShardSet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of webdataset itself
        import webdataset

        urls = [str(path) for path in sorted((shards.folder / "shards").iterdir())]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    before = {row["key"]: row for row in read_rows(prepared / "manifest.parquet", MANIFEST)}
    assert {sample["__key__"] for sample in samples} == before.keys()
    assert len(samples) == 40
    for sample in samples:
        row = before[sample["__key__"]]
        assert sample["png"] == (prepared / row["image"]).read_bytes()
        assert json.loads(sample["json"])["impression"] == row["impression"]
        mask = row["mask"] and (prepared / row["mask"]).read_bytes()
        assert sample.get("mask.png") == mask


def test_the_standard_library_reads_the_manifest_spans(shards: ShardSet) -> None:
    rows = {
        (shard, key): (int(offset) + int(inside), int(length))
        for shard, key, offset, inside, length in zip(
            *(shards.column(n) for n in ("shard", "key", "offset", "png_off", "png_len")),
            strict=True,
        )
    }
    found = {}
    for path in (shards.folder / "shards").iterdir():
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                key, _, kind = info.name.partition(".")
                if kind == "png":
                    found[path.name, key] = (info.offset_data, info.size)
    assert found == rows
