"""What protocols say of tasks: values with a meaning, and the exceptions of archives."""

import pytest

from imitate.eval.heads.augment import AUGMENTS
from imitate.eval.heads.training import Schedule
from imitate.eval.protocols.setting import at_fraction, read_setting
from imitate.eval.tasks.registry import TASKS
from imitate.prep.protocols.protocol import PROTOCOLS

ARCHIVES = ("rsna", "chexpert", "covidx", "nih", "siim", "object-cxr", "openi", "mimic")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", ["linear-augmented", "finetune"])
def test_trained_tasks_have_all_their_values(protocol: str, task: str) -> None:
    for archive in ARCHIVES:
        setting = read_setting(protocol, task, archive)
        if setting is None:
            assert protocol in ("mgca", "benchx")
            continue
        rates = setting["lr"] if isinstance(setting["lr"], list) else [setting["lr"]]
        assert all(Schedule.of(setting, lr=rate).lr == rate for rate in rates)
        assert setting["augment"] in AUGMENTS and setting["monitor"] in ("loss", "auroc")
        assert ("size" in setting) == ("resize" in setting)


def test_clean_knows_every_task_and_chooses_on_validation() -> None:
    for task in TASKS:
        setting = read_setting("clean", task, "rsna")
        assert setting is not None and setting["headline"], task
        assert setting.get("thresholds", ["validate"]) == ["validate"]


def test_published_exceptions_are_there() -> None:
    plain, chexpert, covidx = (
        read_setting("paper", "linear-augmented", archive)
        for archive in ("rsna", "chexpert", "covidx")
    )
    assert plain and chexpert and covidx
    assert (plain["augment"], chexpert["augment"]) == ("crop", "mgca-chexpert")
    assert (plain["headline"], covidx["headline"]) == (["auroc"], ["top1 or accuracy"])
    assert covidx["thresholds"] == ["fixed"] and plain["batch"] == 8
    assert "test" in (read_setting("paper", "zeroshot", "rsna") or {})["thresholds"]


def test_a_fraction_may_have_values_of_its_own() -> None:
    setting = {"lr": 5e-4, "batch": 16, "at": {0.01: {"lr": 2e-4, "batch": 8}}}
    assert at_fraction(setting, 0.01) == {"lr": 2e-4, "batch": 8}
    assert at_fraction(setting, 0.1) == {"lr": 5e-4, "batch": 16}
