"""Validation: what is measured, that it touches nothing, the best step, and an early end."""

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from imitate.contract import ConfigError, Stopped, TooManyFaults
from imitate.options import FaultBudget
from imitate.shards.manifest import ShardSet
from imitate.train.bound import TrainOptions, bind
from imitate.train.logbook import TIMED, read_metrics
from imitate.train.objective.task import PretrainTask
from imitate.train.parts import build_parts
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train
from imitate.train.validation.config import ValidateConfig
from imitate.train.validation.measure import held_out_rows
from imitate.train.validation.outcome import outcome
from imitate.train.validation.selection import LOSS, Selection

QUIET = TrainOptions(quiet=True, device="cpu")


@pytest.fixture(scope="module")
def held_root(make_set, tmp_path_factory):
    """A root whose set holds out ten films, each third of them a lateral one."""
    root = tmp_path_factory.mktemp("held")
    views = ("PA", "AP", "LATERAL")
    make_set(root, "held", count=24, held_out=("validate",) * 10 + ("test",), views=views)
    return root


@pytest.fixture
def own_root(held_root, tmp_path):
    return shutil.copytree(held_root, tmp_path / "root")


@pytest.fixture(scope="module")
def recipe(tiny_settings):
    return load_recipe("demo", (*tiny_settings, "validate.every_steps=2"))


def with_settings(tiny_settings, *settings):
    return load_recipe("demo", (*tiny_settings, *settings))


def parts_of(root, recipe):
    bound = bind(root, recipe, QUIET)
    return build_parts(
        recipe,
        bound.shards,
        bound.plan.rows,
        device=bound.device,
        budget=FaultBudget(number=0),
        progress="none",
        allow_download=False,
    )


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_held_out_are_the_frontal_films_of_the_validate_split_with_a_report(held_root):
    shards = ShardSet.open(held_root / "data" / "shards" / "held")
    rows = held_out_rows(shards)
    assert {shards.column("split")[row] for row in rows} == {"validate"}
    assert {shards.column("view")[row] for row in rows} == {"PA", "AP"}
    frontal = [row for row in shards.rows("validate") if shards.column("view")[row] != "LATERAL"]
    assert rows.tolist() == frontal


