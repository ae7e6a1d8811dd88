"""Half precision, the scale of fp16, channels last and compiling: as far as a CPU goes."""

import signal

import pytest
import torch

from imitate.contract import Stopped
from imitate.train.bound import TrainOptions
from imitate.train.checkpoint import Checkpoints
from imitate.train.logbook import read_metrics
from imitate.train.objective.task import PretrainTask
from imitate.train.optim import Mover, OptimConfig
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

QUIET = TrainOptions(quiet=True, device="cpu")
# torch's bf16 gradient of a 3 x 3 convolution of stride 2 is garbage where its map is 1 x 1
LARGER = ("model.image.size=24", "model.image.resize=24")


def run(root, settings, *more):
    recipe = load_recipe("demo", (*settings, *LARGER, "validate.every_steps=0", *more))
    report = train(root, recipe, QUIET)
    path = report.path.with_name("-".join(("kept", *more)).replace("/", "-"))
    report.path.rename(path)
    return path


def losses(folder):
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_full(tiny_root, tiny_settings, precision):
    slow = ("optim.lr=1e-5", "optim.eps=1e-3")
    full = run(tiny_root, tiny_settings, *slow)
    half = run(tiny_root, tiny_settings, *slow, f"optim.precision={precision}")
    assert losses(half)[0] == pytest.approx(losses(full)[0], rel=0.1)
    assert losses(half) != losses(full)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_resumes_to_the_bit(
    monkeypatch, tiny_root, tiny_settings, lasting_part, precision
):
    recipe = load_recipe("demo", (*tiny_settings, *LARGER, f"optim.precision={precision}"))
    straight = train(tiny_root, recipe, QUIET)
    wanted = lasting_part(straight.path)
    straight.path.rename(straight.path.with_name("straight"))
    loss = PretrainTask.loss

    def signalled(task, batch):
        if batch.step == 4:
            signal.raise_signal(signal.SIGINT)
        return loss(task, batch)

    monkeypatch.setattr(PretrainTask, "loss", signalled)
    with pytest.raises(Stopped):
        train(tiny_root, recipe, QUIET)
    monkeypatch.setattr(PretrainTask, "loss", loss)
    assert lasting_part(train(tiny_root, recipe, QUIET).path) == wanted
    tensors = (
        Checkpoints(straight.path / "checkpoints", every=1, keep=1).latest(pytest.fail).tensors
    )
    assert ("scale scale" in tensors) is (precision == "fp16")


def mover_of(parameter):
    config = OptimConfig(lr=0.1, precision="fp16")
    return Mover(config, [parameter], device=torch.device("cpu"), average=lambda tensors: None)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    parameter = torch.nn.Parameter(torch.ones(2))
    mover = mover_of(parameter)
    before = mover.scale()["scale"].item()
    mover.move((parameter * torch.tensor(float("inf"))).sum(), torch.autograd.backward, rate=0.1)
    assert parameter.tolist() == [1, 1]
    assert mover.scale()["scale"].item() == before / 2
    mover.move(parameter.sum(), torch.autograd.backward, rate=0.1)
    assert parameter.max() < 1


def test_the_scale_goes_on_where_it_was():
    one, other = (mover_of(torch.nn.Parameter(torch.ones(2))) for _ in range(2))
    one.move(one.parameters[0].sum(), torch.autograd.backward, rate=0.1)
    other.rescale(one.scale())
    assert other.scale() == one.scale() and one.scale()["_growth_tracker"] == 1


def test_channels_last_is_the_same_to_rounding(tiny_root, tiny_settings):
    slow = (*tiny_settings, "optim.lr=1e-5", "optim.eps=1e-3")
    first, last = (run(tiny_root, slow, f"optim.channels_last={v}") for v in ("false", "true"))
    assert losses(last)[:2] == pytest.approx(losses(first)[:2], rel=1e-3)
    one, other = (
        Checkpoints(folder / "checkpoints", every=1, keep=1).latest(pytest.fail).tensors
        for folder in (first, last)
    )
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}
    assert all(tensor.is_contiguous() for tensor in other.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_backbone_is_the_same_to_rounding(tiny_root, tiny_settings):
    slow = (*tiny_settings, "optim.lr=1e-5", "optim.eps=1e-3")
    eager, compiled = (run(tiny_root, slow, f"optim.compile={v}") for v in ("false", "true"))
    assert losses(compiled)[:2] == pytest.approx(losses(eager)[:2], rel=1e-3)
