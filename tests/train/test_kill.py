"""SIGKILL anywhere, run it again: the same bytes as an uninterrupted run (design.md 10.1)."""

import multiprocessing
import random
import time

import pytest

from imitate.train.bound import TrainOptions
from imitate.train.run import train

OPTIONS = TrainOptions(quiet=True, device="cpu")


@pytest.fixture(scope="module")
def processes():
    """Real processes that have torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imitate.train.run"])
    return context


def killed_when(processes, root, recipe, moment):
    """Train in another process, and kill it with SIGKILL at the moment, if it still runs."""
    process = processes.Process(target=train, args=(root, recipe, OPTIONS))
    process.start()
    try:
        while process.is_alive() and not moment():
            time.sleep(0.002)
        process.kill()
    finally:
        process.join()
    return process.exitcode


def lines_of(root):
    return sum(path.read_bytes().count(b"\n") for path in root.glob("runs/*/metrics.jsonl"))


def wanted_of(root, recipe, lasting_part):
    straight = train(root, recipe, OPTIONS)
    wanted = lasting_part(straight.path)
    straight.path.rename(root / "straight")
    return wanted


def test_three_kills_change_nothing(processes, tiny_root, tiny_recipe, lasting_part):
    wanted = wanted_of(tiny_root, tiny_recipe, lasting_part)
    moments = (
        lambda: lines_of(tiny_root) >= 2,  # before the first checkpoint
        lambda: any(tiny_root.glob("runs/*/checkpoints/.partial-*")),  # within one
        lambda: lines_of(tiny_root) >= 8,  # after another
    )
    codes = [killed_when(processes, tiny_root, tiny_recipe, moment) for moment in moments]
    assert codes.count(-9) >= 2  # the window of the second one is short
    again = train(tiny_root, tiny_recipe, OPTIONS)
    assert lasting_part(again.path) == wanted


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(processes, tiny_root, tiny_recipe, lasting_part):
    wanted = wanted_of(tiny_root, tiny_recipe, lasting_part)
    draw = random.Random(0)
    killed = 0
    while killed < 15:
        end = time.monotonic() + draw.uniform(0.0, 1.5)
        code = killed_when(
            processes, tiny_root, tiny_recipe, lambda end=end: time.monotonic() > end
        )
        killed += code == -9
        if code == 0:
            for path in (tiny_root / "runs").iterdir():
                assert lasting_part(path) == wanted
                path.rename(tiny_root / f"run-{killed}-{end}")
    again = train(tiny_root, tiny_recipe, OPTIONS)
    assert lasting_part(again.path) == wanted
