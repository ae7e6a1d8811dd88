"""The commands: what they print, where, and their exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer
import yaml
from typer.testing import CliRunner

from imitate.contract import ConfigError, Exit, InputError, Stopped, UsageError
from imitate.train.commands import register
from imitate.train.logbook import read_metrics
from imitate.train.objective.task import PretrainTask

app = typer.Typer()
register(app)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(root, settings, *more, recipe="demo"):
    sets = [part for setting in settings for part in ("--set", setting)]
    return invoke("train", recipe, "--root", root, *sets, *more)


def test_a_run_prints_its_result_and_the_next_command(tiny_root, tiny_settings):
    result = train(tiny_root, tiny_settings, "--progress", "lines")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert "10 steps, 40 samples, loss" in first
    assert second == f"next: imitate eval tiny --root {tiny_root}"
    assert "prior of impression: rows sum to 1.00-1.00" in result.stderr
    assert "train 40/40" in result.stderr and "data wait" in result.stderr
    again = train(tiny_root, tiny_settings)
    assert again.exit_code == 0
    assert "was finished before" in again.stdout
    assert again.stderr == ""


def test_json_is_the_contract_and_quiet_is_silent(tiny_root, tiny_settings):
    result = train(tiny_root, tiny_settings, "--json", "--quiet", "--name", "mine")
    assert result.exit_code == 0
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert set(found) == {"run", "steps", "samples", "loss", "seconds"}
    assert (found["run"], found["steps"], found["samples"]) == ("mine", 10, 40)


def test_a_cache_is_the_same_run_and_another_reader_is_another(tiny_root, tiny_settings):
    found = [
        json.loads(train(tiny_root, tiny_settings, "--json", *more).stdout)
        for more in (["--cache", "device"], ["--cache", "none"], ["--reader", "webdataset", "-n"])
    ]
    assert found[0]["run"] == found[1]["run"] != found[2]["run"]
    assert found[0]["loss"] == found[1]["loss"]
    refused = train(tiny_root, tiny_settings, "--reader", "other")
    assert isinstance(refused.exception, UsageError)


def test_a_dry_run_writes_nothing(tiny_root, tiny_settings):
    before = sorted(tiny_root.rglob("*"))
    result = train(tiny_root, tiny_settings, "--dry-run")
    assert result.exit_code == 0
    assert "20 samples with reports" in result.stdout
    assert "10: 2 epochs, batches of 4" in result.stdout
    found = json.loads(train(tiny_root, tiny_settings, "--dry-run", "--json").stdout)
    assert found["steps"] == 10
    assert found["parameters"] > 1000
    assert found["state_bytes"] == 16 * found["parameters"]
    assert found["activation_bytes"] > 0
    assert found["micro_batch"] == 4 and found["hours"] is None
    assert "micro-batch  none needed" in result.stdout and "--trial" in result.stdout
    rated = json.loads(train(tiny_root, tiny_settings, "-n", "--rate", "2", "--json").stdout)
    assert rated["hours"] == pytest.approx(40 / 2 / 3600)
    assert sorted(tiny_root.rglob("*")) == before


def test_activations_grow_with_the_batch(tiny_root, tiny_settings):
    small, large = (
        json.loads(train(tiny_root, (*tiny_settings, batch), "-n", "--json").stdout)
        for batch in ("data.batch=4", "data.batch=16")
    )
    assert large["activation_bytes"] == 4 * small["activation_bytes"]


@pytest.mark.parametrize(
    ("more", "error", "word"),
    [
        (("--device", "tpu"), UsageError, "tpu"),
        (("--progress", "loud"), UsageError, "loud"),
        (("--max-failures", "few"), UsageError, "few"),
        (("--data", "none"), InputError, "none"),
        (("--data", "../x"), UsageError, "name"),
        (("--name", "a/b"), UsageError, "name"),
        (("--set", "optim.lrr=1"), ConfigError, "did you mean optim.lr?"),
    ],
)
def test_what_cannot_be_is_said(tiny_root, tiny_settings, more, error, word):
    result = train(tiny_root, tiny_settings, *more)
    assert type(result.exception) is error
    assert word in str(result.exception)


def test_an_unknown_recipe_lists_all(tiny_root):
    result = invoke("train", "imitatee", "--root", tiny_root)
    assert result.exception.code == Exit.USAGE
    assert "clip, demo, imitate, imitate-plus" in str(result.exception)


def test_without_a_shard_set_it_names_prep_and_shard(tmp_path):
    result = invoke("train", "demo", "--root", tmp_path)
    assert result.exception.code == Exit.INPUT
    assert "imitate prep" in str(result.exception)
    assert "imitate shard" in str(result.exception)


def test_stopping_a_run_beside_names_the_command_that_resumes_it(
    tiny_root, tiny_settings, monkeypatch
):
    loss = PretrainTask.loss

    def signalled(task, batch):
        signal.raise_signal(signal.SIGINT)
        return loss(task, batch)

    monkeypatch.setattr(PretrainTask, "loss", signalled)
    monkeypatch.setattr(sys, "argv", ["imitate", "train", "demo", "--no-resume"])
    (tiny_root / "runs" / "mine").mkdir(parents=True)
    result = train(tiny_root, tiny_settings, "--no-resume", "--name", "mine")
    assert isinstance(result.exception, Stopped)
    assert result.exception.todo == "go on with: imitate train demo --name mine-2"


def test_config_show_prints_a_recipe_that_loads(tmp_path):
    result = invoke("config", "show", "clip", "--set", "optim.lr=1e-3")
    assert result.exit_code == 0
    tree = yaml.safe_load(result.stdout)
    assert (tree["name"], tree["optim"]["lr"]) == ("clip", 1e-3)
    (tmp_path / "mine.yaml").write_text(result.stdout)
    checked = invoke("config", "check", tmp_path / "mine.yaml")
    assert checked.exit_code == 0
    assert "recipe clip, no problems" in checked.stdout


def test_config_check_names_every_problem(tmp_path):
    (tmp_path / "bad.yaml").write_text("base: demo\nsead: 1\noptim: {lr: fast}\n")
    error = invoke("config", "check", tmp_path / "bad.yaml").exception
    assert error.code == Exit.USAGE
    assert "did you mean seed?" in str(error)
    assert "optim.lr must be a finite number, not 'fast'" in str(error)
    assert "bad.yaml" in str(error)


def test_a_terminated_process_saves_and_goes_on(tiny_root, tiny_settings):
    """The real program, from the command line."""
    sets = [part for setting in (*tiny_settings, "optim.epochs=40") for part in ("--set", setting)]
    command = [sys.executable, "-m", "imitate", "train", "demo", "--root", str(tiny_root), *sets]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    metrics = []
    while process.poll() is None and not metrics:
        time.sleep(0.01)
        metrics = [p for p in tiny_root.glob("runs/*/metrics.jsonl") if p.stat().st_size]
    process.terminate()
    stderr = process.communicate()[1]
    assert process.returncode == Exit.TERMINATED
    assert "go on with: imitate train demo --root" in stderr
    rows = read_metrics(metrics[0])
    newest = max(metrics[0].parent.glob("checkpoints/*.json"))
    assert json.loads(newest.read_text())["samples"] == rows[-1]["samples"]
