"""The learning rate is a function of the step; AdamW moves what is trained."""

import pytest
import torch
from torch import nn

from imitate.contract import ConfigError
from imitate.train.optim import (
    OptimConfig,
    build_optimizer,
    learning_rate,
    precision_on,
    set_learning_rate,
)

CPU = torch.device("cpu")


def rates(config, steps, of):
    return [learning_rate(config, step, of) for step in range(steps)]


def scheduled(scheduler, optimizer, steps):
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def sgd(lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_the_cosine_is_that_of_torch_over_the_real_length():
    optimizer = sgd(0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17, eta_min=0.01)
    config = OptimConfig(lr=0.3, final_lr=0.01)
    assert rates(config, 17, 17) == pytest.approx(scheduled(cosine, optimizer, 17))


def test_the_published_schedule_is_that_of_torch_whatever_the_length():
    optimizer = sgd(0.3)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=5, T_mult=2, eta_min=0.01
    )
    config = OptimConfig(lr=0.3, final_lr=0.01, period_steps=5)
    assert rates(config, 40, 999) == pytest.approx(scheduled(restarts, optimizer, 40))


def test_warm_up_is_linear_and_the_cosine_has_the_rest():
    config = OptimConfig(lr=1.0, final_lr=0.0, warmup_steps=4)
    assert rates(config, 4, 14) == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(config, 4, 14) == 1.0
    assert learning_rate(config, 9, 14) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_within_the_warm_up_is_no_error(steps):
    assert all(0 < rate <= 1 for rate in rates(OptimConfig(lr=1.0, warmup_steps=4), steps, steps))


def test_only_what_is_trained_moves():
    frozen, trained = (nn.Parameter(torch.ones(2)) for _ in range(2))
    frozen.requires_grad_(False)
    optimizer = build_optimizer(OptimConfig(), [frozen, trained], device=CPU)
    set_learning_rate(optimizer, 0.5)
    trained.sum().backward()
    optimizer.step()
    assert torch.equal(frozen, torch.ones(2))
    # AdamW's first step is lr * (sign of the gradient + weight_decay * weight)
    assert trained.tolist() == pytest.approx([1 - 0.5 * (1 + 0.05)] * 2)


def test_precision():
    assert precision_on(OptimConfig(), CPU) == "fp32"
    assert precision_on(OptimConfig(), torch.device("cuda")) == "bf16"
    assert precision_on(OptimConfig(precision="bf16"), CPU) == "bf16"


def test_all_problems_at_once():
    with pytest.raises(ConfigError) as caught:
        OptimConfig(epochs=0, lr=-1.0, betas=(0.9, 1.0), clip=0.0, warmup_steps=-1, eps=0.0)
    assert len(caught.value.problems) == 7
