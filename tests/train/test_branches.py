import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imitate.contract import ConfigError
from imitate.train.network.branches import Channels, TokenBranch, TokensConfig, projection_head
from imitate.train.network.model import published_branches

RESNET50 = {"stage1": 256, "stage2": 512, "stage3": 1024, "stage4": 2048}
SMALL = {"a": 8, "b": 6}
SHARES = {"a": 0.5, "b": 0.5}
CONFIG = TokensConfig(grid=4, heads=2)
PADDED = TokensConfig(grid=4, heads=2, pad_to=10)


def published(config: TokensConfig = CONFIG) -> Channels:
    return Channels("findings", published_branches()["findings"], config, channels=RESNET50)


def small_channels(config: TokensConfig = CONFIG, branch: str = "findings") -> Channels:
    return Channels(branch, SHARES, config, channels=SMALL)


def small_levels(batch: int = 3) -> dict[str, torch.Tensor]:
    return {"a": torch.randn(batch, 8, 8, 8), "b": torch.randn(batch, 6, 3, 3)}


def small_branch(config: TokensConfig = CONFIG) -> TokenBranch:
    branch = TokenBranch(small_channels(config))
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_()
    return branch


def test_the_published_numbers_of_tokens() -> None:
    assert published().kept == (64, 76, 102, 204)


def test_draws_are_without_replacement_and_inside_the_level() -> None:
    channels = published()
    for step in range(5):
        draw = channels.draw("channels", 1, step, 0, 0)
        for drawn, kept, size in zip(draw, channels.kept, channels.sizes, strict=True):
            assert len(set(drawn.tolist())) == kept
            assert drawn.min() >= 0 and drawn.max() < size


def test_draws_depend_on_their_key_alone() -> None:
    one, other = published(), published()
    other.draw("channels", 0, 0, 0, 0)  # an earlier draw changes nothing
    key = ("channels", 3, 10, 1, 1)
    for first, second in zip(one.draw(*key), other.draw(*key), strict=True):
        assert np.array_equal(first, second)
    for index in range(1, 5):
        changed = [part + 1 if i == index else part for i, part in enumerate(key)]
        assert not np.array_equal(one.draw(*key)[3], one.draw(*changed)[3])


def test_every_channel_is_drawn_about_equally_often() -> None:
    channels = small_channels()
    counts = np.zeros(8)
    for step in range(400):
        counts[channels.draw("channels", 0, step, 0, 0)[0]] += 1
    assert counts.sum() == 1600
    assert np.abs(counts - 200).max() < 60  # 6 standard deviations


def test_published_draws_repeat_channels() -> None:
    channels = published(TokensConfig(replacement=True))
    draw = channels.draw("channels", 0, 0, 0, 0)
    assert [len(drawn) for drawn in draw] == [64, 76, 102, 204]
    assert len(set(draw[3].tolist())) < 204
    assert all(d.min() >= 0 and d.max() < s for d, s in zip(draw, channels.sizes, strict=True))


@pytest.mark.parametrize("config", [CONFIG, PADDED])
def test_the_cls_row_is_that_of_the_full_attention(config: TokensConfig) -> None:
    torch.manual_seed(0)
    branch, levels = small_branch(config), small_levels()
    draw = small_channels(config).draw("channels", 0, 0, 0, 0)
    tokens = branch.tokens(levels, draw)
    assert tokens.shape == (3, 10 if config.pad_to else 7, 16)
    cls = (branch.cls_W + branch.position_KW[0]).expand(3, 1, -1)
    sequence = torch.cat([tokens, cls], dim=1)
    full = sequence + branch.attention(sequence, sequence, sequence)[0]
    torch.testing.assert_close(branch(levels, draw), full[:, -1], rtol=1e-4, atol=1e-4)


