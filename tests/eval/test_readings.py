"""A test split under automatic labels and under a radiologist's: two test sets of one shard set."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from imitate.cli import app
from imitate.contract import Folders
from imitate.eval.report.opened import RunFolder
from imitate.eval.report.origin import command_section, data_section, origin_section
from imitate.eval.testset import TestSet, open_readings
from imitate.files import read_json, read_rows
from imitate.page import Prose, Table
from imitate.prep.phantoms.mimic import write_mimic
from imitate.schema import PREDICTIONS
from imitate.shards.manifest import ShardSet

SET, READ = "phantom-mimic", "phantom-mimic-radiologist"
CSV = "mimic-cxr-2.1.0-test-set-labeled.csv"
CONTESTED = "Cardiomegaly"


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> Path:
    """A root with a phantom MIMIC-CXR-JPG, prepared and sharded, and a run.

    Its radiologist holds the opposite of every report on the size of the heart.
    """
    root = tmp_path_factory.mktemp("mimic")
    write_mimic(root / "source", studies=240, seed=4, size=32, jpg=True, anomalies=False)
    rows = table(root)
    with (root / "source" / CSV).open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {CONTESTED: 1 - float(row[CONTESTED])})
    shared = ("--root", root, "--quiet")
    call("prep", "mimic", root / "source", "--name", SET, "--size", 32, *shared)
    call("shard", *shared)
    make_run(root)
    return root


@pytest.fixture(scope="module")
def evaluated(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, evaluated on every set; retrieval is asked for too."""
    root = Path(shutil.copytree(sharded, tmp_path_factory.mktemp("evaluated") / "root"))
    tasks = ("--task", "zeroshot", "--task", "linear", "--task", "retrieve")
    told = json.loads(call("eval", "all", *tasks, "--root", root, "--json").stdout)
    assert {row["dataset"] for row in told["rows"]} == {SET, READ}
    assert told["paths"] == [str(folder(root, name)) for name in (SET, READ)]
    return root


@pytest.fixture
def root(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "root"))


@pytest.fixture
def readings(sharded: Path) -> list[TestSet]:
    return open_readings(ShardSet.open(Folders(sharded).shards(SET)))


def folder(root: Path, name: str) -> Path:
    return Folders(root).run("run") / "eval" / name


def table(root: Path) -> list[dict[str, str]]:
    with (root / "source" / CSV).open() as handle:
        return list(csv.DictReader(handle))


def read_labels(root: Path) -> dict[str, dict[str, str]]:
    """The radiologist's table by study, under the names of the automatic labels."""
    return {
        row["study_id"]: {n.replace("Airspace", "Lung"): row[n] for n in row if n != "study_id"}
        for row in table(root)
    }


def scores(root: Path, name: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """Score and target of each film by encoder, task, label and key."""
    rows = read_rows(folder(root, name) / "predictions.parquet", PREDICTIONS)
    return {
        (row["encoder"], row["task"], row["label"], row["key"]): (row["score"], row["target"])
        for row in rows
    }


def test_the_second_reading_is_the_radiologists_table(
    sharded: Path, readings: list[TestSet]
) -> None:
    first, second = readings
    told = read_labels(sharded)
    studies = second.of("study_id", second.test)
    assert [s for s in first.of("study_id", first.test) if s in told] == studies
    for study, target_L in zip(studies, second.test.targets, strict=True):
        assert dict(zip(second.labels, target_L, strict=True)) == {
            name: float(value) for name, value in told[str(study)].items()
        }
    assert (first.name, second.name) == (SET, READ)
    assert first.names == second.names and first.archive == second.archive == "mimic"
    assert not any("radiologist" in name for name in (*first.labels, *second.labels))
    assert second.films["test"].tolist() == second.test.ordinals.tolist()


def test_train_and_validate_keep_their_automatic_labels(readings: list[TestSet]) -> None:
    first, second = readings
    places = [second.labels.index(name) for name in first.labels]
    for split in ("train", "validate"):
        assert np.array_equal(first.films[split], second.films[split])
        one, other = first.splits[split], second.splits[split]
        assert np.array_equal(one.ordinals, other.ordinals)
        assert np.array_equal(one.targets, other.targets[:, places], equal_nan=True)
        others = np.delete(other.targets, places, axis=1)
        assert np.isnan(others).all()
    drawn = [each.fraction("train", 0.3, draw=1).ordinals.tolist() for each in readings]
    assert drawn[0] == drawn[1]


def test_a_set_that_no_radiologist_read_has_one_reading(built: Path) -> None:
    (only,) = open_readings(ShardSet.open(Folders(built).shards("phantom-rsna")))
    assert (only.name, only.reading) == ("phantom-rsna", None)


def test_both_readings_score_the_same_films_alike(evaluated: Path) -> None:
    first, second = (scores(evaluated, name) for name in (SET, READ))
    common = first.keys() & second.keys()
    assert {place[1] for place in common} == {"zeroshot", "linear"}
    again = {place: second[place][0] for place in common}
    assert again == pytest.approx({place: first[place][0] for place in common}, abs=1e-12)
    differ = {place[2] for place in common if first[place][1] != second[place][1]}
    assert differ == {CONTESTED}
    assert {place[3] for place in second} < {place[3] for place in first}


def test_what_labels_do_not_decide_is_measured_once(evaluated: Path) -> None:
    told = [read_json(folder(evaluated, name) / "results.json") for name in (SET, READ)]
    tasks = [{row["task"] for row in document["rows"]} for document in told]
    assert tasks == [{"zeroshot", "linear", "retrieve"}, {"zeroshot", "linear"}]
    assert [(d["dataset"], d["reading"], d["shards"]) for d in told] == [
        (SET, None, SET),
        (READ, "radiologist", SET),
    ]


def test_frozen_features_are_shared(root: Path) -> None:
    assert not (folder(root, READ) / "features").exists()
    kept = {p: p.stat().st_mtime_ns for p in folder(root, SET).glob("features/*/*.npy")}
    assert len(kept) == 6  # of the run and of its control: pooled, embedded, for retrieval
    before = (folder(root, READ) / "results.csv").read_bytes()
    shutil.rmtree(folder(root, READ))
    call("eval", SET, "--root", root, "--quiet")
    assert (folder(root, READ) / "results.csv").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in folder(root, SET).glob("features/*/*.npy")} == kept


