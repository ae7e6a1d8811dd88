"""Training of heads: what is learned, when it ends, and that a stop changes nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from imitate.contract import Stopped
from imitate.eval.heads.training import Curve, Lesson, Schedule, batches_of, fit
from imitate.shards.order import Ordinals
from imitate.work import Interrupts

ROWS = np.arange(40, dtype=np.int64) * 2 + 1


class Line(Lesson):
    """Fit a line through noisy points; dropout draws from torch's generator, as networks may."""

    def __init__(self, stop_after: int | None = None, interrupts: Interrupts | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Sequential(nn.Dropout(0.3), nn.Linear(3, 1), nn.BatchNorm1d(1))
        rng = np.random.default_rng(0)
        self.x = torch.from_numpy(rng.standard_normal((100, 3))).float()
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 1
        self.stop_after, self.interrupts, self.steps = stop_after, interrupts, 0

    def losses(self, batches: Sequence[Ordinals], epoch: int) -> Iterator[Tensor]:
        self.module.train()
        for rows in batches:
            self.steps += 1
            if self.steps == self.stop_after and self.interrupts:
                self.interrupts.signal = 2
            yield (self.module(self.x[rows])[:, 0] - self.y[rows]).square().mean()

    @torch.no_grad()
    def judge(self) -> float:
        self.module.eval()
        return float((self.module(self.x[::2])[:, 0] - self.y[::2]).square().mean())


def schedule(**over: float) -> Schedule:
    known = {"lr": 0.05, "weight_decay": 0.01, "batch": 8, "epochs": 6, "patience": 6}
    return Schedule(**(known | over))  # type: ignore[arg-type]


def taught(folder: Path, plan: Schedule, lesson: Line | None = None) -> tuple[Line, Curve]:
    lesson = lesson or Line()
    interrupts = lesson.interrupts or Interrupts()
    return lesson, fit(lesson, ROWS, plan, seed=1, folder=folder, interrupts=interrupts)


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    lesson, curve = taught(tmp_path, schedule(lr=0.3))
    assert len(curve.judged) == 6 and curve.judged[curve.best] == min(curve.judged)
    assert lesson.judge() == curve.judged[curve.best] < curve.judged[0]


def test_it_ends_when_patience_does(tmp_path: Path) -> None:
    # without steps to speak of nothing improves
    _, curve = taught(tmp_path, schedule(lr=1e-30, weight_decay=0, epochs=50, patience=3))
    assert len(curve.judged) - 1 - curve.best == 3 < 50


def test_the_state_holds_what_training_changes_and_nothing_else(tmp_path: Path) -> None:
    lesson = Line()
    weight = lesson.module[1].weight.requires_grad_(False)
    before = weight.clone()
    taught(tmp_path, schedule(), lesson)
    names = {name.split(" ")[1] for name in load_file(tmp_path / "epoch.safetensors")}
    assert "1.weight" not in names and {"1.bias", "2.running_mean"} < names
    assert torch.equal(weight, before)
    other = Line()
    other.module[1].weight.requires_grad_(False)
    taught(tmp_path, schedule(), other)
    assert other.steps == 0 and other.judge() == lesson.judge()


@pytest.mark.parametrize("stop_after", [3, 6, 13])
def test_a_stopped_training_goes_on_as_if_it_never_was(tmp_path: Path, stop_after: int) -> None:
    whole, curve = taught(tmp_path / "whole", schedule())
    first = Line(stop_after, Interrupts())
    with pytest.raises(Stopped):
        taught(tmp_path / "cut", schedule(), first)
    again, other = taught(tmp_path / "cut", schedule())
    assert other == curve and again.steps == whole.steps - 5 * ((stop_after - 1) // 5)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    done, finished = taught(tmp_path / "cut", schedule())
    assert done.steps == 0 and finished == curve


def test_a_torn_state_starts_anew(tmp_path: Path) -> None:
    _, curve = taught(tmp_path, schedule())
    (tmp_path / "epoch.safetensors").write_bytes(b"torn")
    lesson, again = taught(tmp_path, schedule())
    assert again == curve and lesson.steps == 6 * 5


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3))
def test_batches_are_whole_and_take_each_sample_once(n: int, batch: int, epoch: int) -> None:
    rows = np.arange(n, dtype=np.int64) * 7
    batches = batches_of(rows, batch, seed=0, epoch=epoch)
    taken = np.concatenate(batches).tolist()
    assert {len(part) for part in batches} == {min(n, batch)}
    assert len(set(taken)) == len(taken) > n - min(n, batch)
    assert set(taken) <= set(rows.tolist())


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = {
        tuple(np.concatenate(batches_of(ROWS, 8, seed=seed, epoch=epoch)).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
