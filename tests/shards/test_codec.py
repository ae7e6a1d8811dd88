"""JPEG shards: smaller, lossy, and in all else like the others."""

import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import UsageError
from imitate.files import blake3_hex, read_rows, write_table
from imitate.schema import MANIFEST, SHARD_MANIFEST
from imitate.shards.audit.repair import verify_and_repair
from imitate.shards.audit.show import find_samples
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import ShardReader
from imitate.shards.verify import verify_path
from imitate.shards.write import ShardReport, plan_set, write_shards

JPEG = ShardOptions(samples=8, codec="jpeg")


def build(root: Path, **more: Any) -> ShardReport:
    return write_shards(root, "phantom", JPEG, **more)


def smooth(prepared: Path) -> None:
    """Replace the noise of a prepared set by pictures of which JPEG loses little."""
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    for number, row in enumerate(rows):
        y, x = np.mgrid[: row["height"], : row["width"]]
        pixels = ((3 * y + 2 * x + number) % 256).astype(np.uint8)
        png = cv2.imencode(".png", pixels)[1].tobytes()
        (prepared / row["image"]).write_bytes(png)
        row |= {"png_blake3": blake3_hex(png), "pixel_blake3": blake3_hex(pixels.tobytes())}
    write_table(prepared / "manifest.parquet", MANIFEST, rows)


def test_pictures_are_jpeg_and_close_to_the_prepared_ones(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set(size=64, long=True)
    smooth(prepared)
    report = build(tmp_path)
    shards = ShardSet.open(report.path)
    assert verify_path(report.path, deep=True).problems == []
    before = {row["key"]: row for row in read_rows(prepared / "manifest.parquet", MANIFEST)}
    images = ShardReader(shards).images(np.arange(shards.n))
    for image, key in zip(images, shards.column("key"), strict=True):
        pixels = cv2.imread(str(prepared / before[key]["image"]), cv2.IMREAD_UNCHANGED)
        difference = np.abs(image.astype(int) - pixels)
        assert difference.mean() < 3 and difference.any()
    rows = read_rows(report.path / "manifest.parquet", SHARD_MANIFEST)
    assert {row["codec"] for row in rows} == {"jpg"}
    with tarfile.open(report.path / "shards" / rows[0]["shard"]) as tar:
        kinds = ("jpg", "json", "mask.png") if rows[0]["mask_len"] else ("jpg", "json")
        names = [f"{rows[0]['key']}.{kind}" for kind in kinds]
        assert tar.getnames()[: len(names)] == names
        member = tar.extractfile(names[0])
        assert member and member.read(3) == b"\xff\xd8\xff"


def test_the_bytes_are_the_same_and_a_rerun_keeps_them(make_set: Any, tmp_path: Path) -> None:
    make_set()
    make_set(root=tmp_path / "other")
    report = build(tmp_path)
    assert build(tmp_path / "other", workers=2).digest == report.digest
    assert build(tmp_path).fresh
    (report.path / "dataset.json").unlink()
    again = build(tmp_path)
    assert (again.written, again.digest) == ((), report.digest)


def test_another_codec_writes_all_shards_anew(make_set: Any, tmp_path: Path) -> None:
    make_set()
    png = write_shards(tmp_path, "phantom", ShardOptions(samples=8))
    jpeg = build(tmp_path)
    assert len(jpeg.written) == jpeg.shards and jpeg.digest != png.digest
    back = write_shards(tmp_path, "phantom", ShardOptions(samples=8))
    assert len(back.written) == back.shards and back.digest == png.digest


def test_damage_is_found_repaired_and_shown(make_set: Any, tmp_path: Path) -> None:
    prepared = make_set()
    report = build(tmp_path)
    (shown,) = find_samples(tmp_path, "film-0007", picture=tmp_path / "film.jpg")
    assert cv2.imread(str(tmp_path / "film.jpg"), cv2.IMREAD_UNCHANGED).shape == (16, 16)
    data = bytearray(shown.shard.read_bytes())
    data[shown.offset + 512 + 200] ^= 1
    shown.shard.write_bytes(data)
    problems = verify_path(report.path).problems
    assert [p.key for p in problems if p.key] == ["film-0007"]
    done = verify_and_repair(report.path)
    assert (done.shards, done.left) == ((shown.shard.name,), [])
    assert ShardSet.open(report.path).digest == report.digest
    (prepared / "images" / "film-0007.png").write_bytes(b"x")
    (report.path / "dataset.json").unlink()
    assert build(tmp_path).rejected == {"sample_damaged": 1}


def test_what_jpeg_cannot_hold_is_refused(make_set: Any, tmp_path: Path) -> None:
    make_set(bits=16)
    with pytest.raises(UsageError, match="8 bits"):
        plan_set(tmp_path, "phantom", JPEG)
    with pytest.raises(UsageError, match="neither png nor jpeg"):
        ShardOptions(codec="webp")