def test_a_damaged_film_is_missing_in_its_readings_only(
    sharded: Path, readings: list[TestSet], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(sharded, tmp_path / "root"))
    first, second = (set(each.of("key", each.test)) for each in readings)
    key = str(min(first - second))
    shards = ShardSet.open(Folders(root).shards(SET))
    at = shards.column("key").index(key)
    offset, png, length = (int(shards.column(n)[at]) for n in ("offset", "png_off", "png_len"))
    path = shards.folder / "shards" / shards.column("shard")[at]
    data = bytearray(path.read_bytes())
    data[offset + png + length // 2] ^= 0xFF
    path.write_bytes(data)
    call(
        *("eval", SET, "--root", root, "--task", "linear", "--no-control", "--quiet"),
        *("--max-failures", 1),
    )
    damaged = [read_json(folder(root, name) / "results.json")["damaged"] for name in (SET, READ)]
    assert damaged == [[key], []]


def test_no_resume_begins_both_anew(root: Path) -> None:
    asked = ("--task", "zeroshot", "--no-control", "--no-resume")
    call("eval", SET, "--root", root, "--quiet", *asked)
    for name in (SET, READ):
        rows = read_json(folder(root, name) / "results.json")["rows"]
        assert {(row["encoder"], row["task"]) for row in rows} == {("run", "zeroshot")}


def test_retrieval_alone_has_no_second_reading(root: Path) -> None:
    shutil.rmtree(Folders(root).run("run") / "eval")
    told = json.loads(
        call("eval", SET, "--root", root, "--task", "retrieve", "--no-control", "--json").stdout
    )
    assert (told["dataset"], told["paths"]) == (SET, [str(folder(root, SET))])


def test_one_command_makes_both_again_and_the_report_shows_both(evaluated: Path) -> None:
    run = RunFolder.open(Folders(evaluated).run("run"))
    assert [each.name for each in run.evaluations] == [SET, READ]
    assert all(each.shards is not None for each in run.evaluations) and [*run.sets] == [SET]
    words = [b.text.split() for b in command_section(run).blocks if isinstance(b, Prose)]
    assert {line[2] for line in words if line[:2] == ["imitate", "eval"]} == {SET}
    shards = [line[2] for line in words if line[:2] == ["imitate", "shard"]]
    assert shards == ["x", SET]  # x is what the run was trained on
    (chain, *_) = (b for b in origin_section(run).blocks if isinstance(b, Table))
    assert [row[1] for row in chain.rows if row[0] == "shards to test on"] == [SET]
    data = data_section(run)
    assert data is not None
    table = data.blocks[0]
    assert isinstance(table, Table)
    (row,) = (row for row in table.rows if row[0] == "labels of the test split")
    assert "radiologist" in str(row[table.columns.index(f"test: {READ}")])
    assert row[table.columns.index(f"test: {SET}")] is None
    page = (run.folder / "report.html").read_text()
    assert page.count(f"<h2>{SET}") == 2 and page.count(f"<h2>{READ}") == 1


def test_tables_and_recomputed_numbers_know_both(evaluated: Path) -> None:
    head = (Folders(evaluated).run("run") / "eval" / "zeroshot.md").read_text().splitlines()[0]
    assert f"{SET} (phantom), clean" in head and f"{READ} (phantom), clean" in head
    told = json.loads(call("report", Folders(evaluated).run("run"), "--recompute", "--json").stdout)
    assert (told["evaluations"], told["differences"]) == (2, [])


def test_prompts_settings_and_policies_are_those_of_the_archive(evaluated: Path) -> None:
    told = [read_json(folder(evaluated, name) / "results.json") for name in (SET, READ)]
    cells = [
        {cell["cell"]["encoder"]: cell for cell in document["cells"] if "prompts" in cell}
        for document in told
    ]
    for encoder, cell in cells[0].items():
        other = cells[1][encoder]
        for label, pair in cell["prompts"].items():
            assert other["prompts"][label] == pair
            assert other["settled"][label] == cell["settled"][label]  # on automatic labels


def test_without_automatic_labels_the_radiologists_alone_are_scored(
    sharded: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sharded / "source", source)
    for path in source.glob("*chexpert*"):
        path.unlink()
    shutil.copytree(sharded / "runs", tmp_path / "runs")
    shared = ("--root", tmp_path, "--quiet")
    call("prep", "mimic", source, "--name", SET, "--size", 32, *shared)
    asked = ("eval", SET, "--task", "zeroshot", "--task", "linear", "--root", tmp_path)
    result = call(*asked, "--no-control", "--json")
    assert {row["dataset"] for row in json.loads(result.stdout)["rows"]} == {READ}
    assert f"not measured on {SET}: zeroshot: {SET} has no label" in result.stderr
    assert not (folder(tmp_path, SET) / "results.json").exists()
    nothing = CliRunner().invoke(
        app,
        [str(word) for word in (*asked[:2], "--task", "linear")]
        + ["--root", str(tmp_path), "--quiet"],
    )
    assert "nothing to evaluate" in str(nothing.exception)
