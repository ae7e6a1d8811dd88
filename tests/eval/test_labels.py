"""Labels that exclude each other, from the phantom of a set of three classes to its numbers."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from typer.testing import CliRunner

from imitate.contract import Folders, InputError
from imitate.eval.commands import register
from imitate.eval.intervals import resamples
from imitate.eval.metrics import METRICS, Settled
from imitate.eval.protocols.setting import read_setting
from imitate.eval.statistics.answers import Answers, answer_rows
from imitate.eval.statistics.comparison import groups_of, summary_rows
from imitate.eval.statistics.recompute import recompute
from imitate.eval.tasks.labels import exclusive
from imitate.eval.testset import TestSet, open_testset
from imitate.files import read_json, read_rows, write_json, write_table
from imitate.prep.commands import app
from imitate.prep.phantoms.covidx import write_covidx
from imitate.schema import PREDICTIONS
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards

Make = Callable[..., Path]
SET = "phantom-covidx"
WORDS = ["COVID-19", "normal", "pneumonia"]


def prepare(root: Path, classes: int) -> Path:
    write_covidx(root / "source", patients=120, seed=2, size=32, classes=classes)
    words = [root / "source", "--root", root, "--name", SET, "--size", 32, "--quiet"]
    app(["covidx", *map(str, words), "--classes", str(classes)], standalone_mode=False)
    write_shards(root, SET, ShardOptions(samples=60))
    return root


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    root = prepare(tmp_path_factory.mktemp("covidx"), classes=3)
    make_run(root)
    evaluation = typer.Typer()
    register(evaluation)
    words = ["--task", "linear", "--task", "zeroshot", "--fraction", "0.5", "--draws", "2"]
    result = CliRunner().invoke(evaluation, [SET, "--root", str(root), "--quiet", *words])
    if result.exception:
        raise result.exception
    assert "top1" in result.stdout
    return root


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    return Folders(Path(shutil.copytree(evaluated, tmp_path / "root"))).run("run") / "eval" / SET


def opened(root: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(root).shards(SET)))


def predicted(folder: Path, cell: dict[str, Any]) -> tuple[list[str], list[str]]:
    """True and top-scored class of each film of a cell, read back from predictions.parquet."""
    films: dict[str, dict[str, Any]] = {}
    for row in read_rows(folder / "predictions.parquet", PREDICTIONS):
        if all(row[name] == cell[name] for name in ("encoder", "task", "draw", "head_seed")):
            films.setdefault(row["key"], {})[row["label"]] = row
    true = [next(n for n, row in f.items() if row["target"] == 1) for f in films.values()]
    top = [max(f, key=lambda name: f[name]["score"]) for f in films.values()]
    return true, top


def test_top1_follows_from_the_predictions_of_every_cell(folder: Path) -> None:
    rows = [row for row in read_json(folder / "results.json")["rows"] if row["metric"] == "top1"]
    assert {row["task"] for row in rows} == {"linear", "zeroshot"}
    assert {row["encoder"] for row in rows} == {"run", "random", "no-pixels"}
    for row in rows:
        true, top = predicted(folder, row)
        assert row["value"] == pytest.approx(accuracy_score(true, top))
        assert (row["label"], row["n"], row["threshold_source"]) == ("macro", len(true), None)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["ci_method"] == "bootstrap-subjects-1000"
    with (folder / "results.csv").open(newline="") as handle:
        assert sum(row["metric"] == "top1" for row in csv.DictReader(handle)) == len(rows)
    assert recompute(folder).differences == ()


def test_shares_of_the_probe_sum_to_one_and_those_of_prompts_need_not(folder: Path) -> None:
    sums: dict[tuple[str, str, str, int], float] = {}
    for row in read_rows(folder / "predictions.parquet", PREDICTIONS):
        place = (row["task"], row["encoder"], row["key"], row["draw"])
        sums[place] = sums.get(place, 0.0) + row["score"]
    linear = [total for (task, *_), total in sums.items() if task == "linear"]
    assert linear == pytest.approx(np.ones(len(linear)))
    assert max(total for (task, *_), total in sums.items() if task == "zeroshot") > 1.2


def test_a_changed_top1_or_prediction_is_found(folder: Path) -> None:
    document = read_json(folder / "results.json")
    row = next(row for row in document["rows"] if row["metric"] == "top1")
    row["value"] += 0.001
    write_json(folder / "results.json", document)
    (line,) = (line for line in recompute(folder).differences if "statistics" not in line)
    assert "top1" in line and "macro" in line
    row["value"] -= 0.001
    write_json(folder / "results.json", document)
    rows = read_rows(folder / "predictions.parquet", PREDICTIONS)
    for row in rows:
        row["score"] += 2.0 if row["task"] == "linear" and row["target"] == 0 else 0.0
    write_table(folder / "predictions.parquet", PREDICTIONS, rows)
    assert any("top1" in line for line in recompute(folder).differences)


def test_draws_are_joined_for_top1_too(folder: Path) -> None:
    document = read_json(folder / "results.json")
    values = [
        row["value"]
        for row in document["rows"]
        if (row["metric"], row["encoder"], row["task"]) == ("top1", "run", "linear")
    ]
    (joined,) = (
        row
        for row in read_json(folder / "statistics.json")["summary"]
        if (row["metric"], row["encoder"], row["task"]) == ("top1", "run", "linear")
    )
    assert joined["value"] == pytest.approx(np.mean(values))
    assert joined["repeats"] == len(values) == 2 and joined["ci_low"] < joined["ci_high"]


def asked(tests: TestSet, task: str = "linear", protocol: str = "clean") -> bool:
    """Ask of a set what a task asks of it, by the words of the protocol."""
    setting = read_setting(protocol, task, tests.archive)
    assert setting is not None
    return exclusive(tests, setting)


def test_three_classes_exclude_each_other_under_every_protocol(evaluated: Path) -> None:
    tests = opened(evaluated)
    assert list(tests.labels) == WORDS
    for task in ("zeroshot", "linear", "linear-augmented", "finetune"):
        assert asked(tests, task) and asked(tests, task, "paper")
    assert asked(tests, "linear", "mgca") and asked(tests, "linear", "benchx")


def test_two_classes_are_one_label_and_other_archives_have_findings(
    tmp_path: Path, built: Path
) -> None:
    binary = opened(prepare(tmp_path, classes=2))
    assert binary.labels == ("COVID-19",) and not asked(binary)
    other = open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))
    assert len(other.labels) == 3 and not asked(other)


@pytest.mark.parametrize("values", [(1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, np.nan)])
def test_a_film_without_exactly_one_class_is_an_error(
    evaluated: Path, values: tuple[float, ...]
) -> None:
    tests = opened(evaluated)
    targets = tests.splits["validate"].targets.copy()
    targets[3] = values
    wrong = replace(tests.splits["validate"], targets=targets)
    with pytest.raises(InputError, match="1 labelled films of validate"):
        asked(replace(tests, splits={**tests.splits, "validate": wrong}))


def classes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One-hot targets [N, 3], and scores in which the class stands out a little."""
    rng = np.random.default_rng(seed)
    target = np.eye(3)[rng.integers(0, 3, n)]
    return target, 1 / (1 + np.exp(-(target + rng.standard_normal((n, 3)))))


