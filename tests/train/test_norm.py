from collections.abc import Sequence

import pytest
import torch
from torch import nn

from imitate.contract import ConfigError
from imitate.train.network.norm import (
    FrozenBatchNorm2d,
    GroupedBatchNorm2d,
    moved_once,
    replace_norm,
    standing_still,
)


def drawn(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
    return norm


def plain_group(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """Batch normalisation of one group, one channel at a time."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        mean, variance = values.mean(), ((values - values.mean()) ** 2).mean()
        out[:, c] = norm.weight[c] * (values - mean) / (variance + norm.eps).sqrt() + norm.bias[c]
    return out


def test_each_group_is_normalised_by_itself() -> None:
    torch.manual_seed(0)
    norm = drawn(GroupedBatchNorm2d(3, group=4, eps=1e-5, momentum=0.1))
    x = torch.randn(12, 3, 5, 5) * torch.linspace(1, 4, 12)[:, None, None, None]
    expected = torch.cat([plain_group(part, norm) for part in x.split(4)])
    torch.testing.assert_close(norm(x), expected)


def test_gradients_are_those_of_the_plain_groups() -> None:
    torch.manual_seed(0)
    norm = drawn(GroupedBatchNorm2d(2, group=2, eps=1e-5, momentum=0.1)).double()
    x = torch.randn(6, 2, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


def test_running_statistics_are_the_mean_over_groups() -> None:
    torch.manual_seed(0)
    norm = drawn(GroupedBatchNorm2d(2, group=3, eps=1e-5, momentum=0.25))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(6, 2, 4, 4) + 1
    norm(x)
    groups = x.reshape(2, 3, 2, 4, 4).transpose(1, 2).flatten(2)  # [group, channel, values]
    expected_mean = 0.75 * mean + 0.25 * groups.mean(2).mean(0)
    expected_variance = 0.75 * variance + 0.25 * groups.var(2, unbiased=True).mean(0)
    torch.testing.assert_close(norm.running_mean, expected_mean)
    torch.testing.assert_close(norm.running_var, expected_variance)
    assert norm.num_batches_tracked == 1


def test_groups_do_not_see_each_other() -> None:
    norm = GroupedBatchNorm2d(2, group=4, eps=1e-5, momentum=0.1)
    x = torch.randn(8, 2, 3, 3)
    changed = torch.cat([x[:4], 9 * x[4:]])
    assert torch.equal(norm(x)[:4], norm(changed)[:4])


@pytest.mark.parametrize("samples", [3, 4])
def test_up_to_one_group_is_ordinary(samples: int) -> None:
    torch.manual_seed(0)
    ordinary = drawn(nn.BatchNorm2d(2))
    norm = GroupedBatchNorm2d(2, group=4, eps=ordinary.eps, momentum=0.1)
    norm.load_state_dict(ordinary.state_dict())
    x = torch.randn(samples, 2, 3, 3)
    torch.testing.assert_close(norm(x), ordinary(x))
    torch.testing.assert_close(norm.state_dict(), ordinary.state_dict())
    torch.testing.assert_close(norm.eval()(x), ordinary.eval()(x))


def test_a_batch_that_cuts_a_group_is_refused() -> None:
    norm = GroupedBatchNorm2d(2, group=4, eps=1e-5, momentum=0.1)
    with pytest.raises(ConfigError, match="norm_group=4"):
        norm(torch.randn(6, 2, 3, 3))


def statistics(norm: nn.BatchNorm2d) -> list[torch.Tensor]:
    return [tensor.clone() for _, tensor in sorted(norm.named_buffers())]


def test_all_that_goes_forward_moves_the_statistics_once() -> None:
    torch.manual_seed(0)
    whole, parts = (drawn(GroupedBatchNorm2d(2, group=3, eps=1e-5, momentum=0.2)) for _ in "ab")
    parts.load_state_dict(whole.state_dict())
    x = torch.randn(12, 2, 4, 4)
    whole(x)
    with moved_once(nn.Sequential(parts)):
        parts(x[:9])  # three groups, and then one
        parts(x[9:])
        with standing_still(parts):
            parts(9 * x[:3])
    torch.testing.assert_close(statistics(parts), statistics(whole))
    parts(x)
    assert parts.num_batches_tracked == 2


def test_statistics_are_averaged_over_ranks() -> None:
    torch.manual_seed(0)
    norms = [drawn(GroupedBatchNorm2d(2, group=3, eps=1e-5, momentum=0.2)) for _ in range(3)]
    whole, one, other = norms
    for norm in (one, other):
        norm.load_state_dict(whole.state_dict())
    x = torch.randn(12, 2, 4, 4)
    whole(x)
    theirs: list[torch.Tensor] = []
    with moved_once(one, theirs.extend):
        one(x[6:])

    def average(tensors: Sequence[torch.Tensor]) -> None:
        for mine, their in zip(tensors, theirs, strict=True):
            mine.copy_((mine + their) / 2)

    with moved_once(other, average):
        other(x[:6])
    torch.testing.assert_close(statistics(other), statistics(whole))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), drawn(nn.BatchNorm2d(2)), nn.Sequential(drawn(nn.BatchNorm2d(2)))
    )


def test_replacing_keeps_names_and_values() -> None:
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    replace_norm(module, norm="grouped", group=2)
    assert [type(m) for m in (module[1], module[2][0])] == [GroupedBatchNorm2d] * 2
    torch.testing.assert_close(dict(module.state_dict()), before)


def test_local_statistics_leave_the_module_alone() -> None:
    module = net()
    replace_norm(module, norm="local", group=2)
    assert type(module[1]) is nn.BatchNorm2d


def test_frozen_statistics_never_move() -> None:
    module = net()
    x = torch.randn(4, 1, 3, 3)
    expected = module.eval()(x)
    replace_norm(module, norm="frozen", group=2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.testing.assert_close(module.train()(x), expected)
    torch.testing.assert_close(dict(module.state_dict()), before)
    assert isinstance(module[1], FrozenBatchNorm2d)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == [
        "0.weight",
        "0.bias",
    ]
