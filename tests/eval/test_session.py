"""Which sets are evaluated, under which protocol, by how many ranks, and the tables over all."""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from imitate.contract import Exit, Folders, ImitateError, InputError, UsageError
from imitate.eval.commands import register
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.run import Evaluation
from imitate.eval.tasks.registry import TASKS, choose_tasks
from imitate.eval.tasks.task import EvalOptions
from imitate.eval.testset import open_testset
from imitate.files import read_json, write_json
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards
from imitate.work import alone

Make = Callable[..., Path]
SET = "phantom-rsna"


def run(root: Path, dataset: str, *arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    words = [dataset, "--root", str(root), *map(str, arguments)]
    return CliRunner().invoke(app, words)


def done(root: Path, dataset: str, *arguments: object) -> str:
    result = run(root, dataset, "--quiet", *arguments)
    if result.exception:
        raise result.exception
    return result.stdout


def failure(result: Result) -> ImitateError:
    assert isinstance(result.exception, ImitateError), result.exception
    return result.exception


def tell_protocol(root: Path, name: str, protocol: str, **more: object) -> None:
    """Let the card of a prepared set name the protocol it was prepared under."""
    path = Folders(root).prepared(name) / "card.json"
    write_json(path, read_json(path) | {"archive": {"protocol": {"name": protocol}}} | more)


def results(root: Path, dataset: str) -> list[dict[str, str]]:
    path = Folders(root).run("run") / "eval" / dataset / "results.csv"
    with path.open() as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def both(root: Path, make_set: Make) -> Path:
    """The set under clean, and again under paper with other films."""
    make_set(root, f"{SET}-paper", n=120, first=300)
    tell_protocol(root, f"{SET}-paper", "paper")
    return root


def test_a_protocol_chooses_the_set_prepared_under_it(both: Path) -> None:
    done(both, SET, "--protocol", "paper", "--no-control")
    rows = results(both, f"{SET}-paper")
    assert {(row["dataset"], row["protocol"]) for row in rows} == {(f"{SET}-paper", "paper")}
    f1 = [r for r in rows if (r["task"], r["metric"], r["label"]) == ("zeroshot", "f1", "Edema")]
    assert {row["threshold_source"] for row in f1} == {"test", "validate"}
    done(both, SET, "--no-control")
    assert {row["protocol"] for row in results(both, SET)} == {"clean"}
    # the set's own protocol holds without the option
    done(both, f"{SET}-paper", "--task", "linear", "--no-control")
    assert {row["protocol"] for row in results(both, f"{SET}-paper")} == {"paper"}


def test_a_protocol_that_is_not_prepared_is_named(both: Path) -> None:
    error = failure(run(both, SET, "--protocol", "mgca"))
    assert error.code == Exit.USAGE and "clean" in str(error)
    error = failure(run(both, "nih", "--protocol", "paper"))
    assert error.code == Exit.INPUT and "imitate prep nih SRC --protocol paper" in str(error)
    error = failure(run(both, "phantom-rsn"))
    assert error.code == Exit.INPUT and f"prepared are {SET}, {SET}-paper; imitate prep" in str(
        error
    )
    error = failure(run(both, SET, "--protocol", "papers"))
    assert error.code == Exit.USAGE and "clean, paper, mgca, benchx" in str(error)


def test_a_progress_that_there_is_not_is_refused_though_all_is_done(root: Path) -> None:
    done(root, SET, "--task", "zeroshot", "--no-control")
    words = ("--task", "zeroshot", "--no-control", "--progress", "dots")
    assert failure(run(root, SET, *words)).code == Exit.USAGE


def test_anew_is_alone_and_leaves_what_it_cannot_make(root: Path) -> None:
    done(root, SET, "--task", "linear", "--no-control")
    folder = Folders(root).run("run") / "eval" / SET
    before = (folder / "results.json").read_bytes()
    impossible = failure(run(root, SET, "--task", "detect", "--no-resume"))
    assert impossible.code == Exit.USAGE
    with alone(folder, "evaluating"):
        busy = failure(run(root, SET, "--task", "linear", "--no-control", "--no-resume"))
    assert busy.code == Exit.USAGE and "another process" in str(busy)
    assert (folder / "results.json").read_bytes() == before
    done(root, SET, "--task", "zeroshot", "--no-control", "--no-resume")
    assert {row["task"] for row in results(root, SET)} == {"zeroshot"}


def test_damaged_marks_are_made_again_where_they_are_asked_for(root: Path) -> None:
    words = ("--task", "linear", "--task", "zeroshot", "--no-control")
    done(root, SET, *words)
    folder = Folders(root).run("run") / "eval" / SET
    before = (folder / "results.json").read_bytes()
    (linear,) = folder.glob("cells/*/linear-*/*.json")
    (features,) = folder.glob("features/*/own-features.json")
    for path in (linear, features, folder / "statistics.json"):
        path.write_text("{")
    with pytest.raises(InputError) as error:
        done(root, SET, "--task", "zeroshot", "--no-control")
    assert "--no-resume" in error.value.todo
    done(root, SET, *words)
    assert (folder / "results.json").read_bytes() == before


def test_a_control_stands_once_and_is_subtracted(root: Path, make_run: Make) -> None:
    make_run(root, "other", seed=5)
    words = ("--run", "run", "--run", "other", "--task", "linear", "--seeds", 2, "--fraction", 0.5)
    text = done(root, SET, *words, "--draws", 2)
    joined = text[text.index("draws and seeds together") : text.index("paired difference")]
    names = [line.split("  ")[0] for line in joined.splitlines()[1:] if line]
    assert names == ["run", "other", "random", "no-pixels"]
    compared = text[text.index("paired difference") :].splitlines()
    pairs = [line.split("  ")[0] for line in compared[1:] if " - " in line]
    assert "other - no-pixels" in pairs and not any(p.startswith("no-pixels") for p in pairs)


def test_overlap_is_refused_under_clean_only(both: Path, make_run: Make) -> None:
    name = f"{SET}-paper"
    digest = write_shards(both, name, ShardOptions(samples=30)).digest
    make_run(both, "leaking", trained_on={"name": name, "digest": digest})
    path = Folders(both).shards(name)
    tests = open_testset(ShardSet.open(path))
    assert tests.protocol == "paper"
    done(both, name, "--run", "leaking", "--task", "zeroshot", "--no-control")


def test_pictures_that_a_protocol_also_trains_on_are_in_train(
    tmp_path: Path, make_set: Make
) -> None:
    for protocol, leaks in (("mgca", True), ("paper", False)):
        root = make_set(tmp_path / protocol, metadata={"also": "train"})
        tell_protocol(root, SET, protocol)
        shards = ShardSet.open(write_shards(root, SET, ShardOptions(samples=30)).path)
        tests = open_testset(shards)
        train = set(tests.films["train"].tolist())
        for split in ("validate", "test"):
            films = set(tests.films[split].tolist())
            assert films and (films <= train) == leaks


def test_all_evaluates_every_set_and_writes_a_table_a_task(both: Path, make_set: Make) -> None:
    make_set(both, "bare", n=20, first=700, labels={})
    result = run(both, "all", "--task", "linear", "--task", "zeroshot", "--fraction", 0.3, "--json")
    document = json.loads(result.stdout)
    assert "bare is left out" in result.stderr and document["dataset"] == "all"
    assert {row["dataset"] for row in document["rows"]} == {SET, f"{SET}-paper"}
    folder = Folders(both).run("run") / "eval"
    assert document["tables"] == [str(folder / f"{task}.md") for task in ("zeroshot", "linear")]
    table = (folder / "linear.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| run", "| random", "| no-pixels"]
    title = f"{SET} (phantom), clean 30 %, auroc"
    place = [cell.strip() for cell in table[0].strip("| ").split("|")].index(title)
    (value,) = (
        float(row["value"])
        for row in results(both, SET)
        if (row["encoder"], row["task"]) == ("run", "linear")
        and (row["metric"], row["label"]) == ("auroc", "macro")
    )
    assert table[2].strip("| ").split("|")[place].strip() == f"{100 * value:.1f}"
    with (folder / "linear.csv").open() as handle:
        rows = [r for r in csv.DictReader(handle) if (r["dataset"], r["encoder"]) == (SET, "run")]
    assert [float(row["value"]) for row in rows] == [value]
    latex = (folder / "linear.tex").read_text()
    assert r"30 \%" in latex and latex.count(r"\\") == 4 and "no-pixels &" in latex


def test_all_encoders_of_a_call_stand_in_one_table(root: Path, make_run: Make) -> None:
    make_run(root, "other", seed=5)
    asked = ("--run", "run", "--run", "other", "--task", "linear", "--fraction", 0.3)
    text = done(root, "all", *asked)
    assert text.count("#  linear") == text.count("paired difference") == 1
    head, *lines = text.split("#  linear")[1].splitlines()
    names = [line.split()[1] for line in lines[:4]]
    # the control of one architecture and seed is the same whoever stands beside it
    assert names == ["run", "other", "random", "no-pixels"], head
    tables = [(Folders(root).run(n) / "eval" / "linear.md").read_text() for n in ("run", "other")]
    assert tables[0] == tables[1] and tables[0].count("\n| ") == 5


def test_tasks_that_cannot_be_done_are_named_with_the_reason(root: Path) -> None:
    result = run(root, SET, "--task", "zeroshot", "--task", "detect", "--task", "ground")
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("not measured"))
    assert line.startswith(f"not measured on {SET}: detect: no film of the train split")
    assert "; ground: " in line and "zeroshot" not in line


