"""Files that describe their backbone: timm's plain ViT gives what timm's own formula gives."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imitate.contract import InputError
from imitate.eval.encoders.foreign import parse_encoder
from imitate.train.network.backbone import BackboneConfig, build_backbone
from imitate.train.network.layouts import load_described

WIDTH, DEPTH, PATCH, GRID = 128, 4, 8, 4  # two heads of 64, pictures of 32 x 32


def timm_state(seed: int = 0, *, channels: int = 3) -> dict[str, Tensor]:
    """Return drawn weights of a small ViT under timm's names (vision_transformer.py)."""
    draw = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> Tensor:
        return 0.2 * torch.randn(shape, generator=draw)

    state = {
        "cls_token": tensor(1, 1, WIDTH),
        "pos_embed": tensor(1, GRID**2 + 1, WIDTH),
        "patch_embed.proj.weight": tensor(WIDTH, channels, PATCH, PATCH),
        "patch_embed.proj.bias": tensor(WIDTH),
        "norm.weight": 1 + tensor(WIDTH),
        "norm.bias": tensor(WIDTH),
        "head.weight": tensor(10, WIDTH),
        "head.bias": tensor(10),
    }
    for i in range(DEPTH):
        for norm in ("norm1", "norm2"):
            state[f"blocks.{i}.{norm}.weight"] = 1 + tensor(WIDTH)
            state[f"blocks.{i}.{norm}.bias"] = tensor(WIDTH)
        shapes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        shapes |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        for name, shape in shapes.items():
            state[f"blocks.{i}.{name}.weight"] = tensor(*shape) / 4
            state[f"blocks.{i}.{name}.bias"] = tensor(shape[0])
    return state


def patches_of(state: dict[str, Tensor], x_BCHW: Tensor) -> Tensor:
    """The ViT (Dosovitskiy et al., 2021) written out for timm's names; patches after the norm."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x_BTD = F.conv2d(x_BCHW, weight, bias, stride=PATCH).flatten(2).transpose(1, 2)
    x_BTD = torch.cat([state["cls_token"].expand(len(x_BTD), -1, -1), x_BTD], 1)
    x_BTD = x_BTD + state["pos_embed"]
    for i in range(DEPTH):
        block = f"blocks.{i}"
        qkv = linear(norm(x_BTD, f"{block}.norm1"), f"{block}.attn.qkv")
        heads = []
        for head in range(WIDTH // 64):
            part = slice(64 * head, 64 * head + 64)
            q, k, v = (third[..., part] for third in qkv.chunk(3, dim=-1))
            heads.append(torch.softmax(q @ k.transpose(1, 2) / math.sqrt(64), -1) @ v)
        x_BTD = x_BTD + linear(torch.cat(heads, -1), f"{block}.attn.proj")
        inner = F.gelu(linear(norm(x_BTD, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x_BTD = x_BTD + linear(inner, f"{block}.mlp.fc2")
    return norm(x_BTD, "norm")[:, 1:]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_vit_in_timms_names_gives_what_its_formula_gives(channels: int) -> None:
    state = timm_state(channels=channels)
    x_BCHW = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(1))
    backbone = load_described(state).eval()
    with torch.no_grad():
        found = backbone(x_BCHW)["stage4"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, patches_of(state, x_BCHW), rtol=1e-4, atol=1e-4)


def test_a_file_of_it_is_an_encoder_and_says_its_channels(tmp_path: Path) -> None:
    torch.save(timm_state(channels=1), tmp_path / "vit.pth")
    source = parse_encoder(f"{tmp_path}/vit.pth,size=32,resize=32,norm=half")
    films = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    vectors = source.load("cpu").features(films)
    x_BCHW = (torch.from_numpy(films)[:, None].float() / 255 - 0.5) / 0.5
    expected = patches_of(timm_state(channels=1), x_BCHW).mean(1).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)


def test_decoders_and_mask_tokens_of_pre_training_are_left_out() -> None:
    more = {"mask_token": torch.zeros(1), "decoder_embed.weight": torch.zeros(2, 2)}
    state = timm_state()
    held = load_described({f"module.{n}": t for n, t in (state | more).items()}).net.state_dict()
    assert torch.equal(held["embeddings.cls_token"], state["cls_token"])


def test_it_may_be_the_initial_weights_of_a_run(tmp_path: Path) -> None:
    state = timm_state()
    config = load_described(state).config
    config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "vit.pth")
    begun = BackboneConfig(name=str(tmp_path), weights=str(tmp_path / "vit.pth"))
    held = build_backbone(begun, channels=3).net.state_dict()
    assert torch.equal(held["layernorm.weight"], state["norm.weight"])


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("blocks.1.attn.qkv.bias", "q_proj.bias is missing"),
        ("pos_embed", "no positions"),
        ("blocks.0.attn.qkv.weight", "neither in torchvision"),
        ("norm.weight", "layernorm.weight is missing"),
    ],
)
def test_what_is_missing_is_named(lost: str, message: str) -> None:
    state = timm_state()
    del state[lost]
    with pytest.raises(InputError, match=message):
        load_described(state)


def test_a_tensor_without_a_place_is_named() -> None:
    state = timm_state() | {"blocks.0.attn.gate.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"gate\.weight has no place"):
        load_described(state)


def test_shapes_of_no_network_are_refused() -> None:
    broken = {"pos_embed": torch.zeros(3), "patch_embed.proj.weight": torch.tensor(1.0)}
    for name, tensor in broken.items():
        with pytest.raises(InputError, match="shapes that no such network has"):
            load_described(timm_state() | {name: tensor})
    stem = {f"{name}.weight": torch.zeros(4) for name in ("conv1", "layer1.0.conv1")}
    stages = {f"layer{stage}.0.conv2.weight": torch.zeros(4, 4, 3, 3) for stage in (1, 2, 3, 4)}
    with pytest.raises(InputError, match="shapes that no such network has"):
        load_described(stem | stages)
