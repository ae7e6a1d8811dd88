"""A run: the right shard set, its own folder, its provenance, and what becomes of damage."""

import dataclasses
import json
import shutil

import pytest
import torch

from imitate.contract import Folders, InputError, TooManyFaults, UsageError
from imitate.files import blake3_file
from imitate.options import FaultBudget
from imitate.shards.manifest import ShardSet
from imitate.train.bound import TrainOptions, bind, pick_device
from imitate.train.identity import training_rows
from imitate.train.logbook import read_metrics
from imitate.train.network.folder import load_model
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

QUIET = TrainOptions(quiet=True, device="cpu")


@pytest.fixture(scope="module")
def root(whole_root, tmp_path_factory):
    """The root of the finished run."""
    return shutil.copytree(whole_root, tmp_path_factory.mktemp("finished") / "root")


@pytest.fixture(scope="module")
def finished(root, tiny_recipe):
    return train(root, tiny_recipe, QUIET)


def test_the_run_folder_is_whole(finished):
    assert {path.name for path in finished.path.iterdir()} == {
        "recipe.yaml",
        "card.json",
        "metrics.jsonl",
        "curves.png",
        "checkpoints",
        "model",
        "log.txt",
    }
    assert (finished.steps, finished.samples, finished.damaged) == (10, 40, 0)
    rows = read_metrics(finished.path / "metrics.jsonl")
    assert finished.loss == rows[-1]["loss"]
    assert set(rows[0]) == {
        *("step", "samples", "epoch", "loss", "lr", "samples_per_s", "data_wait"),
        *("loss/impression", "loss/findings"),
    }


def test_the_card_tells_where_everything_came_from(finished, root, tiny_recipe):
    card = json.loads((finished.path / "card.json").read_text())
    shards = ShardSet.open(Folders(root).shards("tiny"))
    assert card["finished"] is True
    assert card["recipe_digest"] == tiny_recipe.digest
    assert card["dataset"]["digest"] == shards.digest
    assert card["dataset"]["prepared"] == shards.card["source"]
    assert (card["seed"], card["access"], card["damaged"]) == (42, "open", [])
    assert card["weights_blake3"] == blake3_file(finished.path / "model" / "model.safetensors")
    assert card["run"]["threads"] == torch.get_num_threads()
    assert card["prior"]["findings"]["off_share"] > 0
    assert set(card["run"]) == {
        *("command", "started", "finished", "seconds"),
        *("device", "ranks", "threads", "machine", "python"),
    }


def test_the_recipe_beside_it_makes_the_same_run(finished, root, tiny_recipe):
    again = load_recipe(str(finished.path / "recipe.yaml"))
    assert again == tiny_recipe
    assert train(root, again, QUIET).fresh


def test_the_model_folder_loads(finished):
    loaded = load_model(finished.path / "model")
    images = torch.zeros(2, 24, 24, dtype=torch.uint8)
    assert loaded.embed_images(images).shape == (2, 16)
    assert loaded.card["name"] == finished.run
    assert "run" not in loaded.card


def test_a_finished_run_says_so_and_changes_nothing(finished, root, tiny_recipe):
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}
    again = train(root, tiny_recipe, QUIET)
    assert again.fresh
    assert (again.run, again.loss) == (finished.run, finished.loss)
    assert before == {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}


def test_the_name_is_a_function_of_recipe_and_data(finished, root, tiny_recipe, make_set):
    assert finished.run.startswith("demo-tiny-")
    assert len(finished.run) == len("demo-tiny-") + 8
    other = dataclasses.replace(tiny_recipe, seed=1)
    assert bind(root, other, QUIET).run.name != finished.run


def test_without_resume_it_starts_anew_beside_it(finished, root, tiny_recipe):
    bound = bind(root, tiny_recipe, dataclasses.replace(QUIET, resume=False))
    assert bound.run.name == f"{finished.run}-2"


def test_another_recipe_under_a_name_shows_the_differences(finished, root, tiny_recipe):
    other = dataclasses.replace(tiny_recipe, seed=1)
    with pytest.raises(UsageError, match="seed: 42 there, 1 here") as caught:
        train(root, other, dataclasses.replace(QUIET, name=finished.run))
    assert caught.value.code == 2


def test_other_data_under_a_name_is_refused(tiny_root, tiny_recipe, make_set):
    named = dataclasses.replace(QUIET, name="mine", data="tiny")
    train(tiny_root, tiny_recipe, named)
    make_set(tiny_root, "other")
    with pytest.raises(UsageError, match="data set: "):
        train(tiny_root, tiny_recipe, dataclasses.replace(named, data="other"))


