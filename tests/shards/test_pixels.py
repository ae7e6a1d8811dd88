"""The pixel cache: the same pictures from shards, file and device; damage and no room."""

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from imitate.contract import Folders, InputError, UsageError
from imitate.files import PARTIAL
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import SampleDamaged, ShardReader, iterate
from imitate.shards.reading.device import DevicePixels
from imitate.shards.reading.pixels import HostPixels, PixelFile
from imitate.shards.write import write_shards


@pytest.fixture
def shards(originals: Path, tmp_path: Path) -> ShardSet:
    shutil.copytree(originals / "short", tmp_path, dirs_exist_ok=True)
    return ShardSet.open(Folders(tmp_path).shards("phantom"))


def built(shards: ShardSet, *, workers: int = 2) -> PixelFile:
    file = PixelFile(ShardReader(shards), shards.rows("train"))
    file.build(workers=workers, progress="none", tell=lambda line: None)
    return file


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_png(shards: ShardSet, ordinal: int) -> None:
    inside = int(shards.column("offset")[ordinal]) + int(shards.column("png_off")[ordinal])
    flip(shards.folder / "shards" / str(shards.column("shard")[ordinal]), inside + 60)


@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_are_the_same_from_shards_file_and_device(
    make_set, tmp_path: Path, bits: int
) -> None:
    make_set(n=30, bits=bits)
    shards = ShardSet.open(write_shards(tmp_path, "phantom", ShardOptions()).path)
    file = built(shards)
    batches = np.random.default_rng(0).permutation(file.rows)[:16].reshape(4, 4)
    sources = (file.reader, HostPixels(file), DevicePixels(file, torch.device("cpu")))
    expected, *others = (
        [batch.images for batch in iterate(source, batches, workers=2)] for source in sources
    )
    for images in others:
        assert [image.dtype for image in images] == [image.dtype for image in expected]
        assert np.array_equal(images, expected)


def test_the_file_is_a_plain_array_of_the_split(shards: ShardSet) -> None:
    file = built(shards)
    array = np.load(file.path, mmap_mode="r", allow_pickle=False)
    assert array.dtype == np.uint8
    assert np.array_equal(array, file.reader.images(shards.rows("train")))


def test_the_bytes_do_not_depend_on_threads_and_are_made_once(shards: ShardSet) -> None:
    file = built(shards, workers=1)
    before = file.path.read_bytes()
    assert file.path.stat().st_mtime_ns == built(shards, workers=3).path.stat().st_mtime_ns
    file.path.unlink()
    assert built(shards, workers=3).path.read_bytes() == before


def test_the_size_is_said_before_the_file_is_made(shards: ShardSet) -> None:
    file = PixelFile(ShardReader(shards), shards.rows("train"))
    told: list[tuple[str, bool]] = []
    file.build(
        workers=1, progress="none", tell=lambda line: told.append((line, file.path.exists()))
    )
    [(line, existed)] = told
    assert "24 pictures will take 0.00 GB" in line and not existed


def test_what_a_killed_process_left_is_begun_anew(shards: ShardSet) -> None:
    file = built(shards)
    whole = file.path.read_bytes()
    file.path.unlink()
    partial = file.path.with_name(f"{PARTIAL}1-{file.path.name}")
    partial.write_bytes(whole[:999])
    assert built(shards).path.read_bytes() == whole
    assert not partial.exists()


def test_a_cut_file_is_made_again(shards: ShardSet) -> None:
    whole = built(shards).path.read_bytes()
    for length in (0, 50, len(whole) - 1):
        built(shards).path.write_bytes(whole[:length])
        assert built(shards).path.read_bytes() == whole


def test_a_flipped_pixel_is_read_from_the_shard(shards: ShardSet) -> None:
    file = built(shards)
    expected = file.reader.images(file.rows)
    flip(file.path, -1)
    for source in (HostPixels(file), DevicePixels(file, torch.device("cpu"))):
        [batch] = iterate(source, [file.rows], workers=1)
        assert np.array_equal(batch.images, expected)


def test_a_damaged_sample_stays_a_damaged_sample(shards: ShardSet) -> None:
    rows = shards.rows("train")
    flip_png(shards, int(rows[5]))
    told: list[str] = []
    file = PixelFile(ShardReader(shards), rows)
    file.build(workers=2, progress="none", tell=told.append)
    assert "1 of 24 not as prepared" in told[-1]
    for source in (HostPixels(file), DevicePixels(file, torch.device("cpu"))):
        with pytest.raises(SampleDamaged, match=shards.column("key")[rows[5]]):
            list(iterate(source, [rows[4:8]], workers=1))
        assert np.array_equal(
            next(iterate(source, [rows[6:9]], workers=0)).images, file.reader.images(rows[6:9])
        )


def test_a_full_disk_is_refused_before_anything_is_written(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 24 * 16 * 16 - 1))
    with pytest.raises(InputError, match="no room for the pixel cache") as error:
        built(shards)
    assert "--cache none" in error.value.todo
    assert not list((shards.folder / "pixels").glob(f"*{PARTIAL}*"))


def test_pictures_of_several_sizes_and_of_another_split_are_refused(
    make_set, tmp_path: Path, shards: ShardSet
) -> None:
    file = built(shards)
    with pytest.raises(UsageError, match="not of the cached split"):
        file.positions(shards.rows("test"))
    file.reader.heights = file.reader.heights.copy()
    file.reader.heights[shards.rows("train")[0]] = 8
    with pytest.raises(UsageError, match="different sizes"):
        PixelFile(file.reader, shards.rows("train"))


def test_a_new_content_of_the_set_forgets_the_cache(shards: ShardSet, tmp_path: Path) -> None:
    path = built(shards).path
    write_shards(tmp_path, "phantom", ShardOptions(samples=8, seed=5))
    assert not path.exists()
