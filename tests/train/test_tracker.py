"""Trackers: told the scalars and the recipe, nothing else, and never able to stop a run."""

import json
import re
import signal

import pytest

from imitate.contract import InputError, Stopped, UsageError
from imitate.train.bound import TrainOptions
from imitate.train.logbook import read_metrics
from imitate.train.objective.task import PretrainTask
from imitate.train.recipes.config import to_tree
from imitate.train.records.tracker import TensorBoard, choose_tracker
from imitate.train.run import train

MINE = '''
import json
from pathlib import Path

class Lines:
    """A tracker that writes what it is told into a file beside the runs."""

    online = {online}

    def begin(self, *, run, folder, config, step):
        self.file = (Path(folder).parent / "told.jsonl").open("a")
        self.tell(run=run, config=config, after=step)

    def tell(self, **told):
        self.file.write(json.dumps(told) + "\\n")

    def log(self, step, values):
        self.tell(step=step, values=values)
        if step == {fail_at}:
            raise ConnectionError("no network")

    def end(self):
        self.tell(end=True)
        self.file.close()
'''


def tracker(folder, *, online=False, fail_at=None):
    path = folder / "mine.py"
    path.write_text(MINE.format(online=online, fail_at=fail_at))
    return f"{path}:Lines"


def options(name, **more):
    return TrainOptions(quiet=True, device="cpu", track=name, **more)


def told(root):
    return [json.loads(line) for line in (root / "runs" / "told.jsonl").read_text().splitlines()]


def test_a_tracker_is_told_the_scalars_of_every_step_and_the_recipe(
    tiny_root, tiny_recipe, tmp_path
):
    report = train(tiny_root, tiny_recipe, options(tracker(tmp_path)))
    first, *steps, last = told(tiny_root)
    config = json.loads(json.dumps(to_tree(tiny_recipe)))
    assert first == {"run": report.run, "config": config, "after": 0}
    assert last == {"end": True}
    rows = read_metrics(report.path / "metrics.jsonl")
    assert [line["step"] for line in steps] == [row["step"] for row in rows]
    for line, row in zip(steps, rows, strict=True):
        assert line["values"] == {n: v for n, v in row.items() if n != "step"}
    assert "validate/loss" in steps[-1]["values"]
    text = (tiny_root / "runs" / "told.jsonl").read_text()
    assert "image-0" not in text and "effusion" not in text.lower()


def test_a_tracker_changes_nothing_and_goes_on_where_the_run_does(
    tiny_root, tiny_recipe, tmp_path, lasting_part, monkeypatch
):
    plain = train(tiny_root, tiny_recipe, TrainOptions(quiet=True, device="cpu"))
    wanted = lasting_part(plain.path)
    plain.path.rename(tiny_root / "plain")
    losses = PretrainTask.losses

    def signalled(task, features, batch):
        if batch.step == 4 and task.model.training:
            signal.raise_signal(signal.SIGINT)
        return losses(task, features, batch)

    monkeypatch.setattr(PretrainTask, "losses", signalled)
    with pytest.raises(Stopped):
        train(tiny_root, tiny_recipe, options(tracker(tmp_path)))
    monkeypatch.setattr(PretrainTask, "losses", losses)
    again = train(tiny_root, tiny_recipe, options(tracker(tmp_path)))
    assert lasting_part(again.path) == wanted
    lines = told(tiny_root)
    assert [line["after"] for line in lines if "after" in line] == [0, 5]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 11))
    assert sum("end" in line for line in lines) == 2


def test_a_tracker_that_fails_does_not_end_the_run(tiny_root, tiny_recipe, tmp_path):
    report = train(tiny_root, tiny_recipe, options(tracker(tmp_path, fail_at=3)))
    assert report.steps == 10
    assert [line["step"] for line in told(tiny_root) if "step" in line] == [1, 2, 3]
    log = (report.path / "log.txt").read_text()
    assert "the tracker failed (ConnectionError); the run goes on without it" in log
    assert "no network" not in log


def test_a_tracker_that_cannot_begin_does_not_end_the_run(tiny_root, tiny_recipe, tmp_path):
    (tmp_path / "broken.py").write_text("class Broken:\n    online = False\n")
    report = train(tiny_root, tiny_recipe, options(f"{tmp_path / 'broken.py'}:Broken"))
    assert report.steps == 10
    assert "the tracker failed (AttributeError)" in (report.path / "log.txt").read_text()


@pytest.mark.parametrize("access", ["open", "credentialed"])
@pytest.mark.parametrize("online", [False, True])
def test_restricted_data_reach_an_online_tracker_only_when_asked_for(tmp_path, access, online):
    name = tracker(tmp_path, online=online)
    choose_tracker(name, access=access, allow_online=True)
    if access == "open" or not online:
        choose_tracker(name, access=access, allow_online=False)
        return
    with pytest.raises(UsageError, match="restricted data") as caught:
        choose_tracker(name, access=access, allow_online=False)
    assert "--allow-online" in caught.value.todo


def test_a_tracker_that_does_not_say_counts_as_online(tmp_path):
    (tmp_path / "mute.py").write_text("class Mute:\n    pass\n")
    with pytest.raises(UsageError, match="restricted"):
        choose_tracker(f"{tmp_path / 'mute.py'}:Mute", access="credentialed", allow_online=False)


def test_a_refused_tracker_leaves_no_run(tmp_path, tiny_recipe, make_set):
    make_set(tmp_path, "secret", access="credentialed")
    with pytest.raises(UsageError, match="restricted"):
        train(tmp_path, tiny_recipe, options(tracker(tmp_path, online=True)))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "error", "word"),
    [
        ("wandb", UsageError, "neither tensorboard nor FILE.py:CLASS"),
        ("nothing.py:A", InputError, "no such file"),
        ("{}/mine.py:Other", InputError, "has no Other"),
        ("{}/bad.py:A", InputError, "SyntaxError"),
    ],
)
def test_names_that_cannot_be_are_said(tmp_path, name, error, word):
    tracker(tmp_path)
    (tmp_path / "bad.py").write_text("def")
    with pytest.raises(error, match=word):
        choose_tracker(name.format(tmp_path), access="open", allow_online=False)


def test_the_documented_examples_have_what_a_tracker_must_have(repository, tmp_path):
    text = (repository / "docs" / "reference" / "trackers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (tmp_path / "mine.py").write_text(code)
    for name in ("WandB", "MLflow"):
        found = choose_tracker(f"{tmp_path / 'mine.py'}:{name}", access="open", allow_online=False)
        assert found.online is True
        assert all(callable(getattr(found, act)) for act in ("begin", "log", "end"))
        with pytest.raises(UsageError):
            choose_tracker(
                f"{tmp_path / 'mine.py'}:{name}", access="credentialed", allow_online=False
            )


@pytest.mark.filterwarnings("ignore")  # of libraries that tensorboard brings
def test_tensorboard_reads_what_was_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert choose_tracker("tensorboard", access="credentialed", allow_online=False) is TensorBoard
    board = TensorBoard()
    for after, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        board.begin(run="r", folder=tmp_path, config={}, step=after)
        for step in steps:
            board.log(step, {"loss": step / 10})
        board.end()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, round(event.value, 3)) for event in events.Scalars("loss")]
    assert found == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_a_missing_tensorboard_is_said():
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="not installed") as caught:
            choose_tracker("tensorboard", access="open", allow_online=False)
        assert "[track]" in caught.value.todo
    else:
        choose_tracker("tensorboard", access="open", allow_online=False)
