"""Maps by level: their strides, what training changes in the encoder, and kept maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetBackbone, ResNetConfig

from imitate.contract import ConfigError, Folders
from imitate.eval.encoders.encoder import Encoder, HubNetwork, whole_batches
from imitate.eval.encoders.maps import STRIDES, Films, Maps, in_batches, shape_of, sized
from imitate.eval.heads.stock import Stock
from imitate.eval.testset import TestSet, open_testset
from imitate.shards.manifest import ShardSet
from imitate.train.network.backbone import Backbone, BackboneConfig, build_backbone
from imitate.train.network.model import ImageConfig, normalise
from imitate.train.network.norm import replace_norm

IMAGE = ImageConfig(size=64, resize=64, channels=1, mean=(0.5,), std=(0.25,))
PICTURES = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (4, 64, 96)).astype("f4"))


def backbone(name: str = "tiny") -> Backbone:
    torch.manual_seed(2)
    net = build_backbone(BackboneConfig(name=name), channels=1)
    replace_norm(net, norm="grouped", group=16)
    return whole_batches(net).eval()


def encoder(network: nn.Module) -> Encoder:
    return Encoder(features=np.asarray, network=network, image=IMAGE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def own() -> Encoder:
    return encoder(backbone())


@pytest.fixture(scope="module")
def tests(siim: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(siim).shards("phantom-siim")))


def test_levels_are_those_of_the_network_and_the_stem(own: Encoder) -> None:
    maps = Maps(own, {"encoder": "frozen"})
    levels = maps(PICTURES)
    net = own.network.net
    with torch.no_grad():
        x = normalise(PICTURES, IMAGE)
        expected = {"stem": net.embedder.embedder(x)} | own.network(x)
    assert list(levels) == list(STRIDES) == list(maps.channels)
    for name, level in levels.items():
        assert level.shape == (4, maps.channels[name], 64 // STRIDES[name], 96 // STRIDES[name])
        assert torch.equal(level, expected[name]), name


@pytest.mark.parametrize("levels", [["stage1", "stage2", "stage3", "stage4"], ["stage2"]])
def test_every_network_gives_every_level(levels: list[str]) -> None:
    sides = {"hidden_sizes": [4, 6, 8, 10], "depths": [1] * 4, "embedding_size": 4}
    config = ResNetConfig(num_channels=1, out_features=levels, **sides)
    net = HubNetwork(ResNetBackbone(config).eval())
    maps = Maps(encoder(net), {"encoder": "frozen"})
    found = maps(PICTURES)
    assert {n: tuple(m.shape[2:]) for n, m in found.items()} == {
        name: (64 // stride, 96 // stride) for name, stride in STRIDES.items()
    }
    assert {n: m.shape[1] for n, m in found.items()} == maps.channels


def test_a_plain_transformer_has_levels_of_the_same_strides() -> None:
    maps = Maps(encoder(backbone("vit_small")), {"encoder": "frozen"})
    found = maps(PICTURES[:1])
    assert list(found) == ["stage1", "stage2", "stage3", "stage4"]
    assert [m.shape[2] for m in found.values()] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("mode", "weights_move", "statistics_move"),
    [("frozen", False, False), ("statistics", False, True), ("tuned", True, True)],
)
def test_training_moves_what_the_mode_says(
    own: Encoder, mode: str, weights_move: bool, statistics_move: bool
) -> None:
    maps = Maps(own, {"encoder": mode}).train()
    before = {name: t.clone() for name, t in maps.state_dict().items()}
    optimizer = torch.optim.SGD(maps.parameters(), lr=0.1)
    loss = sum(level.square().mean() for level in maps(PICTURES).values())
    assert isinstance(loss, torch.Tensor) and loss.requires_grad == weights_move
    if weights_move:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    moved = {name for name, t in maps.state_dict().items() if not torch.equal(t, before[name])}
    parameters = {name for name, _ in maps.named_parameters()}
    assert bool(moved & parameters) == weights_move
    assert any(name.endswith("running_var") for name in moved) == statistics_move
    state = own.network.state_dict()
    assert all(torch.equal(t, before[f"network.{name}"]) for name, t in state.items())


def test_running_statistics_are_used_outside_training(own: Encoder) -> None:
    maps = Maps(own, {"encoder": "statistics"}).train()
    alone, together = (maps(PICTURES[:n])["stage4"][:1] for n in (1, 4))
    assert not torch.allclose(alone, together, atol=1e-3)
    maps.eval()
    alone, together = (maps(PICTURES[:n])["stage4"][:1] for n in (1, 4))
    assert torch.allclose(alone, together, atol=1e-4)


def test_an_unknown_mode_is_refused(own: Encoder) -> None:
    with pytest.raises(ConfigError, match="frozen, statistics, tuned"):
        Maps(own, {"encoder": "half"})


@pytest.fixture
def films(own: Encoder, tests: TestSet) -> Films:
    stock = Stock(tests, tests.films["train"], seed=0, workers=1)
    return Films(stock, Maps(own, {"encoder": "frozen"}), (64, 64))


def test_kept_maps_are_those_that_are_computed(films: Films, tests: TestSet) -> None:
    rows = tests.films["train"][:11]
    batches = in_batches(rows[::-1], 4)
    computed = list(films.levels(batches))
    assert films.keep(rows)
    for kept, expected in zip(films.levels(batches), computed, strict=True):
        for name, level in expected.items():
            assert torch.allclose(kept[name], level, atol=1e-5)
    assert [len(batch) for batch in batches] == [4, 4, 3]


def test_maps_that_change_or_do_not_fit_are_not_kept(
    films: Films, own: Encoder, tests: TestSet
) -> None:
    rows = tests.films["train"][:4]
    moving = Films(films.stock, Maps(own, {"encoder": "statistics"}), (64, 64))
    small = Films(films.stock, films.maps, (64, 64), room=10_000)
    assert not moving.keep(rows) and not small.keep(rows) and films.keep(rows)


def test_pictures_have_the_protocols_shape_or_their_own(films: Films, tests: TestSet) -> None:
    reader, rows = films.stock.reader, tests.films["test"]
    assert shape_of({"size": 96}, reader, rows) == (96, 96)
    assert shape_of({}, reader, rows) == (64, 64)
    stored = torch.from_numpy(reader.images(rows[:2]))
    assert torch.equal(films.read(rows[:2]), stored.float())
    larger = sized(stored, (96, 96))
    assert larger.shape == (2, 96, 96)
    assert float(larger.mean()) == pytest.approx(float(stored.float().mean()), rel=0.02)
