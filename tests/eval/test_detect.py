"""Detection in phantoms: what is found, what it depends on, and what is kept of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imitate.contract import Folders, InputError, Stopped
from imitate.eval.boxes import MEASURES, detection_rows
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.heads.detector import LEAST, Boxes
from imitate.eval.protocols.setting import at_fraction, read_setting
from imitate.eval.tasks.detect import Detect
from imitate.eval.tasks.task import EvalOptions, Found, Work
from imitate.eval.testset import TestSet, open_testset
from imitate.files import read_rows
from imitate.prep.commands import app
from imitate.prep.phantoms.object_cxr import write_object_cxr
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import DETECTIONS, MANIFEST
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.reader import ShardReader
from imitate.shards.write import write_shards
from imitate.work import Interrupts

SETTING = {
    "encoder": "frozen",
    "widths": [64, 32, 16],
    "extra": 0,
    "lr": 0.002,
    "weight_decay": 1e-6,
    "batch": 8,
    "epochs": 1,
    "patience": 10,
    "monitor": "loss",
}
MakeWork = Callable[..., Work]


def prepared(root: Path, archive: str) -> Path:
    arguments = [root / "source", "--root", root, "--name", "phantom", "--size", 64, "--quiet"]
    app([archive, *map(str, arguments)], standalone_mode=False)
    write_shards(root, "phantom", ShardOptions(samples=40))
    return root


@pytest.fixture(scope="module")
def rsna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rsna")
    write_rsna(root / "source", patients=160, seed=3, size=64)
    return prepared(root, "rsna")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    write_object_cxr(root / "source", pictures=60, seed=1, size=72)
    return prepared(root, "object-cxr")


def opened(root: Path, name: str = "phantom") -> TestSet:
    return open_testset(ShardSet.open(Folders(root).shards(name)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> OurModel:
    folder = make_run(tmp_path_factory.mktemp("run")) / "model"
    return OurModel(folder, name="run", seed=3, access="open")


@pytest.fixture(scope="module")
def make_work(
    rsna: Path,
    source: OurModel,
    tmp_path_factory: pytest.TempPathFactory,
    make_cell_work: MakeWork,
) -> MakeWork:
    def make(*, tests: TestSet | None = None, **over: object) -> Work:
        folder = tmp_path_factory.mktemp("work")
        known = {"task": "detect", "setting": SETTING}
        return make_cell_work(source, tests or opened(rsna), folder, **(known | over))

    return make


@pytest.fixture(scope="module")
def found(make_work: MakeWork) -> Found:
    """What came of a training that is long enough."""
    return Detect().do(make_work(setting=SETTING | {"epochs": 20}))


def rows_of(found: Found) -> list[dict[str, Any]]:
    ((table, data),) = found.tables
    assert table is DETECTIONS
    rows: list[dict[str, Any]] = data.to_pylist()
    return rows


def values(found: Found) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in found.rows}


def test_a_small_head_finds_the_opacities_of_the_phantoms(found: Found) -> None:
    value = values(found)
    assert value["map@50"] > 0.6 and value["map-mgca"] > 0.4 and value["map"] > 0.15
    assert found.facts["shape"] == [64, 64]
    assert found.facts["boxes"] == ["Pneumonia"]
    assert found.facts["losses"][-1] < found.facts["losses"][0] / 2
    assert len(found.files) == len(found.facts["overlays"]) == 8


def test_the_learning_rate_is_chosen_on_validation(make_work: MakeWork) -> None:
    found = Detect().do(make_work(setting=SETTING | {"lr": [1e-7, 0.003]}))
    assert found.facts["lr"] == 0.003


@pytest.mark.slow
def test_the_head_and_values_of_clean_find_them_too(make_work: MakeWork) -> None:
    setting = read_setting("clean", "detect", "rsna")
    assert setting is not None
    found = Detect().do(make_work(setting={**setting, "lr": 0.001}))
    assert values(found)["map-mgca"] > 0.4 and values(found)["map@50"] > 0.7


def test_all_numbers_follow_from_what_is_kept(found: Found, rsna: Path) -> None:
    tests, rows = opened(rsna), rows_of(found)
    assert [row["key"] for row in rows] == [
        tests.shards.column("key")[ordinal] for ordinal in tests.films["test"]
    ]
    again = list(detection_rows(rows, seed=0))
    assert [row["metric"] for row in found.rows] == [*MEASURES] == [r["metric"] for r in again]
    for row, other in zip(found.rows, again, strict=True):
        assert all(row[name] == other[name] for name in row.keys() & other.keys())
        assert (row["task"], row["encoder"], row["protocol"]) == ("detect", "run", "clean")
    known = {
        r["key"]: r for r in read_rows(rsna / "data/prepared/phantom/manifest.parquet", MANIFEST)
    }
    for row in rows:
        assert row["targets"] == known[row["key"]]["boxes"]
        assert len(row["predicted"]) == len(row["scores"]) <= 100
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert all(score >= LEAST for score in row["scores"])


def test_every_film_takes_part_with_boxes_or_without(
    make_work: MakeWork, found: Found, rsna: Path
) -> None:
    tests, told = opened(rsna), found.facts["trained_on"]
    positive = int((tests.splits["train"].targets == 1).sum())
    assert told == {"films": len(tests.films["train"]), "marked": positive}
    half = Detect().do(make_work(fraction=0.5))
    assert 0 < half.facts["trained_on"]["films"] < told["films"]
    (row,) = [row for row in found.rows if row["metric"] == "map"]
    assert row["n"] == len(tests.films["test"])
    assert row["n_pos"] == int((tests.test.targets == 1).sum())


def test_a_stop_between_epochs_and_more_workers_change_nothing(
    make_work: MakeWork, tmp_path: Path
) -> None:
    setting, folder = SETTING | {"epochs": 2}, tmp_path / "cut"
    whole = Detect().do(make_work(setting=setting))

    class After(Interrupts):
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked == 15:
                self.signal = 2
            super().check()

    with pytest.raises(Stopped):
        Detect().do(make_work(setting=setting, folder=folder, interrupts=After()))
    state = json.loads((folder / "lr-0.002" / "epoch.json").read_text())
    assert len(state["judged"]) == 1
    options = EvalOptions(progress="none", workers=3)
    again = Detect().do(make_work(setting=setting, folder=folder, options=options))
    assert rows_of(again) == rows_of(whole) and again.facts == whole.facts


@pytest.mark.parametrize("mode", ["frozen", "statistics"])
def test_the_shared_encoder_is_not_trained(make_work: MakeWork, mode: str) -> None:
    work = make_work(setting=SETTING | {"encoder": mode, "size": 32, "extra": 1})
    network = work.pictures.encoder.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = Detect().do(work)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert found.facts["shape"] == [32, 32]


def test_a_measure_may_choose_the_epoch(make_work: MakeWork) -> None:
    setting = SETTING | {"monitor": "map-mgca", "encoder": "statistics", "epochs": 2}
    found = Detect().do(make_work(setting=setting))
    assert all(-1 <= judged <= 1 for judged in found.facts["judged"])


def test_objects_are_found_on_films_of_another_shape(make_work: MakeWork, objects: Path) -> None:
    tests = opened(objects)
    found = Detect().do(make_work(tests=tests))
    assert found.facts["boxes"] == ["Foreign Object"]
    assert {row["label"] for row in found.rows} == {"Foreign Object"}
    assert len(rows_of(found)) == len(tests.films["test"])


def test_boxes_are_shares_of_their_films(rsna: Path) -> None:
    tests = opened(rsna)
    reader = ShardReader(tests.shards)
    boxes = Boxes(reader, tests.films["test"])
    marked = tests.films["test"][boxes.marked(tests.films["test"])][:2]
    empty = tests.films["test"][~boxes.marked(tests.films["test"])][:1]
    marks = boxes.marks(np.array([marked[0], empty[0], marked[1]]))
    expected = [
        (picture, box) for picture, at in ((0, marked[0]), (2, marked[1])) for box in boxes.of(at)
    ]
    assert marks.picture.tolist() == [picture for picture, _ in expected]
    for (_, box), centre, sides in zip(expected, marks.centre, marks.sides, strict=True):
        low, high = (centre - sides / 2) * 64, (centre + sides / 2) * 64
        np.testing.assert_allclose([*low, *high], corners(box), atol=1e-9)
    assert boxes.of(int(empty[0])) == []


def corners(box: dict[str, Any]) -> list[float]:
    return [box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]]


def damage(tests: TestSet, ordinal: int, member: str) -> str:
    """Turn over a byte of a sample's member inside its shard."""
    shards = tests.shards
    offset, inside, length = (
        int(shards.column(name)[ordinal]) for name in ("offset", f"{member}_off", f"{member}_len")
    )
    path = shards.folder / "shards" / shards.column("shard")[ordinal]
    data = bytearray(path.read_bytes())
    data[offset + inside + length // 2] ^= 0xFF
    path.write_bytes(data)
    return str(shards.column("key")[ordinal])


def test_damaged_pictures_and_boxes_are_left_out_and_named(
    make_work: MakeWork, rsna: Path, tmp_path: Path
) -> None:
    tests = opened(shutil.copytree(rsna, tmp_path / "copy"))
    picture, text = tests.films["test"][:2].tolist()
    keys = {damage(tests, picture, "png"), damage(tests, text, "json")}
    found = Detect().do(make_work(tests=tests))
    assert found.damaged == {picture, text}
    assert len(rows_of(found)) == len(tests.films["test"]) - 2
    assert not keys & {row["key"] for row in rows_of(found)}
    only = {"validate": tests.films["test"][:2]}
    with pytest.raises(InputError, match="damaged"):
        Detect().do(make_work(tests=replace(tests, films={**tests.films, **only})))


def test_sets_without_boxes_are_refused_with_a_reason(
    rsna: Path, built: Path, source: OurModel
) -> None:
    assert Detect().why_not(source, opened(rsna)) is None
    bare = opened(built, "phantom-rsna")
    assert "no film of the train split" in str(Detect().why_not(source, bare))


@pytest.mark.parametrize("protocol", ["clean", "mgca", "paper"])
@pytest.mark.parametrize("archive", ["rsna", "object-cxr"])
def test_protocols_tell_all_values(protocol: str, archive: str) -> None:
    setting = read_setting(protocol, "detect", archive)
    assert setting is not None and set(setting["headline"]) <= MEASURES.keys()
    assert SETTING.keys() <= setting.keys()
    assert setting["monitor"] in ("loss", *MEASURES) and len(setting["widths"]) == 3
    few = at_fraction(setting, 0.01)
    if protocol != "clean":
        rate = 0.00025 if (protocol, archive) == ("mgca", "object-cxr") else 0.0002
        assert (few["lr"], few["batch"]) == (rate, 8) and (setting["lr"], setting["batch"]) == (
            0.0005,
            16,
        )
