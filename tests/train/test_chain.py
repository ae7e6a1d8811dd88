"""A run's chain of cards: whatever is changed between the archive and the weights is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imitate.contract import Folders, UsageError
from imitate.files import read_json, read_rows, write_json, write_table
from imitate.schema import MANIFEST
from imitate.shards.reading.remote import open_remote
from imitate.shards.verify import verify_path
from imitate.train.bound import TrainOptions
from imitate.train.run import train


@pytest.fixture(scope="module")
def original(whole_root, tiny_recipe, tmp_path_factory):
    """A root with a finished run, and the name of the run."""
    root = shutil.copytree(whole_root, tmp_path_factory.mktemp("chain") / "root")
    return root, train(root, tiny_recipe, TrainOptions(quiet=True, device="cpu")).run


@pytest.fixture
def run(original, tmp_path):
    root, name = original
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return Folders(tmp_path).run(name)


def named(run: Path) -> set[tuple[str, str]]:
    verdict = verify_path(run)
    assert verdict.kind == "run"
    return {(problem.problem, problem.file) for problem in verdict.problems}


def test_a_finished_run_is_sound(run):
    verdict = verify_path(run)
    assert (verdict.kind, verdict.problems) == ("run", [])
    assert verdict.samples == read_json(run.parents[1] / "data/shards/tiny/dataset.json")["samples"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def newest(run: Path, ending: str) -> Path:
    return max((run / "checkpoints").glob(f"*.{ending}"))


def edit(path: Path, **changes: object) -> None:
    write_json(path, read_json(path) | changes)


def other_report(run: Path) -> None:
    path = run.parents[1] / "data/prepared/tiny/manifest.parquet"
    rows = read_rows(path, MANIFEST)
    rows[0]["impression"] = "Another impression."
    write_table(path, MANIFEST, rows)


def other_shards(run: Path) -> None:
    """A shard set that is whole, but not the one of this run."""
    card = read_json(run / "card.json")
    card["dataset"]["digest"] = "0" * 64
    write_json(run / "card.json", card)
    edit(run / "model" / "config.json", card=without_times(card))


def without_times(card: dict[str, object]) -> dict[str, object]:
    return {n: value for n, value in card.items() if n not in ("run", "weights_blake3")}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda run: flip(run / "model/model.safetensors"), "damaged model/model.safetensors"),
        (lambda run: (run / "model/model.safetensors").unlink(), "missing model/model.safetensors"),
        (lambda run: (run / "model/config.json").unlink(), "table model/config.json"),
        (lambda run: edit(run / "model/config.json", card={}), "table model/config.json"),
        (lambda run: (run / "card.json").unlink(), "table card.json"),
        (lambda run: (run / "card.json").write_text("{}"), "table card.json"),
        (other_shards, "damaged data/shards/tiny"),
        (
            lambda run: shutil.rmtree(run.parents[1] / "data/shards/tiny"),
            "missing data/shards/tiny",
        ),
        (
            lambda run: next(run.parents[1].glob("data/shards/tiny/shards/*")).unlink(),
            "missing data/shards/tiny",
        ),
        (
            lambda run: shutil.rmtree(run.parents[1] / "data/prepared/tiny"),
            "missing data/prepared/tiny",
        ),
        (other_report, "damaged data/prepared/tiny"),
        (
            lambda run: (run / "recipe.yaml").write_text(
                (run / "recipe.yaml").read_text().replace("seed: 42", "seed: 43")
            ),
            "table recipe.yaml",
        ),
    ],
)
def test_what_was_changed_is_named(run: Path, change: Callable[[Path], object], found: str) -> None:
    change(run)
    kind, file = found.split()
    assert named(run) == {(kind, file)}


def test_damaged_checkpoints_are_named(run):
    tensors, mark = newest(run, "safetensors"), newest(run, "json")
    whole = tensors.read_bytes()
    flip(tensors)
    assert named(run) == {("damaged", f"checkpoints/{tensors.name}")}
    tensors.unlink()
    assert named(run) == {("missing", f"checkpoints/{tensors.name}")}
    tensors.write_bytes(whole)
    edit(mark, samples=1)
    assert named(run) == {("damaged", f"checkpoints/{mark.name}")}
    mark.write_text(json.dumps({"samples": 1}))
    assert named(run) == {("damaged", f"checkpoints/{mark.name}")}


def test_several_problems_are_all_named(run):
    flip(run / "model/model.safetensors")
    flip(newest(run, "safetensors"))
    shutil.rmtree(run.parents[1] / "data")
    assert {problem for problem, _ in named(run)} == {"damaged", "missing"}
    assert len(named(run)) == 4


def test_a_run_on_its_way_needs_no_model(run):
    edit(run / "card.json", finished=False)
    shutil.rmtree(run / "model")
    assert named(run) == set()


def test_of_shards_read_from_elsewhere_the_kept_tables_do(run, tmp_path_factory):
    root = run.parents[1]
    there = tmp_path_factory.mktemp("there") / "tiny"
    shutil.move(root / "data" / "shards" / "tiny", there)
    shutil.rmtree(root / "data")
    shards = open_remote(root, f"file://{there}")
    verdict = verify_path(run)
    assert (verdict.samples, verdict.problems) == (shards.n, [])


def test_other_folders_below_runs_are_refused(tmp_path):
    (tmp_path / "runs" / "encoder-x").mkdir(parents=True)
    with pytest.raises(UsageError):
        verify_path(tmp_path / "runs" / "encoder-x")
