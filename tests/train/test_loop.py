"""The loop: the position is one integer, and stopping anywhere changes nothing."""

import json
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from imitate.contract import InputError, Stopped, UsageError
from imitate.files import blake3_file
from imitate.train.checkpoint import Checkpoints
from imitate.train.logbook import TIMED, Logbook, read_metrics
from imitate.train.loop import Length, Loop
from imitate.train.optim import OptimConfig
from imitate.work import Interrupts, Progress

CPU = torch.device("cpu")
BATCH, PER_EPOCH, EPOCHS = 4, 5, 2
LENGTH = Length(global_batch=BATCH, steps_per_epoch=PER_EPOCH, epochs=EPOCHS)


class Line:
    """A task: fit a line; batches are functions of the step."""

    def __init__(self, stop_at=None, number=signal.SIGINT, bad_at=None):
        generator = torch.Generator().manual_seed(3)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        for parameter in self.model.parameters():
            parameter.data = torch.rand(parameter.shape, generator=generator)
        self.stop_at, self.number, self.bad_at = stop_at, number, bad_at
        self.seen = []

    def batches(self, start):
        for step in range(start, LENGTH.steps):
            yield step, torch.rand(BATCH, 3, generator=torch.Generator().manual_seed(step))

    def keys(self, batch):
        return [f"key-{batch[0]}-{place}" for place in range(12)]

    def loss(self, batch):
        step, x = batch
        self.seen.append(step)
        if step == self.stop_at:
            signal.raise_signal(self.number)
        error = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        if step == self.bad_at:
            error = error * float("nan")
        return {"fit": error, "size": x.mean(), "loss": error + 0.1 * x.mean()}


def train(folder, task, config=None, every=3):
    with Logbook(folder, quiet=True) as logbook:
        checkpoints = Checkpoints(folder / "checkpoints", every=every * BATCH, keep=2)
        loop = Loop(
            task,
            config or OptimConfig(lr=0.05, epochs=EPOCHS),
            LENGTH,
            device=CPU,
            logbook=logbook,
            checkpoints=checkpoints,
        )
        loop.resume()
        batches = task.batches(loop.step)
        with Interrupts() as interrupts, Progress("train", 1, "none") as progress:
            loop.run(batches, interrupts, progress)
    return loop


def equal_part(folder):
    """All of a run that must not depend on when it was stopped."""
    rows = read_metrics(folder / "metrics.jsonl")
    checkpoints = {p.name: blake3_file(p) for p in (folder / "checkpoints").iterdir()}
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows], checkpoints


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    loop = train(folder, Line())
    return equal_part(folder), {n: t.clone() for n, t in loop.task.model.state_dict().items()}


def test_every_step_is_recorded(straight):
    (rows, checkpoints), _ = straight
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["samples"] for row in rows] == list(range(4, 44, 4))
    assert [row["epoch"] for row in rows] == [0] * 5 + [1] * 5
    assert rows[0]["lr"] == 0.05 and rows[-1]["lr"] < 0.01
    for row in rows:
        assert set(row) == {"step", "samples", "epoch", "lr", "loss", "loss/fit", "loss/size"}
        assert row["loss"] == pytest.approx(row["loss/fit"] + 0.1 * row["loss/size"], abs=1e-6)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {name[:20] for name in checkpoints} == {"samples-000000000036", "samples-000000000040"}


def test_timed_fields_are_there_too(tmp_path):
    train(tmp_path, Line())
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["samples_per_s"] > 0
        assert 0 <= row["data_wait"] <= 1


@settings(max_examples=3, deadline=None)
@given(stops=st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(sorted))
def test_stopping_twice_is_never_having_stopped(straight, tmp_path_factory, stops):
    folder = tmp_path_factory.mktemp("stopped")
    for stop in stops:
        task = Line(stop_at=stop)
        with pytest.raises(Stopped) as caught:
            train(folder, task)
        assert caught.value.code == 130
        assert task.seen[-1] == stop  # the step under way is finished, and none is begun after it
    loop = train(folder, Line())
    assert loop.task.seen[0] == stops[1] + 1  # nothing finished is done again
    assert equal_part(folder) == straight[0]
    weights = loop.task.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in straight[1].items())


def test_a_termination_has_its_own_exit_code(tmp_path):
    with pytest.raises(Stopped) as caught:
        train(tmp_path, Line(stop_at=4, number=signal.SIGTERM))
    assert caught.value.code == 143


def test_lines_after_the_checkpoint_are_taken_again(straight, tmp_path):
    task = Line(bad_at=7)  # dies after the checkpoint at step 6, with step 7 already recorded
    with pytest.raises(UsageError):
        train(tmp_path, task)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 7
    loop = train(tmp_path, Line())
    assert loop.task.seen[0] == 6
    assert equal_part(tmp_path) == straight[0]


def test_a_damaged_checkpoint_costs_time_and_nothing_else(straight, tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, Line(stop_at=7))
    newest = max((tmp_path / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-9])
    loop = train(tmp_path, Line())
    assert loop.task.seen[0] == 6
    assert "is damaged" in (tmp_path / "log.txt").read_text()
    assert equal_part(tmp_path) == straight[0]


def test_a_finished_run_does_nothing(straight, tmp_path):
    train(tmp_path, Line())
    assert train(tmp_path, Line()).task.seen == []
    assert equal_part(tmp_path) == straight[0]


def test_a_loss_that_is_no_number_stops_with_the_keys(tmp_path):
    task = Line(bad_at=4)
    with pytest.raises(UsageError) as caught:
        train(tmp_path, task)
    text = str(caught.value)
    assert "fit, loss is not a finite number at step 5" in text
    assert "key-4-0" in text and "4 more in log.txt" in text and "optim.lr" in text
    assert "key-4-11" in (tmp_path / "log.txt").read_text()
    assert not any((tmp_path / "checkpoints").glob("samples-000000000020*"))


def test_clipping_limits_the_gradient(tmp_path):
    task = Line()
    train(tmp_path, task, OptimConfig(lr=1e-9, final_lr=0.0, epochs=EPOCHS, clip=1e-3))
    norm = torch.stack([p.grad.norm() for p in task.model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_half_precision_trains_too(tmp_path):
    train(tmp_path, Line(), OptimConfig(lr=0.05, epochs=EPOCHS, precision="bf16"))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_checkpoint_between_steps_is_refused(tmp_path):
    train(tmp_path, Line())
    held = Checkpoints(tmp_path / "checkpoints", every=1, keep=9)
    held.save(41, held.latest(pytest.fail).tensors)
    with pytest.raises(InputError, match="not at a step"):
        train(tmp_path, Line())


def test_settings_of_torch_are_put_back(tmp_path):
    assert not torch.are_deterministic_algorithms_enabled()
    train(tmp_path, Line())
    assert not torch.are_deterministic_algorithms_enabled()
