"""The control with labels against a loop over films and labels."""

import math

import numpy as np
import pytest
import torch

from imitate.contract import InputError
from imitate.train.network.backbone import BackboneConfig
from imitate.train.network.branches import TokensConfig
from imitate.train.network.model import ImageConfig, ModelConfig, build_model
from imitate.train.objective.corpus import corpus_without_texts
from imitate.train.objective.labels import LabelsTask
from imitate.train.objective.task import PretrainBatch
from imitate.train.objective.views import ViewsConfig

ORDINALS = np.array([1, 2, 4, 5, 7])
LABELS = [
    {"B": 0.0},  # of another split, as are 3 and 6
    {"A": 1.0, "B": 0.0, "C": 1.0},
    {"A": 0.0, "B": -1.0},
    {"B": 1.0, "D": 0.0},
    {"A": -1.0, "B": 1.0, "C": 1.0},
    {},
    {},
    {"A": 0.0},
]


def labels_task(labels: list[dict[str, float]] = LABELS) -> LabelsTask:
    config = ModelConfig(
        backbone=BackboneConfig(name="tiny"),
        branches={},
        embedding="",
        tokens=TokensConfig(grid=4),
        image=ImageConfig(size=32, resize=40),
        norm="frozen",
    )
    samples = [{"key": f"key-{i}", "dataset": "d", "study_id": None} for i in ORDINALS]
    return LabelsTask(
        model=build_model(config, text_width=0, seed=0),
        corpus=corpus_without_texts(ordinals=ORDINALS, samples=samples),
        labels=labels,
        views=ViewsConfig(),
        seed=7,
    )


def batch(task: LabelsTask) -> PretrainBatch:
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40), dtype=np.uint8)
    return task.prepare(images, ORDINALS, step=0, epoch=0)


def test_labels_that_tell_films_apart_are_trained() -> None:
    assert labels_task().names == ("A", "B")  # C is never 0 and D never 1


def test_labels_that_a_radiologist_gave_beside_automatic_ones_are_not_trained() -> None:
    read = [row | {f"{name} (radiologist)": value for name, value in row.items()} for row in LABELS]
    assert labels_task(read).names == ("A", "B")


def test_the_loss_is_the_cross_entropy_of_the_known_labels() -> None:
    task = labels_task()
    given = batch(task)
    features = task.encode(given)
    found = task.losses(features, given)
    head = task.model.training_parts["labels"]
    total, count = 0.0, 0
    for view in (0, 1):
        logits = head(features[f"pooled {view}"]).tolist()
        for row, ordinal in enumerate(ORDINALS):
            for column, name in enumerate(task.names):
                value = LABELS[ordinal].get(name, -1)
                if value in (0, 1):
                    chance = 1 / (1 + math.exp(-logits[row][column]))
                    total -= math.log(chance if value else 1 - chance)
                    count += 1
    assert count == 10
    assert found["loss"].item() == pytest.approx(total / count, rel=1e-5)
    assert found["labels"] is found["loss"]


def test_gradients_equal_finite_differences() -> None:
    task = labels_task()
    given = batch(task)
    head = task.model.training_parts["labels"]
    features = {name: x.detach() for name, x in task.encode(given).items()}
    weight = head.weight.detach().clone()

    def loss(x: torch.Tensor) -> float:
        with torch.no_grad():
            head.weight.copy_(x)
            return float(task.losses(features, given)["loss"])

    task.losses(features, given)["loss"].backward()
    step = torch.zeros_like(weight)
    step[0, 3] = 0.1
    finite = (loss(weight + step) - loss(weight - step)) / 0.2
    assert head.weight.grad[0, 3].item() == pytest.approx(finite, rel=1e-2)


def test_a_batch_without_a_known_label_has_no_gradient_but_no_error() -> None:
    task = labels_task()
    given = task.prepare(np.zeros((1, 40, 40), np.uint8), ORDINALS[3:4], step=0, epoch=0)
    loss = task.losses(task.encode(given), given)["loss"]
    assert loss.item() == 0
    loss.backward()
    grads = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


def test_a_split_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="no label is 1"):
        labels_task([{"A": 1.0}] * 8)
