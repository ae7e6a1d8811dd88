import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from imitate.contract import ConfigError, InputError
from imitate.train.bound import TrainOptions
from imitate.train.network.backbone import (
    ARCHITECTURES,
    STAGES,
    Backbone,
    BackboneConfig,
    build_backbone,
    pooled,
    resnet_config,
)
from imitate.train.network.folder import load_model
from imitate.train.network.layouts import load_described
from imitate.train.network.weights import load_weights, read_weights
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

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
    backbone = load_described(state).eval()
    told = backbone.config
    assert (told.layer_type, told.embedding_size, told.num_channels) == (block, STEM, channels)
    assert (tuple(told.depths), tuple(told.hidden_sizes)) == (DEPTHS, WIDTHS)
    x = torch.randn(2, channels, 64, 64)
    with torch.no_grad():
        levels = backbone(x)
    assert list(levels) == list(STAGES)
    for ours, plain in zip(levels.values(), plain_resnet(state, x), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled(levels), levels["stage4"].flatten(2).mean(2))


def test_every_tensor_arrives_and_none_is_invented() -> None:
    state = torchvision_state("bottleneck")
    held = load_described(state).net.state_dict()
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
        ("vit_small", 21_665_664, (384,) * 4),
        ("vit_base", 85_798_656, (768,) * 4),
        ("dinov2_small", 22_056_576, (384,) * 4),
        # without their classifiers 27,519,354 and 27,818,592; plus a norm for each level
        ("swin_tiny", 27_519_354 + 2_880, (96, 192, 384, 768)),
        ("convnext_tiny", 27_818_592 + 2_880, (96, 192, 384, 768)),
    ],
)
def test_named_backbones_have_the_published_sizes(
    name: str, parameters: int, maps: tuple[int, ...]
) -> None:
    # those with stochastic depth count on real tensors while they are made
    with torch.device("meta" if name.startswith(("resnet", "vit")) else "cpu"):
        backbone = build_backbone(BackboneConfig(name=name), channels=3)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert tuple(backbone.channels.values()) == maps
    assert backbone.width == maps[-1]


def tiny() -> Backbone:
    return Backbone(ARCHITECTURES["tiny"]())


def tiny_state() -> State:
    return tiny().net.state_dict()


@pytest.mark.parametrize("prefix", ["", "resnet.", "backbone.net.", "module."])
def test_weights_are_found_under_the_usual_prefixes(prefix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in tiny_state().items()}
    if prefix.startswith("backbone."):
        state["text_head.0.weight"] = torch.zeros(1)  # of a whole model only the backbone is taken
    net = tiny().net
    load_weights(net, state, where="here")
    loaded = net.state_dict()
    assert all(torch.equal(tensor, state[prefix + name]) for name, tensor in loaded.items())


def test_what_does_not_fit_is_named() -> None:
    state = tiny_state()
    del state["embedder.embedder.normalization.bias"]
    state["embedder.embedder.convolution.weight"] = torch.zeros(16, 1, 7, 7)
    state["encoder.more"] = torch.zeros(1)
    with pytest.raises(InputError) as caught:
        load_weights(tiny().net, state, where="some.pth")
    text = str(caught.value)
    assert "embedder.embedder.normalization.bias is missing" in text
    assert "encoder.more has no place" in text
    assert "convolution.weight is (16, 1, 7, 7), not (16, 3, 7, 7)" in text
    assert "some.pth" in text


def test_old_files_without_batch_counters_load() -> None:
    state = {n: t for n, t in tiny_state().items() if not n.endswith("num_batches_tracked")}
    load_weights(tiny().net, state, where="here")


@pytest.mark.parametrize("broken", ["", "layer3", "conv1"])
def test_another_network_is_not_taken_for_a_resnet(broken: str) -> None:
    state = torchvision_state("basic") if broken else {"weight": torch.zeros(2)}
    state = {n: t for n, t in state.items() if not broken or not n.startswith(broken)}
    with pytest.raises(InputError):
        load_described(state)


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


def folder_of(config: Any, folder: Path) -> str:
    """A folder with the config.json of a network, as a recipe names it."""
    config.save_pretrained(folder)
    return str(folder)


