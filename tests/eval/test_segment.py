"""Segmentation of phantoms: what is found, what it is trained on, and what is kept of it."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import Folders, InputError, Stopped
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.heads.regions import Regions
from imitate.eval.heads.stock import Stock
from imitate.eval.masks import Overlaps, overlap_rows
from imitate.eval.protocols.setting import read_setting
from imitate.eval.tasks.segment import Segment
from imitate.eval.tasks.task import Found, Work
from imitate.eval.testset import TestSet, open_testset
from imitate.files import read_rows
from imitate.prep.phantoms.siim import write_siim
from imitate.prep.pixels.mask import draw_runs
from imitate.prep.record import Runs
from imitate.schema import REGIONS
from imitate.shards.manifest import ShardSet
from imitate.work import Interrupts

SETTING = {
    "encoder": "frozen",
    "augment": "none",
    "lr": 0.002,
    "weight_decay": 0.05,
    "batch": 8,
    "epochs": 2,
    "patience": 10,
    "thresholds": ["validate", "fixed"],
    "balance": True,
}
MakeWork = Callable[..., Work]


def opened(root: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(root).shards("phantom-siim")))


@pytest.fixture(scope="module")
def tests(siim: Path) -> TestSet:
    return opened(siim)


@pytest.fixture
def make_work(
    tests: TestSet, tmp_path: Path, make_run: Callable[..., Path], make_cell_work: MakeWork
) -> MakeWork:
    folder = make_run(tmp_path) / "model"
    source = OurModel(folder, name="run", seed=3, access="open")

    def make(*, tests: TestSet = tests, **over: object) -> Work:
        known = {"task": "segment", "setting": SETTING}
        return make_cell_work(source, tests, tmp_path, **(known | over))

    return make


def rows_of(found: Found) -> list[dict[str, Any]]:
    ((_, table),) = found.tables
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def value(found: Found, metric: str, source: str = "validate") -> float:
    (row,) = [r for r in found.rows if (r["metric"], r["threshold_source"]) == (metric, source)]
    return float(row["value"])


def test_a_small_decoder_finds_the_air_of_the_phantoms(make_work: MakeWork, tests: TestSet) -> None:
    found = Segment().do(make_work(setting=SETTING | {"epochs": 20}))
    assert value(found, "dice") > 0.7 and value(found, "dice-all") > 0.7
    assert found.facts["shape"] == [64, 64]
    assert found.facts["thresholds"].keys() == {"validate", "fixed"}
    trained = found.facts["trained_on"]
    assert trained["films"] == 2 * trained["marked"] < len(tests.films["train"])


@pytest.mark.slow
def test_the_command_segments_a_larger_phantom(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    from imitate.cli import app

    write_siim(tmp_path / "source", pictures=120, seed=1, size=64)
    root = ["--root", str(tmp_path), "--quiet"]
    named = ["--name", "phantom-siim", "--size", "64"]
    app(["prep", "siim", str(tmp_path / "source"), *root, *named], standalone_mode=False)
    folder = make_run(tmp_path)
    asked = ["eval", "phantom-siim", "--task", "segment", "--run", "run", *root]
    app([*asked, "--no-control"], standalone_mode=False)
    results = folder / "eval" / "phantom-siim"
    with (results / "results.csv").open() as handle:
        rows = {row["metric"]: row for row in csv.DictReader(handle)}
    assert float(rows["dice"]["value"]) > 0.8 and rows["dice"]["threshold_source"] == "validate"
    assert float(rows["dice"]["ci_low"]) < float(rows["dice"]["value"])
    kept = read_rows(results / "regions.parquet", REGIONS)
    assert len(kept) == int(rows["dice-all"]["n"]) == 18
    assert len(list((results / "segment").glob("*/*.png"))) == min(8, int(rows["dice"]["n"]))


def test_numbers_follow_from_the_kept_regions(make_work: MakeWork, tests: TestSet) -> None:
    found = Segment().do(make_work(setting=SETTING | {"lr": [1e-7, 0.002]}))
    assert found.facts["lr"] == 0.002
    rows = rows_of(found)
    ordinals = {tests.shards.column("key")[i]: i for i in tests.films["test"]}
    assert len(rows) == 2 * len(ordinals) and {row["key"] for row in rows} == set(ordinals)
    regions = Regions(tests.reader(), tests.films["test"], kind="mask", shape=(64, 64))
    for row in rows:
        runs = (row["runs"],) if row["runs"] else ()
        predicted = draw_runs(Runs(rows=runs, height=row["height"], width=row["width"]))
        target = regions.of(np.array([ordinals[row["key"]]]))[0]
        counts = (target.sum(), predicted.sum(), (target & predicted).sum())
        assert counts == tuple(row[f"{n}_pixels"] for n in ("target", "predicted", "common"))
    for source in ("validate", "fixed"):
        own = [row for row in rows if row["threshold_source"] == source]
        for again in overlap_rows(Overlaps.of(own), seed=0):
            (row,) = [
                r
                for r in found.rows
                if (r["metric"], r["threshold_source"]) == (again["metric"], source)
            ]
            assert {name: row[name] for name in again} == again
            assert row["label"] == "Pneumothorax"


def test_outlines_of_some_marked_films_are_kept(make_work: MakeWork) -> None:
    found = Segment().do(make_work())
    marked = {row["key"] for row in rows_of(found) if row["target_pixels"]}
    keys = dict(found.facts["overlays"])
    assert 0 < len(keys) <= 8 and set(keys) <= marked
    assert set(found.files) == {f"{key}.png" for key in keys}
    for data in found.files.values():
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (64, 64, 3) and (image[..., 0] != image[..., 2]).any()


def test_a_stop_between_epochs_changes_nothing(make_work: MakeWork, tmp_path: Path) -> None:
    setting = SETTING | {"encoder": "statistics", "augment": "turned", "batch": 16}
    whole = Segment().do(make_work(setting=setting, folder=tmp_path / "whole"))

    class After(Interrupts):
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked == 4:
                self.signal = 2
            super().check()

    cut = tmp_path / "cut"
    with pytest.raises(Stopped):
        Segment().do(make_work(setting=setting, folder=cut, interrupts=After()))
    again = Segment().do(make_work(setting=setting, folder=cut))
    assert rows_of(again) == rows_of(whole) and again.facts == whole.facts


@pytest.mark.parametrize("protocol", ["mgca", "paper"])
def test_published_protocols_train_with_moving_statistics_and_cut_at_one_half(
    protocol: str, make_work: MakeWork
) -> None:
    told = read_setting(protocol, "segment", "siim")
    assert told is not None and told["encoder"] == "statistics" and told["balance"]
    found = Segment().do(make_work(setting=dict(told) | {"epochs": 1, "size": 32}))
    assert found.facts["thresholds"] == {"fixed": 0.5} and found.facts["shape"] == [32, 32]
    assert {row["threshold_source"] for row in found.rows} == {"fixed"}
    assert found.facts["lr"] == {"mgca": 5e-4, "paper": 2e-4}[protocol]


@pytest.mark.parametrize("protocol", ["clean", "mgca", "paper"])
def test_rsna_is_segmented_by_its_boxes_in_larger_batches(protocol: str) -> None:
    told = read_setting(protocol, "segment", "rsna")
    assert told is not None and told["target"] == "boxes"
    assert told["batch"] == 16 and not told["balance"]


def test_a_fraction_is_drawn_of_the_balanced_films(make_work: MakeWork) -> None:
    setting = SETTING | {"epochs": 1}
    whole, part = (
        Segment().do(make_work(fraction=fraction, setting=setting)).facts["trained_on"]["films"]
        for fraction in (1.0, 0.5)
    )
    assert part == round(whole / 2)
    every = Segment().do(make_work(setting=setting | {"balance": False})).facts["trained_on"]
    assert every["films"] > whole


def test_damaged_films_and_masks_are_left_out(
    make_work: MakeWork, siim: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(siim, tmp_path / "root"))
    tests = opened(root)
    shards = tests.shards
    column = shards.column
    marked = next(i for i in tests.films["test"] if column("mask_len")[i] > 0)
    plain = next(i for i in tests.films["test"] if column("mask_len")[i] < 0)
    for ordinal, member in ((marked, "mask_off"), (plain, "png_off")):
        place = int(column("offset")[ordinal]) + int(column(member)[ordinal]) + 40
        path = next((shards.folder / "shards").glob(str(column("shard")[ordinal])))
        path.chmod(0o644)
        with path.open("r+b") as handle:
            handle.seek(place)
            byte = handle.read(1)[0]
            handle.seek(place)
            handle.write(bytes([byte ^ 1]))
    found = Segment().do(make_work(tests=opened(root), setting=SETTING | {"epochs": 1}))
    assert found.damaged == {marked, plain}
    left = {row["key"] for row in rows_of(found)}
    assert len(left) == len(tests.films["test"]) - 2
    assert not left & {column("key")[marked], column("key")[plain]}


def test_a_split_without_a_sound_film_is_an_error(tests: TestSet) -> None:
    rows = tests.films["validate"]
    stock = Stock(tests, rows, seed=0, workers=1)
    some = frozenset(rows[1:].tolist())
    assert stock.sound(rows, without=some).tolist() == rows[:1].tolist()
    with pytest.raises(InputError, match=f"all of {len(rows)} samples"):
        stock.sound(rows, without=some | {int(rows[0])})


def test_sets_without_regions_are_not_segmented(tests: TestSet, built: Path) -> None:
    boxes = open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))
    source: Any = None  # segmentation takes any encoder
    assert Segment().why_not(source, tests) is None
    assert Segment().why_not(source, boxes) is None
    plain = replace(boxes, protocol="benchx")  # which says nothing of boxes as regions
    assert "has a region" in str(Segment().why_not(source, plain))
    none = replace(tests, films={**tests.films, "validate": tests.films["validate"][:0]})
    assert "no validate split" in str(Segment().why_not(source, none))


def test_boxes_are_filled_rectangles(make_set: Callable[..., Path], tmp_path: Path) -> None:
    from imitate.shards.plan import ShardOptions
    from imitate.shards.write import write_shards

    box = {"x": 2.0, "y": 3.0, "w": 6.0, "h": 9.0, "label": "Pneumonia"}
    other = {"x": 10.0, "y": 0.0, "w": 6.0, "h": 4.0, "label": "Pneumonia"}
    root = make_set(tmp_path, n=10, boxes=[box, other])
    write_shards(root, "phantom-rsna", ShardOptions(samples=30))
    tests = open_testset(ShardSet.open(Folders(root).shards("phantom-rsna")))
    region = Regions(tests.reader(), np.array([4]), kind="boxes", shape=(32, 32)).of(np.array([4]))
    expected = np.zeros((32, 32), bool)
    expected[6:24, 4:16] = expected[0:8, 20:32] = True
    assert (region[0] == expected).mean() > 0.98
    assert region.sum() == pytest.approx(expected.sum(), rel=0.05)
