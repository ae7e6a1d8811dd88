"""The forecast: memory by a formula, the micro-batch that fits, and hours from a rate."""

import pytest

from imitate.contract import UsageError
from imitate.train import forecast as module
from imitate.train.bound import TrainOptions, bind
from imitate.train.commands import _check_forecast
from imitate.train.forecast import STATE, forecast
from imitate.train.recipes.recipe import load_recipe

QUIET = TrainOptions(quiet=True, device="cpu")


@pytest.fixture(scope="module")
def bound_to(whole_root, tiny_settings):
    def bound(*settings):
        return bind(whole_root, load_recipe("demo", (*tiny_settings, *settings)), QUIET)

    return bound


def of(bound, **more):
    return forecast(bound, allow_download=False, **more)


def test_hours_follow_from_a_rate(bound_to):
    found = of(bound_to(), rate=0.5)
    assert found.samples_per_s == 0.5
    assert found.hours == pytest.approx(40 / 0.5 / 3600)
    assert "0.0 hours at 0.5 samples/s" in found.text()
    unknown = of(bound_to())
    assert (unknown.samples_per_s, unknown.hours) == (None, None)
    assert "--trial" in unknown.text() and "--rate" in unknown.text()


@pytest.mark.parametrize("settings", [(), ("optim.micro_batch=2", "model.norm_group=2")])
def test_a_trial_times_steps_here(bound_to, settings):
    found = of(bound_to(*settings), trial=True)
    assert found.samples_per_s > 0
    assert found.hours == pytest.approx(40 / found.samples_per_s / 3600)


def test_the_micro_batch_is_the_largest_that_fits(bound_to, monkeypatch):
    bound = bound_to("data.batch=16", "model.norm_group=2")
    whole = of(bound)
    assert whole.micro_batch == 16  # this machine has the few MB
    state = STATE * whole.parameters
    assert whole.state_bytes == state
    for size in (16, 8, 4, 2):
        room = state + whole.activation_bytes * size / 16
        monkeypatch.setattr(module, "_memory_bytes", lambda device, room=room: int(room / 0.8) + 9)
        assert of(bound).micro_batch == size
    monkeypatch.setattr(module, "_memory_bytes", lambda device: state)
    tight = of(bound)
    assert tight.micro_batch is None
    assert "not even one group" in tight.text()


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (("data.batch=12", "model.norm_group=2"), [2, 4, 6, 12]),
        (("data.batch=12", "model.norm=frozen"), [1, 2, 3, 4, 6, 12]),
        (("data.batch=12", "model.norm=local"), [12]),
        (("data.batch=4", "model.norm_group=16"), [4]),
    ],
)
def test_micro_batches_are_those_that_change_no_loss(tiny_settings, settings, sizes):
    assert module._sizes(load_recipe("demo", (*tiny_settings, *settings))) == sizes


def test_it_says_by_what_samples_are_drawn(bound_to):
    image, study = of(bound_to()), of(bound_to("data.unit=study", "data.batch=2"))
    assert (image.unit, study.unit) == ("image", "study")
    assert "drawn by study" in study.text()
    assert study.steps == 2 * (10 // 2)


def test_it_says_the_precision(bound_to):
    full, half = of(bound_to()), of(bound_to("optim.precision=bf16"))
    assert (full.precision, half.precision) == ("fp32", "bf16")
    assert half.activation_bytes != full.activation_bytes
    assert half.state_bytes == full.state_bytes


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 5.0, "only_forecast": False, "timed": False},
        {"rate": None, "only_forecast": False, "timed": True},
        {"rate": 5.0, "only_forecast": True, "timed": True},
        {"rate": 0.0, "only_forecast": True, "timed": False},
    ],
)
def test_options_that_do_not_go_together_are_refused(given):
    with pytest.raises(UsageError, match="--rate"):
        _check_forecast(**given)