def test_all_of_a_protocol_takes_its_sets_only(both: Path) -> None:
    text = done(both, "all", "--protocol", "paper", "--task", "zeroshot", "--no-control")
    assert f"{SET}-paper" in text and not (Folders(both).run("run") / "eval" / SET).exists()
    error = failure(run(both, "all", "--protocol", "benchx"))
    assert error.code == Exit.INPUT and "benchx" in str(error)


def test_tasks_come_in_the_order_of_the_tables() -> None:
    assert choose_tasks((), augment=False) == ("zeroshot", "linear")
    assert choose_tasks(("finetune", "linear"), augment=True) == ("linear-augmented", "finetune")
    every = choose_tasks(("all",), augment=False)
    assert set(every) == set(TASKS) - {"linear-augmented"}
    assert set(choose_tasks(("all",), augment=True)) == set(TASKS) - {"linear"}
    with pytest.raises(UsageError, match="--augment"):
        choose_tasks(("finetune",), augment=True)


def test_seeds_are_of_heads_too(root: Path) -> None:
    tests = open_testset(ShardSet.open(Folders(root).shards(SET)))
    folder = Folders(root).run("run")
    source = OurModel(folder / "model", name="run", seed=3, access="open")
    options = EvalOptions(tasks=("linear", "finetune"), fractions=(0.1, 1.0), draws=2, seeds=2)
    cells = Evaluation(source, tests, folder / "eval" / SET, options).cells()
    planned = [
        (cell.encoder, cell.task, cell.fraction, cell.draw, cell.head_seed) for cell in cells
    ]
    shares = [(0.1, 0), (0.1, 1), (1.0, 0)]
    for encoder, seeds in (("run", [0, 1]), ("random", [0, 1])):
        tuned = {(*share, seed) for share in shares for seed in seeds}
        assert {c[2:] for c in planned if c[:2] == (encoder, "finetune")} == tuned
    # the convex head has no seed of its own: one for the encoder, one for each control
    linear = [(cell[0], cell[4]) for cell in planned if cell[1] == "linear" and cell[2] == 1.0]
    assert {*linear} == {("run", 0), ("random", 0), ("random", 1), ("no-pixels", 0)}
    assert len(set(planned)) == len(planned)