def answers(target: np.ndarray, score: np.ndarray) -> Answers:
    samples = [(f"a{i:03d}", f"s{i // 2:03d}") for i in range(len(target))]
    return Answers.of("abc", samples, target, score, [Settled(slope=1.0)] * 3, exclusive=True)


def test_top1_of_answers_has_one_row_and_an_interval_over_subjects() -> None:
    target, score = classes(80, 0)
    rows = answer_rows(answers(target, score), {}, seed=0)
    plain = answer_rows(replace(answers(target, score), exclusive=False), {}, seed=0)
    (row,) = (row for row in rows if row["metric"] == "top1")
    assert [r for r in rows if r["metric"] != "top1"] == plain and rows[-1] is row
    true = target.argmax(axis=1)
    assert row["value"] == pytest.approx(top_k_accuracy_score(true, score, k=1))
    assert (row["n"], row["n_pos"], row["n_subjects"]) == (80, None, 40)
    own = answers(target, score)
    spread = own.spread(("f1", "top1", "auroc"), seed=0)
    weights = np.concatenate(list(resamples(own.units, seed=0)))
    for replicate in range(0, 1000, 50):
        drawn = np.repeat(np.arange(80), weights[replicate].astype(int))
        naive = top_k_accuracy_score(true[drawn], score[drawn], k=1, labels=[0, 1, 2])
        assert spread[replicate, 0, 1] == pytest.approx(naive)
    assert np.isnan(spread[:, 1:, 1]).all()
    apart = own.spread(("f1", "auroc"), seed=0)
    assert np.array_equal(spread[:, :, [0, 2]], apart, equal_nan=True)
    assert np.array_equal(own.spread(("top1",), seed=0), spread[:, :, 1:2], equal_nan=True)


def test_a_class_that_could_not_be_learned_counts_as_missed() -> None:
    target, score = classes(60, 1)
    score[:, 2] = np.nan
    rows = answer_rows(answers(target, score), {}, seed=0)
    (row,) = (row for row in rows if row["metric"] == "top1")
    right = (target[:, :2].argmax(axis=1) == score[:, :2].argmax(axis=1)) & (target[:, 2] == 0)
    assert row["value"] == pytest.approx(right.mean()) and row["n"] == 60


def test_too_few_films_have_no_top1() -> None:
    rows = answer_rows(answers(*classes(8, 2)), {}, seed=0)
    assert [r["value"] for r in rows if r["metric"] == "top1"] == [None]


def test_only_classes_have_a_summary_of_top1() -> None:
    cell = {"encoder": "run", "run_digest": "d", "task": "linear", "protocol": "clean"}
    cells = [cell | {"fraction": 0.1, "draw": draw, "head_seed": 0} for draw in (0, 1)]
    both = [answers(*classes(60, seed)) for seed in (3, 4)]
    for exclude, metrics in ((True, (*METRICS, "top1")), (False, METRICS)):
        kept = [replace(each, exclusive=exclude) for each in both]
        (group,) = groups_of("covidx", "run", list(zip(cells, kept, strict=True)))
        assert tuple(row["metric"] for row in summary_rows(group, seed=0)) == metrics
