from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from imitate.contract import InputError
from imitate.train.network.backbone import (
    ARCHITECTURES,
    STAGES,
    Architecture,
    Backbone,
    BackboneConfig,
    build_backbone,
    load_torchvision_resnet,
    load_weights,
    pooled,
    read_weights,
)

State = dict[str, torch.Tensor]
DEPTHS, WIDTHS, STEM = (1, 2, 1, 1), (16, 24, 32, 40), 8


def norm_state(name: str, channels: int) -> State:
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.randn(channels),
        f"{name}.running_mean": torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def torchvision_state(block: str, channels: int = 3) -> State:
    """Random weights under the names that torchvision gives a ResNet."""
    state = {"conv1.weight": torch.randn(STEM, channels, 7, 7)} | norm_state("bn1", STEM)
    width_in = STEM
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), start=1):
        for layer in range(depth):
            base = f"layer{stage}.{layer}"
            thin = width // 4
            shapes = {
                "bottleneck": [(thin, width_in, 1), (thin, thin, 3), (width, thin, 1)],
                "basic": [(width, width_in, 3), (width, width, 3)],
            }[block]
            for i, (out, into, kernel) in enumerate(shapes, start=1):
                scale = (into * kernel**2) ** -0.5
                state[f"{base}.conv{i}.weight"] = scale * torch.randn(out, into, kernel, kernel)
                state |= norm_state(f"{base}.bn{i}", out)
            if width_in != width or (stage > 1 and layer == 0):
                state[f"{base}.downsample.0.weight"] = torch.randn(width, width_in, 1, 1) / 4
                state |= norm_state(f"{base}.downsample.1", width)
            width_in = width
    return state | {"fc.weight": torch.randn(5, WIDTHS[-1]), "fc.bias": torch.randn(5)}


def plain_resnet(state: State, x: torch.Tensor) -> list[torch.Tensor]:
    """The four stages of torchvision's ResNet, restated from its names."""

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in names))

    x = F.max_pool2d(F.relu(norm("bn1", conv("conv1", x, 2))), 3, stride=2, padding=1)
    outs = []
    for stage, depth in enumerate(DEPTHS, start=1):
        for layer in range(depth):
            base = f"layer{stage}.{layer}"
            stride = 2 if stage > 1 and layer == 0 else 1
            convs = 3 if f"{base}.conv3.weight" in state else 2
            strided = 2 if convs == 3 else 1  # torchvision strides the 3x3 of a bottleneck
            y = x
            for i in range(1, convs + 1):
                y = conv(f"{base}.conv{i}", y, stride if i == strided else 1)
                y = norm(f"{base}.bn{i}", y)
                y = F.relu(y) if i < convs else y
            if f"{base}.downsample.0.weight" in state:
                x = norm(f"{base}.downsample.1", conv(f"{base}.downsample.0", x, stride))
            x = F.relu(x + y)
        outs.append(x)
    return outs


@pytest.mark.parametrize(("block", "channels"), [("bottleneck", 3), ("basic", 1)])
def test_torchvision_weights_give_the_plain_resnets_maps(block: str, channels: int) -> None:
    torch.manual_seed(1)
    state = torchvision_state(block, channels)
    backbone = load_torchvision_resnet(state).eval()
    assert backbone.architecture == Architecture(
        block=block, depths=DEPTHS, widths=WIDTHS, stem=STEM, channels=channels
    )
    x = torch.randn(2, channels, 64, 64)
    with torch.no_grad():
        levels = backbone(x)
    assert list(levels) == list(STAGES)
    for ours, plain in zip(levels.values(), plain_resnet(state, x), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled(levels), levels["stage4"].flatten(2).mean(2))


def test_every_tensor_arrives_and_none_is_invented() -> None:
    state = torchvision_state("bottleneck")
    held = load_torchvision_resnet(state).net.state_dict()
    without_head = {n: t for n, t in state.items() if not n.startswith("fc.")}
    assert len(held) == len(without_head)
    assert sorted(t.double().sum().item() for t in held.values()) == sorted(
        t.double().sum().item() for t in without_head.values()
    )


@pytest.mark.parametrize(
    ("name", "parameters", "maps"),
    [
        ("resnet50", 23_508_032, (256, 512, 1024, 2048)),
        ("resnet18", 11_176_512, (64, 128, 256, 512)),
    ],
)
def test_named_backbones_have_the_published_sizes(
    name: Any, parameters: int, maps: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=name), channels=3)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert tuple(backbone.channels.values()) == maps
    assert backbone.width == maps[-1]


def tiny_state() -> State:
    return Backbone(ARCHITECTURES["tiny"]).net.state_dict()


@pytest.mark.parametrize("prefix", ["", "resnet.", "backbone.net.", "module."])
def test_weights_are_found_under_the_usual_prefixes(prefix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in tiny_state().items()}
    if prefix.startswith("backbone."):
        state["text_head.0.weight"] = torch.zeros(1)  # of a whole model only the backbone is taken
    backbone = Backbone(ARCHITECTURES["tiny"])
    load_weights(backbone, state, where="here")
    loaded = backbone.net.state_dict()
    assert all(torch.equal(tensor, state[prefix + name]) for name, tensor in loaded.items())


def test_what_does_not_fit_is_named() -> None:
    state = tiny_state()
    del state["embedder.embedder.normalization.bias"]
    state["embedder.embedder.convolution.weight"] = torch.zeros(16, 1, 7, 7)
    state["encoder.more"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        load_weights(Backbone(ARCHITECTURES["tiny"]), state, where="some.pth")
    text = str(caught.value)
    assert "embedder.embedder.normalization.bias is missing" in text
    assert "encoder.more has no place" in text
    assert "convolution.weight is (16, 1, 7, 7), not (16, 3, 7, 7)" in text
    assert "some.pth" in text


def test_old_files_without_batch_counters_load() -> None:
    state = {n: t for n, t in tiny_state().items() if not n.endswith("num_batches_tracked")}
    load_weights(Backbone(ARCHITECTURES["tiny"]), state, where="here")


@pytest.mark.parametrize("broken", ["", "layer3", "conv1"])
def test_another_network_is_not_taken_for_a_resnet(broken: str) -> None:
    state = torchvision_state("basic") if broken else {"weight": torch.zeros(2)}
    state = {n: t for n, t in state.items() if not broken or not n.startswith(broken)}
    with pytest.raises(InputError):
        load_torchvision_resnet(state)


def test_files_of_weights_are_read(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    save_file(state, tmp_path / "model.safetensors")
    for path in (tmp_path / "plain.pth", tmp_path / "nested.pt", tmp_path):
        assert torch.equal(read_weights(path)["a"], state["a"])


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"a": tmp_path}, tmp_path / "object.pth")  # would need code to run
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "cut.safetensors").write_bytes(b"\x80\x00")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=r"weights|tensors"):
            read_weights(path)
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "absent.pth")


def test_a_configured_file_gives_the_initial_weights(tmp_path: Path) -> None:
    state = tiny_state()
    save_file(state, tmp_path / "tiny.safetensors")
    config = BackboneConfig(name="tiny", weights=str(tmp_path / "tiny.safetensors"))
    loaded = build_backbone(config, channels=3).net.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    with pytest.raises(InputError, match="do not fit"):
        build_backbone(config, channels=1)
