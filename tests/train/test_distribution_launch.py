"""Ranks started as a user starts them: --gpus, torchrun, and their exit codes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from imitate.contract import Exit, UsageError
from imitate.train.distribution.group import rank_device
from imitate.train.distribution.launch import check_gpus

LAUNCH = "import sys; from imitate.train.distribution.launch import launch; "
LAUNCH += "sys.exit(launch(2, sys.argv[1:]))"
WITHOUT = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}


def start(root, settings, *more):
    """Start two ranks on CPUs by the function behind --gpus."""
    keys = [part for setting in settings for part in ("--set", setting)]
    arguments = ["train", "demo", "--root", str(root), "--device", "cpu", "-q", *keys, *more]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k not in WITHOUT},
    )


def test_more_gpus_than_there_are_are_refused():
    with pytest.raises(UsageError, match="torch finds"):
        check_gpus(torch.cuda.device_count() + 1, "auto")
    with pytest.raises(UsageError, match="--device is cpu") as caught:
        check_gpus(1, "cpu")
    assert "torchrun" in caught.value.todo


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(UsageError, match="more ranks"):
        rank_device(torch.device("cuda"))
    assert rank_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.slow
def test_ranks_train_and_one_of_them_tells(tiny_root, tiny_settings):
    ranks = start(tiny_root, (*tiny_settings, "model.norm_group=2"), "--json")
    out, err = ranks.communicate()
    assert ranks.returncode == Exit.DONE, err
    assert out.count('"steps": 10') == 1


@pytest.mark.slow
def test_the_exit_code_is_that_of_the_rank_that_failed(tiny_root, tiny_settings):
    ranks = start(tiny_root, tiny_settings)  # a batch of 4 is one group of the norm
    _, err = ranks.communicate()
    assert ranks.returncode == Exit.USAGE
    assert "data.batch 4 cannot be shared evenly by 2 ranks" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_after_saving(tiny_root, tiny_settings, number):
    long = (*tiny_settings, "model.norm_group=2", "optim.epochs=2000", "validate.every_steps=0")
    ranks = start(tiny_root, long)
    while not list(tiny_root.glob("runs/*/checkpoints/*.json")) and ranks.poll() is None:
        time.sleep(0.1)
    ranks.send_signal(number)
    _, err = ranks.communicate()
    assert ranks.returncode == 128 + number, err
    assert "go on with" in err
