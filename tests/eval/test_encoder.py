"""Encoders from elsewhere: what must be said of them, and that they compute what they should."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ResNetBackbone, ResNetConfig, ViTConfig, ViTForImageClassification

from imitate.contract import InputError, UsageError
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.encoders.foreign import ForeignWeights, parse_encoder
from imitate.files import write_json
from imitate.train.network.model import prepare_images

ALL = "size=16,resize=20,mean=0.5,std=0.25"
FILMS = np.random.default_rng(0).integers(0, 256, (3, 24, 24)).astype(np.uint8)


def test_torchvision_weights_give_the_pooled_features(net: nn.Module, weights: Path) -> None:
    source = parse_encoder(f"{weights},{ALL}")
    assert isinstance(source, ForeignWeights)
    encoder = source.load("cpu")
    x = prepare_images(torch.from_numpy(FILMS), source.input)
    assert x.shape == (3, 3, 16, 16)
    with torch.no_grad():
        assert encoder.features(FILMS) == pytest.approx(net(x).numpy(), abs=1e-5)
    assert not source.reads_text and encoder.embed_images is None


def test_safetensors_and_pth_are_the_same_encoder(net: nn.Module, weights: Path) -> None:
    save_file(net.state_dict(), weights.with_suffix(".safetensors"))
    one, other = (
        parse_encoder(f"{weights.with_suffix(end)},{ALL}").load("cpu").features(FILMS)
        for end in (".pth", ".safetensors")
    )
    assert (one == other).all()


def test_control_has_other_weights_that_its_seed_decides(weights: Path) -> None:
    source = parse_encoder(f"{weights},{ALL}")
    own = source.load("cpu").features(FILMS)
    zero, one, again = (source.control(seed, "cpu").features(FILMS) for seed in (0, 1, 0))
    assert own.shape == zero.shape and (zero == again).all()
    assert (zero != one).any() and (zero != own).any()
    assert source.control_digest(0) != source.control_digest(1) != source.digest


def test_what_pictures_are_brought_to_is_part_of_the_encoder(weights: Path) -> None:
    one = parse_encoder(f"{weights},{ALL}")
    other = parse_encoder(f"{weights},{ALL.replace('resize=20', 'resize=16')}")
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "size, resize, mean, std"),
        (",size=16,resize=20", "mean, std"),
        (",size=16,norm=half", "resize"),
        (f",{ALL},colour=2", "colour"),
        (",size=16,resize=20,meen=0.5,std=0.5", "did you mean mean?"),
        (f",{ALL.replace('size=16', 'size=big')}", "whole numbers"),
        (f",{ALL.replace('0.25', '0:1')}", "std"),
        (f",{ALL.replace('0.25', '0')}", "positive"),
        (f",{ALL.replace('0.25', 'inf')}", "finite"),
        (",size=16,resize=20,mean=nan,std=0.5", "finite"),
        (f",{ALL},channels=1", "3 channels, not 1"),
        (",size=4,resize=20,norm=half", "at least 8 .--encoder"),
        (",size=30,resize=20,norm=half", "resize"),
        (",size=16,resize=20,norm=mine", "imagenet"),
    ],
)
def test_a_missing_or_wrong_setting_is_never_guessed(
    weights: Path, options: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        parse_encoder(f"{weights}{options}")


def test_norm_stands_for_mean_and_std(weights: Path) -> None:
    source = parse_encoder(f"{weights},size=16,resize=16,norm=imagenet")
    assert isinstance(source, ForeignWeights)
    assert source.input.mean == (0.485, 0.456, 0.406) and source.input.channels == 3


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.pth").write_bytes(b"not a tensor")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"\.pth"):
        parse_encoder(f"{tmp_path / 'notes.txt'},{ALL}")
    for name in ("bad.pth", "other.pth", "none.pth"):
        with pytest.raises(InputError, match=name):
            parse_encoder(f"{tmp_path / name},{ALL}")
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"no config\.json") as error:
        parse_encoder(str(tmp_path / "run"))
    assert "--run NAME" in error.value.todo
    with pytest.raises(InputError, match="no such file") as error:
        parse_encoder("microsoft/resnet-50")
    assert "hf download" in error.value.todo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def processor(folder: Path, **over: object) -> None:
    told = {
        "size": {"shortest_edge": 20},
        "crop_size": {"height": 16, "width": 16},
        "do_center_crop": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    write_json(folder / "preprocessor_config.json", told | over)


def test_hugging_face_folder_brings_its_own_settings(folder: Path) -> None:
    processor(folder)
    source = parse_encoder(str(folder))
    assert isinstance(source, ForeignWeights)
    assert (source.input.size, source.input.resize, source.input.channels) == (16, 20, 3)
    net = ResNetBackbone.from_pretrained(folder).eval()
    with torch.no_grad():
        maps = net(prepare_images(torch.from_numpy(FILMS), source.input)).feature_maps[-1]
    expected = maps.mean(dim=(2, 3)).numpy()
    assert source.load("cpu").features(FILMS) == pytest.approx(expected, abs=1e-5)
    zero, again = (source.control(0, "cpu").features(FILMS) for _ in range(2))
    assert (zero == again).all() and (zero != expected).any()


def test_sides_brought_to_one_length_are_not_cut(folder: Path) -> None:
    processor(folder, size={"height": 24, "width": 24}, do_center_crop=False)
    source = parse_encoder(str(folder))
    assert isinstance(source, ForeignWeights)
    assert (source.input.size, source.input.resize) == (24, 24)


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"size": {"height": 24, "width": 32}, "do_center_crop": False}, "size, resize"),
        ({"image_mean": None}, "mean"),
        ({"rescale_factor": 1 / 127.5}, "mean"),
    ],
)
def test_what_a_folder_leaves_open_must_be_given(
    folder: Path, over: dict[str, object], says: str
) -> None:
    processor(folder, **over)
    with pytest.raises(UsageError, match=says):
        parse_encoder(str(folder))
    assert parse_encoder(f"{folder},channels=3,{ALL}").digest


def test_a_folder_whose_weights_lack_tensors_is_refused(folder: Path) -> None:
    processor(folder)
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    state.pop(sorted(state)[0])
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="missing"):
        parse_encoder(str(folder)).load("cpu")


def test_a_plain_vision_transformer_can_be_an_encoder(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=4,
    )
    whole = ViTForImageClassification(config).eval()
    whole.save_pretrained(tmp_path / "vit")
    source = parse_encoder(f"{tmp_path / 'vit'},{ALL}")
    assert isinstance(source, ForeignWeights)
    with torch.no_grad():
        x = prepare_images(torch.from_numpy(FILMS), source.input)
        expected = whole.vit(x, interpolate_pos_encoding=True).last_hidden_state[:, 1:].mean(1)
    found = source.load("cpu").features(FILMS)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert (source.control(0, "cpu").features(FILMS) != found).any()


def test_a_model_folder_of_ours_reads_text_too(tmp_path: Path, make_run: object) -> None:
    model = make_run(tmp_path, "mine") / "model"  # type: ignore[operator]
    source = parse_encoder(str(model))
    assert isinstance(source, OurModel)
    assert (source.name, source.seed, source.access) == ("mine", 3, "open")
    encoder = source.load("cpu")
    assert encoder.embed_texts is not None and encoder.embed_images is not None
    texts, images = encoder.embed_texts(["Pneumonia."]), encoder.embed_images(FILMS)
    assert np.linalg.norm(np.vstack([texts, images]), axis=1) == pytest.approx(np.ones(4))
    with pytest.raises(UsageError, match="own"):
        parse_encoder(f"{model},size=16")