def test_the_only_set_with_text_is_taken(tiny_root, tiny_recipe, make_set):
    make_set(tiny_root, "films", text=False)
    assert bind(tiny_root, tiny_recipe, QUIET).shards.name == "tiny"
    make_set(tiny_root, "more")
    with pytest.raises(UsageError, match="more, tiny") as caught:
        bind(tiny_root, tiny_recipe, QUIET)
    assert "--data" in caught.value.todo
    chosen = dataclasses.replace(QUIET, data="more")
    assert bind(tiny_root, tiny_recipe, chosen).shards.name == "more"


def test_without_a_set_it_says_what_makes_one(tmp_path, tiny_recipe, make_set):
    with pytest.raises(InputError, match="no shard set") as caught:
        bind(tmp_path, tiny_recipe, QUIET)
    assert "imitate prep" in caught.value.todo and "imitate shard" in caught.value.todo
    with pytest.raises(InputError):
        bind(tmp_path, tiny_recipe, dataclasses.replace(QUIET, data="none"))
    make_set(tmp_path, "films", text=False)
    with pytest.raises(InputError, match="films has no reports"):
        bind(tmp_path, tiny_recipe, dataclasses.replace(QUIET, data="films"))


def test_only_samples_with_a_report_are_trained_on(root):
    shards = ShardSet.open(Folders(root).shards("tiny"))
    rows = training_rows(shards)
    assert set(rows) <= set(shards.rows("train"))
    assert all(shards.column("n_findings")[r] + shards.column("n_impression")[r] for r in rows)


def test_too_large_a_batch_is_refused_before_anything_is_written(tiny_root, tiny_settings):
    recipe = load_recipe("demo", (*tiny_settings, "data.batch=32"))
    with pytest.raises(UsageError, match="32 cannot be filled from 20"):
        train(tiny_root, recipe, QUIET)
    assert not (tiny_root / "runs").exists()


def test_a_missing_text_encoder_leaves_no_run(tiny_root, tiny_settings):
    recipe = load_recipe("demo", (*tiny_settings, "text.model=nobody/nothing"))
    with pytest.raises(InputError, match="nobody/nothing") as caught:
        train(tiny_root, recipe, QUIET)
    assert "--allow-download" in caught.value.todo
    assert not (tiny_root / "runs").exists()


def damage(root, ordinal, member):
    """Flip a byte of one member of a sample."""
    shards = ShardSet.open(Folders(root).shards("tiny"))
    path = shards.folder / "shards" / shards.column("shard")[ordinal]
    data = bytearray(path.read_bytes())
    place = int(shards.column("offset")[ordinal]) + int(shards.column(f"{member}_off")[ordinal])
    data[place + int(shards.column(f"{member}_len")[ordinal]) // 2] ^= 1
    path.write_bytes(bytes(data))
    return shards.column("key")[ordinal]


@pytest.mark.parametrize("member", ["png", "json"])
def test_a_damaged_sample_is_over_the_budget_of_so_few(tiny_root, tiny_recipe, member):
    damage(tiny_root, 3, member)
    with pytest.raises(TooManyFaults):
        train(tiny_root, tiny_recipe, QUIET)


@pytest.mark.parametrize("member", ["png", "json"])
def test_a_damaged_sample_within_the_budget_is_named(tiny_root, tiny_recipe, member):
    key = damage(tiny_root, 3, member)
    options = dataclasses.replace(QUIET, budget=FaultBudget(number=1))
    report = train(tiny_root, tiny_recipe, options)
    assert report.damaged == 1
    assert json.loads((report.path / "card.json").read_text())["damaged"] == [key]
    assert key in (report.path / "log.txt").read_text()


def test_credentialed_data_is_private(tmp_path, tiny_recipe, make_set):
    make_set(tmp_path, "secret", access="credentialed")
    report = train(tmp_path, tiny_recipe, QUIET)
    assert json.loads((report.path / "card.json").read_text())["access"] == "credentialed"
    for path in [report.path, *report.path.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_no_report_text_reaches_card_log_or_metrics(finished):
    for name in ("card.json", "log.txt", "metrics.jsonl", "recipe.yaml"):
        text = (finished.path / name).read_text().lower()
        assert "effusion" not in text and "lungs" not in text


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="tpu"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no GPU"):
            pick_device("cuda")


def test_another_number_of_threads_is_said(tiny_root, tiny_recipe):
    report = train(tiny_root, tiny_recipe, QUIET)
    card = json.loads((report.path / "card.json").read_text())
    card["finished"], card["run"]["threads"] = False, 64
    (report.path / "card.json").write_text(json.dumps(card))
    train(tiny_root, tiny_recipe, QUIET)
    log = (report.path / "log.txt").read_text()
    assert f"threads 64 before, {torch.get_num_threads()} now" in log
