"""A batch job that is warned: the run saves, asks to be queued again, and goes on."""

import json
import os
import signal

import pytest

from imitate.contract import Exit, Stopped
from imitate.train.bound import TrainOptions
from imitate.train.distribution.ranks import Ranks
from imitate.train.distribution.slurm import requeued
from imitate.train.objective.task import PretrainTask
from imitate.train.run import train


def options(*, requeue=True):
    return TrainOptions(quiet=True, device="cpu", requeue=requeue)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A program of that name which notes how it was called; its exit code can be set."""

    def install(code=0):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "scontrol").write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/called\nexit {code}\n'
        )
        (folder / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "4711")

    return install


def calls(tmp_path):
    path = tmp_path / "called"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def signalled(monkeypatch):
    """The function that has a real signal come while the losses of step 3 are computed."""
    losses = PretrainTask.losses

    def at_step_3(number):
        def acting(task, features, batch):
            if batch.step == 3 and task.model.training:
                signal.raise_signal(number)
            return losses(task, features, batch)

        monkeypatch.setattr(PretrainTask, "losses", acting)
        return lambda: monkeypatch.setattr(PretrainTask, "losses", losses)

    return at_step_3


def test_a_warned_job_saves_and_is_queued_again(
    tiny_root, tiny_recipe, scontrol, signalled, tmp_path, lasting_part
):
    straight = train(tiny_root, tiny_recipe, options())
    wanted = lasting_part(straight.path)
    straight.path.rename(tiny_root / "straight")
    scontrol()
    undo = signalled(signal.SIGUSR1)
    with pytest.raises(Stopped) as caught:
        train(tiny_root, tiny_recipe, options())
    undo()
    assert caught.value.code == Exit.TERMINATED and caught.value.warned
    assert "job 4711 is queued again" in caught.value.todo
    assert calls(tmp_path) == ["requeue 4711"]
    newest = max(straight.path.glob("checkpoints/*.json"))
    assert json.loads(newest.read_text())["samples"] == 16  # the step under way was finished
    assert lasting_part(train(tiny_root, tiny_recipe, options()).path) == wanted
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize(
    ("number", "requeue"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGUSR1, False)]
)
def test_no_other_signal_and_nothing_unasked_for_queues_a_job_again(
    tiny_root, tiny_recipe, scontrol, signalled, tmp_path, number, requeue
):
    scontrol()
    signalled(number)
    with pytest.raises(Stopped) as caught:
        train(tiny_root, tiny_recipe, options(requeue=requeue))
    assert "go on with" in caught.value.todo
    assert calls(tmp_path) == []


def stop(*, warned=True):
    raise Stopped("stopped", todo="go on with: imitate train", terminated=True, warned=warned)


@pytest.mark.parametrize("code", [0, 1])
def test_the_answer_is_said(scontrol, tmp_path, code):
    scontrol(code)
    with pytest.raises(Stopped) as caught, requeued():
        stop()
    assert calls(tmp_path) == ["requeue 4711"]
    assert ("refused" in caught.value.todo) == bool(code)
    assert ("go on with: imitate train" in caught.value.todo) == bool(code)


def test_without_scontrol_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Stopped) as caught, requeued():
        stop()
    assert "did not answer" in caught.value.todo and "go on with" in caught.value.todo


def test_one_rank_asks_for_all(scontrol, tmp_path):
    scontrol()
    for rank in range(3):
        with pytest.raises(Stopped), requeued(Ranks(rank=rank, count=3)):
            stop()
    assert calls(tmp_path) == ["requeue 4711"]


def test_outside_a_job_nothing_happens(scontrol, tmp_path, monkeypatch):
    scontrol()
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(Stopped), requeued():
        stop()
    assert calls(tmp_path) == []


def test_a_warning_before_the_first_step_counts_too(scontrol, tmp_path):
    scontrol()
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Stopped, match="before the first step") as caught, requeued():
        signal.raise_signal(signal.SIGUSR1)
    assert caught.value.code == Exit.TERMINATED
    assert calls(tmp_path) == ["requeue 4711"]
    assert signal.getsignal(signal.SIGUSR1) == before