def test_measuring_is_repeatable_and_touches_nothing(held_root, recipe):
    parts = parts_of(held_root, recipe)
    parts.task.model.train()
    before, draws = state_of(parts.task.model), torch.get_rng_state()
    first = parts.held_out.measure()
    assert first == parts.held_out.measure(workers=3)
    assert parts.task.model.training
    after = state_of(parts.task.model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(draws, torch.get_rng_state())


def test_the_loss_is_that_of_centre_crops_in_batches_of_the_size_trained_with(held_root, recipe):
    parts = parts_of(held_root, recipe)
    held_out, task = parts.held_out, parts.held_out.task
    rows = held_out.damage.rows
    assert held_out.batches.shape == (-(-len(rows) // 4), 4)
    assert set(held_out.batches.ravel().tolist()) == set(rows.tolist())
    assert len(set(held_out.batches.ravel()[: len(rows)].tolist())) == len(rows)
    losses = []
    task.model.eval()
    for number, ordinals in enumerate(held_out.batches):
        batch = task.prepare(parts.reader.images(ordinals), ordinals, step=number, epoch=0)
        with torch.no_grad():
            losses.append(task.loss(batch))
    found = held_out.measure()
    for name in ("impression", "findings"):
        mean = np.mean([float(loss[name]) for loss in losses])
        assert found[f"validate/loss/{name}"] == pytest.approx(mean, rel=1e-6)
    total = np.mean([float(loss["loss"]) for loss in losses])
    assert found["validate/loss"] == pytest.approx(total, rel=1e-6)


def test_vision_terms_are_not_measured(held_root, tiny_settings):
    terms = "loss.terms=[impression, findings, vision_impression, vision_findings]"
    found = parts_of(held_root, with_settings(tiny_settings, terms)).held_out.measure()
    assert {n for n in found if n.startswith("validate/loss/")} == {
        "validate/loss/impression",
        "validate/loss/findings",
    }


def test_recalls_are_those_of_the_embeddings_that_evaluation_takes(held_root, recipe):
    parts = parts_of(held_root, recipe)
    held_out, model = parts.held_out, parts.task.model
    rows, corpus = held_out.damage.rows, held_out.task.corpus
    has = corpus.row["impression"][corpus.positions(rows)] >= 0
    images = torch.from_numpy(parts.reader.images(rows[has]))
    # 24 x 24 films are made 18 x 18 by areas for the views, by another filter for evaluation
    views = held_out.task.prepare(images.numpy(), rows[has], step=0, epoch=0).views[:, 0]
    with torch.no_grad():
        model.eval()
        image = model.embed_levels(model.levels(views), branch="impression")
        text = model.embed_text_vectors(
            torch.from_numpy(
                corpus.embeddings[corpus.row["impression"][corpus.positions(rows[has])]]
            )
        )
    scores, codes = image @ text.T, corpus.same["impression"][corpus.positions(rows[has])]
    hit = [codes[row.argmax()] == codes[i] for i, row in enumerate(scores)]
    found = held_out.measure()
    assert found["validate/impression/image_to_text/same/r@1"] == pytest.approx(np.mean(hit))
    assert (
        found["validate/impression/image_to_text/pair/r@10"]
        >= found["validate/impression/image_to_text/pair/r@1"]
    )


def test_a_run_measures_at_its_steps_and_at_the_end(own_root, recipe, tiny_settings):
    report = train(own_root, recipe, QUIET)
    rows = read_metrics(report.path / "metrics.jsonl")
    measured = [row["step"] for row in rows if LOSS in row]
    assert measured == [2, 4, 6, 8, 10, 12]
    by_epoch = with_settings(tiny_settings, "validate.every_steps=null")
    rows = read_metrics(train(own_root, by_epoch, QUIET).path / "metrics.jsonl")
    assert [row["step"] for row in rows if LOSS in row] == [6, 12]


def test_validation_changes_no_training(own_root, recipe, tiny_settings):
    with_it = train(own_root, recipe, QUIET)
    without = train(own_root, with_settings(tiny_settings, "validate.every_steps=0"), QUIET)
    rows = read_metrics(without.path / "metrics.jsonl")
    assert not [row for row in rows if LOSS in row]
    files = [load_file(r.path / "model" / "model.safetensors") for r in (with_it, without)]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())


def test_the_best_state_is_kept_and_becomes_the_model(own_root, tiny_settings):
    best = with_settings(
        tiny_settings,
        "validate.every_steps=1",
        "validate.model=best",
        "checkpoint.every_steps=4",
        "optim.lr=0.05",  # soon worse
    )
    report = train(own_root, best, QUIET)
    rows = read_metrics(report.path / "metrics.jsonl")
    step = min(rows, key=lambda row: row[LOSS])["step"]
    assert step < 8  # else it would be kept in any case
    card = json.loads((report.path / "card.json").read_text())
    assert card["model"] == {"of": "best", "step": step, "samples": 4 * step}
    assert card["validation"]["best"] == {"step": step, "samples": 4 * step}
    assert card["validation"]["model"][LOSS] == min(row[LOSS] for row in rows)
    model = load_file(report.path / "model" / "model.safetensors")
    kept = load_file(report.path / "checkpoints" / f"samples-{4 * step:012d}.safetensors")
    assert all(torch.equal(tensor, kept[f"model {name}"]) for name, tensor in model.items())
    samples = {int(p.stem.split("-")[1]) for p in (report.path / "checkpoints").glob("*.json")}
    assert samples == {4 * step, 4 * 8, 4 * 12}
    assert "the best state" in (report.path / "model" / "README.md").read_text()


def test_patience_ends_a_run_early_and_it_counts_as_finished(own_root, tiny_settings):
    short = with_settings(
        tiny_settings, "validate.every_steps=1", "validate.patience=2", "optim.lr=0.05"
    )
    report = train(own_root, short, QUIET)
    rows = read_metrics(report.path / "metrics.jsonl")
    losses = [row[LOSS] for row in rows]
    best = losses.index(min(losses)) + 1
    assert report.steps == rows[-1]["step"] == best + 2 < 12
    assert report.samples == 4 * report.steps
    again = train(own_root, short, QUIET)
    assert again.fresh and (again.steps, again.loss) == (report.steps, report.loss)
    assert "so the run ends" in (report.path / "log.txt").read_text()


@pytest.mark.parametrize("stops", [(0, 2), (1, 3)])
def test_stopping_changes_neither_the_best_nor_the_end(
    own_root, tiny_settings, lasting_part, monkeypatch, stops
):
    settings = ("validate.every_steps=1", "validate.patience=3", "validate.model=best")
    recipe = with_settings(tiny_settings, *settings, "optim.lr=0.05")
    straight = train(own_root, recipe, QUIET)
    wanted = lasting_part(straight.path)
    straight.path.rename(own_root / "straight")
    losses = PretrainTask.losses
    for stop in stops:

        def signalled(task, features, batch, stop=stop):
            if batch.step == stop and task.model.training:
                signal.raise_signal(signal.SIGTERM)
            return losses(task, features, batch)

        monkeypatch.setattr(PretrainTask, "losses", signalled)
        with pytest.raises(Stopped):
            train(own_root, recipe, QUIET)
    monkeypatch.setattr(PretrainTask, "losses", losses)
    assert lasting_part(train(own_root, recipe, QUIET).path) == wanted


def rank(number, port, root, recipe):
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(root, recipe, QUIET)


def test_two_ranks_measure_what_one_measures(own_root, tiny_settings):
    recipe = with_settings(
        tiny_settings,
        "model.norm=frozen",
        "optim.epochs=1",
        "optim.lr=1e-9",  # so small a model would magnify rounding from step to step
        "optim.final_lr=0.0",
        "validate.every_steps=3",
    )
    alone = train(own_root, recipe, QUIET)
    wanted = read_metrics(alone.path / "metrics.jsonl")
    alone.path.rename(own_root / "alone")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imitate.train.run"])
    ranks = [context.Process(target=rank, args=(n, port, own_root, recipe)) for n in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    rows = read_metrics(alone.path / "metrics.jsonl")
    for row, other in zip(rows, wanted, strict=True):
        values = {name: value for name, value in other.items() if name not in TIMED}
        assert {n: row[n] for n in values} == pytest.approx(values, rel=1e-3)
    assert LOSS in rows[-1]


def test_a_set_that_holds_nothing_out_trains_all_the_same(tmp_path, tiny_recipe, make_set):
    make_set(tmp_path, "all", held_out=())
    report = train(tmp_path, tiny_recipe, QUIET)
    card = json.loads((report.path / "card.json").read_text())
    assert card["validation"] is None
    assert card["model"] == {"of": "last", "step": 10, "samples": 40}
    assert "nothing is validated" in (report.path / "log.txt").read_text()


def damage_held_out(root):
    """Flip a byte of the picture of a film that is held out; return its key."""
    shards = ShardSet.open(root / "data" / "shards" / "held")
    ordinal = int(held_out_rows(shards)[0])
    path = shards.folder / "shards" / shards.column("shard")[ordinal]
    data = bytearray(path.read_bytes())
    place = int(shards.column("offset")[ordinal]) + int(shards.column("png_off")[ordinal])
    data[place + int(shards.column("png_len")[ordinal]) // 2] ^= 1
    path.write_bytes(bytes(data))
    return shards.column("key")[ordinal]


def test_damaged_films_that_are_held_out_count_and_are_named(own_root, recipe):
    key = damage_held_out(own_root)
    with pytest.raises(TooManyFaults):
        train(own_root, recipe, QUIET)
    report = train(own_root, recipe, dataclasses.replace(QUIET, budget=FaultBudget(number=1)))
    assert json.loads((report.path / "card.json").read_text())["damaged"] == [key]


@given(st.lists(st.integers(0, 5), max_size=12), st.one_of(st.none(), st.integers(1, 4)))
def test_the_selection_is_a_function_of_the_metrics(losses, patience):
    rows = [{"step": 10 * (n + 1), LOSS: float(loss)} for n, loss in enumerate(losses)]
    found = Selection(patience=patience)
    for row in rows:
        found.note(row["step"], row[LOSS])
    again = Selection(patience=patience)
    again.recall([{"step": 1, "loss": -5.0}, *rows])
    assert found == again
    if not losses:
        assert (found.best, found.loss, found.spent) == (None, math.inf, False)
        return
    first = losses.index(min(losses))
    assert found.best == 10 * (first + 1)
    waited = len(losses) - 1 - first
    assert found.spent == (patience is not None and waited >= patience)


def test_an_outcome_without_measurement_is_the_last_step():
    rows = [{"step": 1, "samples": 4, "loss": 2.0}, {"step": 2, "samples": 8, "loss": 1.0}]
    found = outcome(rows, ValidateConfig(model="best"))
    assert found["validation"] is None
    assert found["model"] == {"of": "last", "step": 2, "samples": 8}
    assert (found["loss"], found["trained"]) == (1.0, {"step": 2, "samples": 8})


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"every_steps": -1}, "negative"),
        ({"patience": 0}, "patience"),
        ({"every_steps": 0, "patience": 1}, "needs a validation"),
        ({"every_steps": 0, "model": "best"}, "needs a validation"),
    ],
)
def test_what_cannot_be_is_refused(values, word):
    with pytest.raises(ConfigError, match=word):
        ValidateConfig(**values)