SIDES = {"hidden_size": 16, "num_attention_heads": 2}
SMALL = {
    "vit": lambda: ViTConfig(
        **SIDES, num_hidden_layers=6, intermediate_size=24, patch_size=8, image_size=64
    ),
    "dinov2": lambda: Dinov2Config(**SIDES, num_hidden_layers=6, patch_size=8, image_size=64),
    "swin": lambda: SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=2
    ),
    "convnext": lambda: ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1]),
    "resnet": lambda: resnet_config(block="basic", depths=DEPTHS, widths=WIDTHS, stem=STEM),
}
WHOLE = {
    "vit": ViTForImageClassification,
    "dinov2": Dinov2ForImageClassification,
    "swin": SwinForImageClassification,
    "convnext": ConvNextForImageClassification,
    "resnet": ResNetForImageClassification,
}


@pytest.mark.parametrize("kind", SMALL)
def test_any_backbone_gives_maps_by_name_and_draws_nothing(kind: str, tmp_path: Path) -> None:
    config = BackboneConfig(name=folder_of(SMALL[kind](), tmp_path))
    backbone = build_backbone(config, channels=1).train()
    x_BCHW = torch.randn(2, 1, 64, 64)
    state = torch.random.get_rng_state()
    levels = backbone(x_BCHW)
    assert torch.equal(state, torch.random.get_rng_state())  # neither dropout nor stochastic depth
    assert list(levels) == list(STAGES)
    assert {name: maps.shape[1] for name, maps in levels.items()} == backbone.channels
    assert all(maps.ndim == 4 and maps.shape[0] == 2 for maps in levels.values())
    assert pooled(levels).shape == (2, backbone.width)
    pooled(levels).square().sum().backward()
    first = next(p for n, p in backbone.named_parameters() if "mask_token" not in n)
    assert first.grad is not None and first.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_tokens_become_maps_in_their_places(kind: str, tmp_path: Path) -> None:
    """Only the patch that changes moves most, and it lies where it is in the picture."""
    name = folder_of(SMALL[kind](), tmp_path)
    backbone = build_backbone(BackboneConfig(name=name), channels=3, levels=["block1"]).eval()
    x_BCHW = torch.randn(1, 3, 32, 48)
    changed = x_BCHW.clone()
    changed[:, :, 8:16, 24:32] += 3
    with torch.no_grad():
        moved_HW = (backbone(changed)["block1"] - backbone(x_BCHW)["block1"]).norm(dim=1)[0]
    assert moved_HW.shape == (4, 6)
    assert moved_HW.argmax() == 1 * 6 + 3


