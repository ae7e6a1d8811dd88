import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imitate.contract import ConfigError
from imitate.train.network.branches import Channels, FindingsBranch, FindingsConfig, projection_head

RESNET50 = {"stage1": 256, "stage2": 512, "stage3": 1024, "stage4": 2048}
SMALL = {"a": 8, "b": 6}
CONFIG = FindingsConfig(levels=("a", "b"), keep=(0.5, 0.5), grid=4, heads=2)
PADDED = FindingsConfig(levels=("a", "b"), keep=(0.5, 0.5), grid=4, heads=2, pad_to=10)


def small_levels(batch: int = 3) -> dict[str, torch.Tensor]:
    return {"a": torch.randn(batch, 8, 8, 8), "b": torch.randn(batch, 6, 3, 3)}


def small_branch(config: FindingsConfig = CONFIG) -> FindingsBranch:
    branch = FindingsBranch(config, tokens=7)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_()
    return branch


def test_the_published_numbers_of_tokens() -> None:
    assert Channels(FindingsConfig(), RESNET50).kept == (64, 76, 102, 204)


def test_draws_are_without_replacement_and_inside_the_level() -> None:
    channels = Channels(FindingsConfig(), RESNET50)
    for step in range(5):
        draw = channels.draw("channels", 1, step, 0, 0)
        for drawn, kept, size in zip(draw, channels.kept, channels.sizes, strict=True):
            assert len(set(drawn.tolist())) == kept
            assert drawn.min() >= 0 and drawn.max() < size


def test_draws_depend_on_their_key_alone() -> None:
    one, other = Channels(FindingsConfig(), RESNET50), Channels(FindingsConfig(), RESNET50)
    other.draw("channels", 0, 0, 0, 0)  # an earlier draw changes nothing
    key = ("channels", 3, 10, 1, 1)
    for first, second in zip(one.draw(*key), other.draw(*key), strict=True):
        assert np.array_equal(first, second)
    for index in range(1, 5):
        changed = [part + 1 if i == index else part for i, part in enumerate(key)]
        assert not np.array_equal(one.draw(*key)[3], one.draw(*changed)[3])


def test_every_channel_is_drawn_about_equally_often() -> None:
    channels = Channels(CONFIG, SMALL)
    counts = np.zeros(8)
    for step in range(400):
        counts[channels.draw("channels", 0, step, 0, 0)[0]] += 1
    assert counts.sum() == 1600
    assert np.abs(counts - 200).max() < 60  # 6 standard deviations


def test_published_draws_repeat_channels() -> None:
    channels = Channels(FindingsConfig(replacement=True), RESNET50)
    draw = channels.draw("channels", 0, 0, 0, 0)
    assert [len(drawn) for drawn in draw] == [64, 76, 102, 204]
    assert len(set(draw[3].tolist())) < 204
    assert all(d.min() >= 0 and d.max() < s for d, s in zip(draw, channels.sizes, strict=True))


@pytest.mark.parametrize("config", [CONFIG, PADDED])
def test_the_cls_row_is_that_of_the_full_attention(config: FindingsConfig) -> None:
    torch.manual_seed(0)
    branch, levels = small_branch(config), small_levels()
    draw = Channels(config, SMALL).draw("channels", 0, 0, 0, 0)
    tokens = branch.tokens(levels, draw)
    assert tokens.shape == (3, 10 if config.pad_to else 7, 16)
    cls = (branch.cls_W + branch.position_KW[0]).expand(3, 1, -1)
    sequence = torch.cat([tokens, cls], dim=1)
    full = sequence + branch.attention(sequence, sequence, sequence)[0]
    torch.testing.assert_close(branch(levels, draw), full[:, -1], rtol=1e-4, atol=1e-4)


def test_attention_equals_its_formula() -> None:
    torch.manual_seed(0)
    branch, levels = small_branch(), small_levels(1)
    draw = Channels(CONFIG, SMALL).draw("channels", 0, 0, 0, 0)
    x = torch.cat([branch.tokens(levels, draw)[0], (branch.cls_W + branch.position_KW[0])[None]])
    attention = branch.attention
    query, key, value = (x @ attention.in_proj_weight.T + attention.in_proj_bias).split(16, dim=1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        weights = torch.softmax(query[-1, part] @ key[:, part].T / 8**0.5, dim=0)
        heads.append(weights @ value[:, part])
    read = attention.out_proj(torch.cat(heads))
    torch.testing.assert_close(branch(levels, draw)[0], x[-1] + read, rtol=1e-4, atol=1e-4)


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    config = FindingsConfig(levels=("a",), keep=(0.5,), grid=2, heads=2)
    branch = FindingsBranch(config, tokens=2).double()
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_()
    head = projection_head((4, 3, 2)).double()
    draw = (np.array([2, 0]),)
    x = torch.randn(4, 4, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: head(branch({"a": x}, draw)), (x,))


def test_tokens_are_pooled_channels_in_the_order_of_the_draw() -> None:
    branch, levels = small_branch(), small_levels()
    draw = (np.array([5, 0, 7, 2]), np.array([4, 1, 3]))
    tokens = branch.tokens(levels, draw) - branch.position_KW[1:]
    # 8 x 8 to 4 x 4: means of 2 x 2; 3 x 3 to 4 x 4: torch's own windows
    first = levels["a"][:, 5].reshape(3, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    torch.testing.assert_close(tokens[:, 0], first, rtol=1e-4, atol=1e-5)
    last = F.adaptive_avg_pool2d(levels["b"][:, 3], 4).flatten(1)
    torch.testing.assert_close(tokens[:, 6], last, rtol=1e-4, atol=1e-5)


def test_pads_take_part_only_where_they_are_asked_for() -> None:
    assert FindingsBranch(CONFIG, tokens=7).position_KW.shape == (8, 16)
    branch, levels = small_branch(PADDED), small_levels()
    draw = Channels(PADDED, SMALL).draw("channels", 0, 0, 0, 0)
    before = branch(levels, draw)
    with torch.no_grad():
        branch.position_KW[8:] += 3  # the positions of the pads
    assert not torch.allclose(before, branch(levels, draw))


def test_settings_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        FindingsConfig(levels=("a",), keep=(0.5, 2.0), grid=3, heads=2, pad_to=-1)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="no level 'stage9'"):
        Channels(FindingsConfig(levels=("stage9",), keep=(0.5,)), RESNET50)
    with pytest.raises(ConfigError, match="below the 446 tokens"):
        Channels(FindingsConfig(pad_to=300), RESNET50)


def test_head_ends_in_plain_batch_normalisation() -> None:
    head = projection_head((6, 5, 4))
    out = head(3 * torch.randn(32, 6) + 2)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(5, 6), (5,), (5,), (5,), (4, 5), (4,)]
