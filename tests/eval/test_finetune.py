"""Classification by training: what is learned, what is frozen, what the numbers depend on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss

from imitate.contract import Folders, Stopped
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.heads.classifier import Classifier, cross_entropy, macro_auroc
from imitate.eval.tasks.finetune import Finetune, LinearAugmented
from imitate.eval.tasks.task import EvalOptions, Found, Work
from imitate.eval.testset import TestSet, open_testset
from imitate.shards.manifest import ShardSet
from imitate.work import Interrupts

SETTING = {
    "augment": "crop",
    "size": 12,
    "resize": 16,
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch": 16,
    "epochs": 4,
    "patience": 4,
    "monitor": "loss",
}
MakeWork = Callable[..., Work]


@pytest.fixture
def tests(built: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))


@pytest.fixture
def source(built: Path) -> OurModel:
    folder = Folders(built).run("run") / "model"
    return OurModel(folder, name="run", seed=3, access="open")


@pytest.fixture
def make_work(
    tests: TestSet, source: OurModel, tmp_path: Path, make_cell_work: MakeWork
) -> MakeWork:
    def make(task: str = "finetune", **over: object) -> Work:
        return make_cell_work(source, tests, tmp_path, task=task, **({"setting": SETTING} | over))

    return make


def scores(found: Found) -> dict[tuple[str, str], float]:
    ((_, table),) = found.tables
    rows = table.to_pylist()
    return {(row["key"], row["label"]): row["score"] for row in rows}


def auroc_of(found: Found, label: str) -> float:
    (row,) = [r for r in found.rows if (r["metric"], r["label"]) == ("auroc", label)]
    return float(row["value"])


@pytest.mark.parametrize("task", [Finetune(), LinearAugmented()])
def test_training_finds_what_the_films_show(task: Finetune, make_work: MakeWork) -> None:
    setting = SETTING | {"lr": [1e-7, 1e-2], "epochs": 8}
    found = task.do(make_work(task.name, setting=setting))
    assert auroc_of(found, "Pneumonia") > 0.85
    assert found.facts["lr"] == 1e-2 and found.facts["losses"][-1] < found.facts["losses"][0]
    assert set(found.facts["skipped"]) == {"Hernia"}
    assert not any(label == "Hernia" for _, label in scores(found))


@pytest.mark.parametrize("task", [Finetune(), LinearAugmented()])
def test_classes_are_trained_by_the_cross_entropy_of_their_softmax(
    task: Finetune, make_work: MakeWork, tests: TestSet
) -> None:
    splits = {}
    for split, samples in tests.splits.items():
        bright_N = samples.targets[:, tests.labels.index("Pneumonia")] == 1
        class_N = np.where(bright_N, 0, 1 + samples.ordinals % 2)
        splits[split] = replace(samples, targets=np.eye(3)[class_N])
    # judged on the test films, so that what was judged can be computed from the predictions
    splits["validate"] = splits["test"]
    three = replace(tests, splits=splits)
    setting = SETTING | {"lr": 1e-2, "epochs": 8, "exclusive": True}
    found = task.do(make_work(task.name, tests=three, setting=setting))
    films: dict[str, list[float]] = {}
    for (key, _), score in sorted(scores(found).items()):
        films.setdefault(key, []).append(score)
    score_NL = np.array(list(films.values()))
    order = np.argsort(np.array(three.of("key", three.test), dtype=str))
    true_N = three.test.targets[order].argmax(axis=1)
    assert score_NL.sum(axis=1) == pytest.approx(np.ones(len(true_N)))
    assert min(found.facts["judged"]) == pytest.approx(log_loss(true_N, score_NL), rel=1e-4)
    assert found.facts["losses"][-1] < found.facts["losses"][0]
    (row,) = [r for r in found.rows if r["metric"] == "top1"]
    assert row["value"] == pytest.approx(accuracy_score(true_N, score_NL.argmax(axis=1)))
    bright = tests.labels[0]  # the first class, whose films can be told
    assert auroc_of(found, bright) > 0.75 and found.facts["exclusive"] is True


def test_every_labelled_test_film_is_scored_once(make_work: MakeWork, tests: TestSet) -> None:
    found = Finetune().do(make_work())
    keys = tests.shards.column("key")
    expected = {
        (keys[i], label)
        for i, target_L in zip(tests.test.ordinals, tests.test.targets, strict=True)
        for label, target in zip(tests.labels, target_L, strict=True)
        if not np.isnan(target) and label != "Hernia"
    }
    assert set(scores(found)) == expected


def test_a_stop_between_epochs_changes_nothing(make_work: MakeWork, tmp_path: Path) -> None:
    whole = Finetune().do(make_work(folder=tmp_path / "whole"))
    folder = tmp_path / "cut"

    class After(Interrupts):
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked == 9:
                self.signal = 2
            super().check()

    with pytest.raises(Stopped):
        Finetune().do(make_work(folder=folder, interrupts=After()))
    state = json.loads((folder / "lr-0.001" / "epoch.json").read_text())
    assert 0 < len(state["judged"]) < SETTING["epochs"]  # type: ignore[operator]
    again = Finetune().do(make_work(folder=folder))
    assert scores(again) == scores(whole) and again.facts == whole.facts


def test_the_shared_encoder_is_not_trained(make_work: MakeWork, source: OurModel) -> None:
    work = make_work()
    network = work.pictures.encoder.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Finetune().do(work)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training


def test_a_frozen_network_keeps_weights_and_statistics(make_work: MakeWork) -> None:
    work = make_work("linear-augmented")
    LinearAugmented().do(work)
    saved = load_file(work.folder / "lr-0.001" / "epoch.safetensors")
    network = work.pictures.encoder.network
    buffers = {f"now network.{name}": tensor for name, tensor in network.named_buffers()}
    assert {name for name in saved if name.startswith("now network")} == buffers.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in buffers.items())
    assert not torch.equal(saved["now head.weight"], saved["exp_avg head.weight"])
    assert not any(name.startswith("exp_avg network") for name in saved)


def test_seeds_and_fractions_give_other_numbers_again_the_same(
    make_work: MakeWork, tmp_path: Path
) -> None:
    found = [
        scores(Finetune().do(make_work(seed=seed, fraction=fraction, folder=tmp_path / str(i))))
        for i, (seed, fraction) in enumerate([(0, 1.0), (1, 1.0), (0, 0.5), (0, 1.0)])
    ]
    assert found[0] == found[3] and len({tuple(each.values()) for each in found}) == 3


def test_without_validation_the_last_epoch_counts(make_work: MakeWork, tests: TestSet) -> None:
    empty = tests.splits["validate"].only(np.array([], dtype=int))
    bare = replace(tests, splits={**tests.splits, "validate": empty})
    found = Finetune().do(make_work(tests=bare))
    assert found.facts["best_epoch"] == found.facts["epochs"] == 4
    assert all(settled["threshold"] is None for settled in found.facts["settled"].values())


def test_places_are_every_fraction_draw_and_seed() -> None:
    options = EvalOptions(fractions=(1.0, 0.1), draws=2, seeds=2)
    places = Finetune().places(options, [0, 1])
    assert [(p.fraction, p.draw, p.head_seed) for p in places] == [
        *((0.1, draw, seed) for draw in (0, 1) for seed in (0, 1)),
        *((1.0, 0, seed) for seed in (0, 1)),
    ]


def test_cross_entropy_is_the_mean_over_known_targets() -> None:
    rng = np.random.default_rng(0)
    logit = rng.standard_normal((7, 3))
    target = (rng.random((7, 3)) < 0.5).astype(float)
    target[rng.random((7, 3)) < 0.3] = np.nan
    total, known = 0.0, 0
    for x, y in zip(logit.ravel(), target.ravel(), strict=True):
        if not np.isnan(y):
            p = 1 / (1 + np.exp(-x))
            total, known = total - (np.log(p) if y else np.log(1 - p)), known + 1
    found = cross_entropy(torch.from_numpy(logit), torch.from_numpy(target))
    assert float(found) == pytest.approx(total / known)
    assert float(cross_entropy(torch.zeros(2, 1), torch.full((2, 1), torch.nan))) == 0


def test_macro_auroc_leaves_out_labels_of_one_class() -> None:
    target = np.array([[1.0, 1, np.nan], [0, 1, np.nan], [1, 1, np.nan]])
    score = np.array([[0.9, 0.1, 0.1], [0.5, 0.2, 0.2], [0.1, 0.3, 0.3]])
    assert macro_auroc(target, score) == 0.5
    assert macro_auroc(target[:, :1], np.array([[0.9], [0.1], [0.8]])) == 1.0
    assert macro_auroc(target[:, 1:], score[:, 1:]) == 0.5


def test_the_classifier_starts_from_its_seed(source: OurModel) -> None:
    encoder = source.load("cpu")
    heads = [
        Classifier(encoder, labels=2, seed=seed, frozen=False).head.weight for seed in (0, 1, 0)
    ]
    assert torch.equal(heads[0], heads[2]) and not torch.equal(heads[0], heads[1])
