"""The logbook: one line a step, cut back on resume, and a picture."""

import json
import re

import cv2
import numpy as np
import pytest

from imitate.contract import InputError, UsageError
from imitate.train.logbook import Logbook, read_metrics
from imitate.train.records.curves import draw_curves


def row(step):
    return {"step": step, "samples": 4 * step, "loss": 1 / step, "loss/findings": 2.0, "lr": 0.1}


def test_metrics_are_one_json_line_a_step(tmp_path):
    with Logbook(tmp_path) as logbook:
        for step in (1, 2, 3):
            logbook.record(row(step))
        assert logbook.rows() == [row(1), row(2), row(3)]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("tail", [b"", b'{"step": 4, "lo'])
def test_cutting_forgets_later_steps_and_half_lines(tmp_path, tail):
    with Logbook(tmp_path) as logbook:
        for step in (1, 2, 3):
            logbook.record(row(step))
    with (tmp_path / "metrics.jsonl").open("ab") as handle:
        handle.write(tail)
    with Logbook(tmp_path) as logbook:
        logbook.cut_after(2)
        logbook.record(row(3))
        logbook.record(row(4))
    assert read_metrics(tmp_path / "metrics.jsonl") == [row(1), row(2), row(3), row(4)]


def test_damaged_metrics_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnoise\n')
    with pytest.raises(InputError, match="metrics are damaged"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_lines_go_to_the_log_and_to_stderr(tmp_path, capsys):
    with Logbook(tmp_path) as logbook:
        logbook.tell("first")
    with Logbook(tmp_path, quiet=True) as logbook:
        logbook.tell("second")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "first\n")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in lines] == [
        "first",
        "second",
    ]


def test_a_run_is_held_by_one_process(tmp_path):
    with (
        Logbook(tmp_path),
        pytest.raises(UsageError, match="another process"),
        Logbook(tmp_path),
    ):
        pass
    with Logbook(tmp_path) as logbook:
        logbook.record(row(1))


@pytest.mark.parametrize("steps", [1, 2, 501, 1300])
def test_curves_are_a_picture(tmp_path, steps):
    with Logbook(tmp_path) as logbook:
        for step in range(1, steps + 1):
            logbook.record(row(step))
        logbook.draw()
        assert draw_curves(logbook.rows()) == (tmp_path / "curves.png").read_bytes()
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape == (600, 900, 3)
    assert (picture < 200).any()


def test_nothing_is_drawn_before_the_first_step(tmp_path):
    with Logbook(tmp_path) as logbook:
        logbook.draw()
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("steps", [3, 1300])
def test_what_was_validated_is_drawn_too(steps):
    rows = [row(step) for step in range(1, steps + 1)]
    plain = draw_curves(rows)
    recalls = {"validate/findings/image_to_text/pair/r@10": 0.5}
    for place in range(1, steps, 2):
        rows[place] |= {"validate/loss": 1.0, "validate/loss/findings": 1.0, **recalls}
    measured = draw_curves(rows)
    assert measured != plain and measured == draw_curves(rows)
    picture = cv2.imdecode(np.frombuffer(measured, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (600, 900, 3)
    del rows[1]["validate/loss"]  # the other points are drawn all the same
    assert draw_curves(rows) != measured
