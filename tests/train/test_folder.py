import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import ViTConfig

from imitate.contract import InputError
from imitate.train.network.backbone import BackboneConfig, build_backbone
from imitate.train.network.branches import TokensConfig
from imitate.train.network.folder import LoadedModel, load_model, save_model
from imitate.train.network.model import ImageConfig, ModelConfig, build_model
from imitate.train.network.text import TextConfig, build_text_encoder

TEXTS = ["No acute disease.", "Left effusion.", "Edema."]
CARD = {
    "recipe": "demo",
    "note": "synthetic phantoms",
    "damaged": ["key-1"],
    "dataset": {"name": "phantom"},
}
IMAGES = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)


def save(folder: Path, *, seed: int = 0, model: str = "tiny") -> LoadedModel:
    text = build_text_encoder(TextConfig(model="tiny", pooling="mean"), texts=TEXTS)
    if model != "tiny":
        text.save(Path(model))
        text = build_text_encoder(TextConfig(model=model, pooling="mean"))
    config = ModelConfig(
        backbone=BackboneConfig(name="tiny"),
        branches={"impression": {}, "findings": {"stage2": 0.5, "stage4": 0.25}},
        tokens=TokensConfig(grid=4),
        image=ImageConfig(size=32, resize=40, channels=1, mean=(0.5,), std=(0.25,)),
        embed_dim=12,
        text_hidden=16,
    )
    net = build_model(config, text_width=text.width, seed=seed)
    save_model(net, text, folder, CARD)
    return LoadedModel(model=net.eval(), text=text, image=config.image, card=CARD)


def test_a_loaded_model_is_the_saved_one(tmp_path: Path) -> None:
    saved, loaded = save(tmp_path / "model"), load_model(tmp_path / "model")
    assert loaded.model.config == saved.model.config
    assert loaded.image == saved.image
    assert loaded.card == CARD
    assert not loaded.model.training
    for embed in ("features", "embed_images"):
        assert torch.equal(getattr(loaded, embed)(IMAGES), getattr(saved, embed)(IMAGES))
    found, expected = (m.embed_branch("findings", IMAGES) for m in (loaded, saved))
    assert torch.equal(found, expected)
    texts = ["Effusion on the left.", "Edema."]
    assert torch.equal(loaded.embed_texts(texts), saved.embed_texts(texts))
    torch.testing.assert_close(loaded.embed_texts(texts).norm(dim=1), torch.ones(2))


def test_the_folder_is_as_hugging_face_has_it(tmp_path: Path) -> None:
    save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "text",
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "imitate"
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n") and "| note | synthetic phantoms |" in card
    assert "| dataset.name | phantom |" in card and "key-1" not in card
    with safe_open(tmp_path / "model.safetensors", framework="pt") as tensors:
        assert tensors.metadata() == {"format": "pt"}


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    save(tmp_path / "one")
    save(tmp_path / "two")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) > 5
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_initial_weights_are_not_needed_again(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(build_backbone(BackboneConfig(name="tiny"), channels=3).net.state_dict(), weights)
    config = ModelConfig(
        backbone=BackboneConfig(name="tiny", weights=str(weights)),
        tokens=TokensConfig(grid=4),
        image=ImageConfig(size=32, resize=40),
    )
    text = build_text_encoder(TextConfig(model="tiny", pooling="mean"), texts=TEXTS)
    model = build_model(config, text_width=text.width, seed=0)
    save_model(model, text, tmp_path / "model", CARD)
    weights.unlink()
    loaded = load_model(tmp_path / "model").model
    assert torch.equal(loaded.features(IMAGES), model.features(IMAGES))
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()


def test_a_saved_model_can_start_another_run(tmp_path: Path) -> None:
    saved = save(tmp_path / "model")
    config = BackboneConfig(name="tiny", weights=str(tmp_path / "model"))
    backbone = build_backbone(config, channels=1)
    expected = saved.model.backbone.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in backbone.state_dict().items())


def test_a_backbone_from_a_folder_is_kept_with_the_model(tmp_path: Path) -> None:
    source, kept = tmp_path / "source", tmp_path / "model"
    ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24
    ).save_pretrained(source)
    config = ModelConfig(
        backbone=BackboneConfig(name=str(source)),
        tokens=TokensConfig(grid=4),
        image=ImageConfig(size=32, resize=40),
    )
    text = build_text_encoder(TextConfig(model="tiny", pooling="mean"), texts=TEXTS)
    model = build_model(config, text_width=text.width, seed=0)
    save_model(model, text, kept, CARD)
    shutil.rmtree(source)
    moved = kept.rename(tmp_path / "moved")
    loaded = load_model(moved)
    assert torch.equal(loaded.features(IMAGES), model.features(IMAGES))
    assert not any(str(tmp_path) in file.read_text() for file in moved.rglob("*.json"))
    save_model(loaded.model, loaded.text, tmp_path / "again", CARD)
    for name in ("config.json", "backbone/config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (moved / name).read_bytes()


def test_another_text_encoder_is_refused(tmp_path: Path) -> None:
    where = tmp_path / "encoder"
    save(tmp_path / "model", model=str(where))
    load_model(tmp_path / "model")
    shutil.rmtree(where)
    with pytest.raises(InputError, match="not on this machine"):
        load_model(tmp_path / "model")
    build_text_encoder(TextConfig(model="tiny", seed=1), texts=TEXTS).save(where)
    with pytest.raises(InputError, match="not the one"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "text/tokenizer.json"])
@pytest.mark.parametrize("harm", ["missing", "cut", "other"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    save(tmp_path)
    file = tmp_path / name
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40] if harm == "cut" else b"{}")
    with pytest.raises(InputError):
        load_model(tmp_path)