def test_attention_equals_its_formula() -> None:
    torch.manual_seed(0)
    branch, levels = small_branch(), small_levels(1)
    draw = small_channels().draw("channels", 0, 0, 0, 0)
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
    config = TokensConfig(grid=2, heads=2)
    branch = TokenBranch(Channels("x", {"a": 0.5}, config, channels={"a": 4})).double()
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
    assert TokenBranch(small_channels()).position_KW.shape == (8, 16)
    branch, levels = small_branch(PADDED), small_levels()
    draw = small_channels(PADDED).draw("channels", 0, 0, 0, 0)
    before = branch(levels, draw)
    with torch.no_grad():
        branch.position_KW[8:] += 3  # the positions of the pads
    assert not torch.allclose(before, branch(levels, draw))


def test_settings_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        TokensConfig(grid=3, heads=2, pad_to=-1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="no level 'stage9'"):
        Channels("x", {"stage9": 0.5}, CONFIG, channels=RESNET50)
    with pytest.raises(ConfigError, match="below the 446 tokens"):
        published(TokensConfig(pad_to=300))


def test_the_order_of_a_mapping_is_no_part_of_a_draw() -> None:
    turned = Channels("findings", dict(reversed(SHARES.items())), CONFIG, channels=SMALL)
    drawn = zip(turned.draw("x", 1), small_channels().draw("x", 1), strict=True)
    assert all(np.array_equal(one, other) for one, other in drawn)


def test_branches_and_uses_draw_for_themselves() -> None:
    draws = [
        small_channels().draw("x", 1),
        small_channels(branch="other").draw("x", 1),
        small_channels().draw("x", 1, use="vision"),
    ]
    assert len({tuple(np.concatenate(draw).tolist()) for draw in draws}) == 3


def test_scale_masking_takes_one_level_whole() -> None:
    channels = small_channels(TokensConfig(grid=4, heads=2, masking="scale"))
    seen = set()
    for step in range(40):
        sizes = tuple(map(len, channels.draw("x", 0, step)))
        assert sizes in {(8, 0), (0, 6)}
        seen.add(sizes)
    assert len(seen) == 2
    branch, levels = TokenBranch(channels), small_levels()
    assert branch.position_KW.shape == (9, 16)  # CLS and the channels of the widest level
    tokens = branch.tokens(levels, (np.arange(0), np.arange(6)))
    expected = F.adaptive_avg_pool2d(levels["b"], 4).flatten(2)
    torch.testing.assert_close(tokens, expected)  # positions start at 0
    assert branch(levels, (np.arange(8), np.arange(0))).shape == (3, 16)


def test_published_scale_masking_crops_to_the_pads() -> None:
    channels = published(TokensConfig(masking="scale", pad_to=512))
    assert channels.slots == 512
    small = small_channels(TokensConfig(grid=4, heads=2, masking="scale", pad_to=7))
    branch, levels = TokenBranch(small), small_levels()
    cropped = branch.tokens(levels, (np.arange(8), np.arange(0)))
    padded = branch.tokens(levels, (np.arange(0), np.arange(6)))
    expected = F.adaptive_avg_pool2d(levels["a"], 4).flatten(2)
    torch.testing.assert_close(cropped, expected[:, :7])
    assert padded.shape == (3, 7, 16)
    assert not padded[:, 6].any()


def test_mixed_masking_is_by_channel_for_texts_and_by_scale_for_views() -> None:
    channels = published(TokensConfig(masking="mixed"))
    assert channels.slots == 2048
    plain = published().draw("x", 0, 5)
    drawn = zip(channels.draw("x", 0, 5), plain, strict=True)
    assert all(np.array_equal(one, other) for one, other in drawn)
    sizes = [len(level) for level in channels.draw("x", 0, 5, use="vision")]
    assert sorted(sizes)[:3] == [0, 0, 0]
    assert max(sizes) in RESNET50.values()


def test_head_ends_in_plain_batch_normalisation() -> None:
    head = projection_head((6, 5, 4))
    out = head(3 * torch.randn(32, 6) + 2)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    shapes = [tuple(p.shape) for p in head.parameters()]
    assert shapes == [(5, 6), (5,), (5,), (5,), (4, 5), (4,)]
