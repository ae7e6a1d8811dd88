"""Training k steps, stopping, resuming twice: to the bit as if never stopped (design.md 10.3)."""

import random
import signal

import pytest

from imitate.contract import Stopped
from imitate.train.bound import TrainOptions
from imitate.train.objective.task import PretrainTask
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

QUIET = TrainOptions(quiet=True)


def stop_at(monkeypatch, step):
    """Have a real signal come while the loss of a step is computed."""
    loss = PretrainTask.loss

    def signalled(task, batch):
        if batch.step == step:
            signal.raise_signal(signal.SIGINT)
        return loss(task, batch)

    monkeypatch.setattr(PretrainTask, "loss", signalled)
    return lambda: monkeypatch.setattr(PretrainTask, "loss", loss)


def stopped_twice(monkeypatch, root, recipe, stops, options=QUIET):
    for step in stops:
        undo = stop_at(monkeypatch, step)
        with pytest.raises(Stopped):
            train(root, recipe, options)
        undo()


@pytest.mark.parametrize("draw", [0, 1])
def test_stopped_twice_equals_never_stopped(
    monkeypatch, tiny_root, tiny_recipe, lasting_part, draw
):
    straight = train(tiny_root, tiny_recipe, QUIET)
    wanted = lasting_part(straight.path)
    straight.path.rename(straight.path.with_name("straight"))
    stops = sorted(random.Random(draw).sample(range(9), 2))
    stopped_twice(monkeypatch, tiny_root, tiny_recipe, stops)
    again = train(tiny_root, tiny_recipe, QUIET)
    assert (again.run, again.steps, again.loss) == (straight.run, 10, straight.loss)
    assert lasting_part(again.path) == wanted


def test_threads_may_change_on_resume(monkeypatch, tiny_root, tiny_recipe, lasting_part):
    straight = train(tiny_root, tiny_recipe, TrainOptions(quiet=True, workers=1))
    wanted = lasting_part(straight.path)
    straight.path.rename(straight.path.with_name("straight"))
    stopped_twice(monkeypatch, tiny_root, tiny_recipe, [4], TrainOptions(quiet=True, workers=3))
    again = train(tiny_root, tiny_recipe, TrainOptions(quiet=True, workers=2))
    assert lasting_part(again.path) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imitate", "paper-source", "clip"])
def test_every_recipe_resumes_to_the_bit(monkeypatch, tiny_root, tiny_settings, lasting_part, name):
    small = ("text.model=tiny", "model.backbone.name=tiny", *tiny_settings)
    recipe = load_recipe(name, small)
    straight = train(tiny_root, recipe, QUIET)
    wanted = lasting_part(straight.path)
    straight.path.rename(straight.path.with_name("straight"))
    stopped_twice(monkeypatch, tiny_root, recipe, [2, 7])
    assert lasting_part(train(tiny_root, recipe, QUIET).path) == wanted