def test_levels_of_plain_transformers_are_quarters_or_blocks(tmp_path: Path) -> None:
    name = folder_of(SMALL["vit"](), tmp_path)
    levels = ("block6", "stage2", "block5")
    backbone = build_backbone(BackboneConfig(name=name), channels=3, levels=levels).eval()
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = backbone(x_BCHW)
        states = backbone.net(
            x_BCHW, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        last = backbone.net(x_BCHW, interpolate_pos_encoding=True).last_hidden_state
    places = {"stage1": 2, "stage2": 3, "block5": 5, "stage3": 5, "block6": 6, "stage4": 6}
    assert list(found) == list(places)
    for name, place in places.items():
        expected = backbone.net.layernorm(states[place])[:, 1:]
        torch.testing.assert_close(found[name].flatten(2).transpose(1, 2), expected)
    torch.testing.assert_close(pooled(found), last[:, 1:].mean(dim=1))


def test_levels_that_a_backbone_has_not_are_named() -> None:
    with pytest.raises(ConfigError, match="no level 'block9'") as caught:
        build_backbone(BackboneConfig(name="tiny"), channels=3, levels=["stage1", "block9"])
    assert "stage1, stage2, stage3, stage4" in str(caught.value)


def test_a_backbone_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resnet50, resnet18"):
        BackboneConfig(name="resnet51")
    with pytest.raises(InputError, match="no folder"):
        build_backbone(BackboneConfig(name="./absent"), channels=3)
    folder_of(BertConfig(), tmp_path / "text")
    shallow = Dinov2Config(**SIDES, num_hidden_layers=3)
    folder_of(shallow, tmp_path / "shallow")
    for name, says in (("text", "no backbone"), ("shallow", "levels")):
        with pytest.raises(InputError, match=says):
            build_backbone(BackboneConfig(name=str(tmp_path / name)), channels=3)


@pytest.mark.parametrize("kind", SMALL)
def test_a_classifier_folder_gives_the_initial_weights(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = WHOLE[kind](SMALL[kind]()).eval()
    whole.save_pretrained(tmp_path)
    config = BackboneConfig(name=str(tmp_path), weights=str(tmp_path))
    backbone = build_backbone(config, channels=3).eval()
    x_BCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found_BC = pooled(backbone(x_BCHW))
        told = whole.base_model(x_BCHW, output_hidden_states=True)
    if kind in ("vit", "dinov2"):  # their classifiers read normalised tokens
        expected_BC = told.last_hidden_state[:, 1:].mean(dim=1)
    elif kind == "resnet":
        expected_BC = told.last_hidden_state.mean(dim=(2, 3))
    else:  # the norm of the level, which the classifier has not
        last = told.hidden_states[-1]
        tokens = last if last.ndim == 3 else last.flatten(2).transpose(1, 2)
        expected_BC = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6).mean(dim=1)
    torch.testing.assert_close(found_BC, expected_BC, rtol=1e-3, atol=1e-4)


def test_a_folder_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    ViTForImageClassification(SMALL["vit"]()).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    first, second = sorted(name for name in state if name.endswith("layernorm_before.bias"))[:2]
    state["vit.more"] = torch.zeros(2)
    state[second] = torch.zeros(3)
    del state[first]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="do not fit") as caught:
        build_backbone(BackboneConfig(name=str(tmp_path), weights=str(tmp_path)), channels=3)
    text = str(caught.value)
    assert "is missing" in text and "more has no place" in text and "is (3,), not (16,)" in text
    (tmp_path / "model.safetensors").unlink()
    torch.save({"vit": tmp_path}, tmp_path / "pytorch_model.bin")  # would need code to run
    with pytest.raises(InputError, match="not readable"):
        build_backbone(BackboneConfig(name=str(tmp_path), weights=str(tmp_path)), channels=3)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_a_run_with_another_backbone_has_the_same_bits_again(
    kind: str, tmp_path: Path, tiny_root: Path, tiny_settings: tuple[str, ...]
) -> None:
    config = SMALL[kind]()
    config.num_channels = 1
    name = folder_of(config, tmp_path / "network")
    given = (*tiny_settings, f"model.backbone.name={name}", "optim.epochs=1")
    given = (*given, "model.image.size=32", "model.image.resize=36")
    runs = [
        train(
            tiny_root,
            load_recipe("demo", given),
            TrainOptions(quiet=True, device="cpu", name=f"run-{number}"),
        )
        for number in range(2)
    ]
    one, other = ((run.path / "model" / "model.safetensors").read_bytes() for run in runs)
    assert one == other and runs[0].steps == 5
    shutil.rmtree(tmp_path / "network")
    loaded = load_model(runs[0].path / "model")
    assert loaded.features(torch.zeros(2, 36, 36, dtype=torch.uint8)).shape[0] == 2


def test_the_published_encoder_file_starts_a_resnet50(tmp_path: Path) -> None:
    """`{name}_encoder.pth`: a bare torchvision ResNet-50 without fc (method.md A.10)."""
    reference = build_backbone(BackboneConfig(), channels=3).net
    names = {own: name for name, own in published_names().items()}
    state = {names[own]: tensor for own, tensor in reference.state_dict().items()}
    assert len(state) == 318 and "layer3.5.conv3.weight" in state and "fc.weight" not in state
    torch.save(state, tmp_path / "imitate_encoder.pth")
    config = BackboneConfig(weights=str(tmp_path / "imitate_encoder.pth"))
    loaded = build_backbone(config, channels=3).net.state_dict()
    assert all(torch.equal(tensor, loaded[n]) for n, tensor in reference.state_dict().items())


def published_names() -> dict[str, str]:
    """The names of torchvision's ResNet-50, and those of the same tensors in `transformers`."""
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    base = "embedder.embedder"
    names = {"conv1.weight": f"{base}.convolution.weight"}
    names |= {f"bn1.{leaf}": f"{base}.normalization.{leaf}" for leaf in leaves}
    for stage, depth in enumerate((3, 4, 6, 3)):
        for layer in range(depth):
            there, here = f"layer{stage + 1}.{layer}", f"encoder.stages.{stage}.layers.{layer}"
            parts = {(f"conv{i}", f"bn{i}"): f"layer.{i - 1}" for i in (1, 2, 3)}
            if layer == 0:
                parts["downsample.0", "downsample.1"] = "shortcut"
            for (conv, norm), part in parts.items():
                names[f"{there}.{conv}.weight"] = f"{here}.{part}.convolution.weight"
                names |= {
                    f"{there}.{norm}.{leaf}": f"{here}.{part}.normalization.{leaf}"
                    for leaf in leaves
                }
    return names