def test_grey_levels_are_matched_when_asked_for(root: Path, make_set: Make, make_run: Make) -> None:
    make_set(root, "other", first=400, dataset="other")
    path = Folders(root).prepared("other") / "card.json"
    write_json(path, read_json(path) | {"counts": {"norm": {"mimic": 160}}})
    digest = write_shards(root, "other", ShardOptions(samples=30)).digest
    make_run(root, "on-mimic", trained_on={"name": "other", "digest": digest})
    asked = (SET, "--run", "on-mimic", "--task", "zeroshot", "--no-control")
    told = run(root, *asked)
    assert "--match-norm" in told.stderr and "mimic" in told.stderr
    folder = Folders(root).run("on-mimic") / "eval" / SET
    plain = read_json(folder / "results.json")
    done(root, *asked, "--match-norm")
    matched = read_json(folder / "results.json")
    assert (plain["norm"], matched["norm"]) == (None, "mimic")
    assert plain["rows"] != matched["rows"]


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_two_ranks_write_the_bytes_of_one(
    root: Path, tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    asked = ["--fraction", "0.3", "--fraction", "1", "--quiet"]
    other = make_set(tmp_path / "other")
    make_run(other)
    write_shards(other, SET, ShardOptions(samples=30))
    assert "PHANTOM" in done(root, SET, *asked)
    command = [sys.executable, "-m", "imitate", "eval", SET, "--root", str(other), *asked]
    told = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | told | {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate()[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert "PHANTOM" in said[0] and not said[1]
    trees = [
        {
            str(path.relative_to(place)): path.read_bytes()
            for path in sorted((Folders(place).run("run") / "eval" / SET).rglob("*"))
            if path.is_file()
        }
        for place in (root, other)
    ]
    assert trees[0] == trees[1]
