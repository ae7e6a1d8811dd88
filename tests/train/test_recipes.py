"""Every packaged recipe trains, goes on where it stopped, and leaves a model that can be used."""

import json

import numpy as np
import pytest
import torch

from imitate.contract import ConfigError
from imitate.eval.encoders.encoder import OurModel
from imitate.options import FaultBudget
from imitate.train.bound import TrainOptions
from imitate.train.logbook import read_metrics
from imitate.train.network.folder import load_model
from imitate.train.recipes.recipe import load_recipe, recipe_names
from imitate.train.run import train

ANY = TrainOptions(quiet=True, device="cpu", budget=FaultBudget(number=9))
SMALL = (
    "data.batch=4",
    "text.model=tiny",
    "text.pooling=mean",
    "model.backbone.name=tiny",
    "model.image.size=16",
    "model.image.resize=18",
    "model.tokens.grid=4",
    "model.embed_dim=16",
    "model.text_hidden=16",
    "optim.epochs=1",
    "checkpoint.every_steps=3",
)


def trained(root, name, *settings):
    report = train(root, load_recipe(name, (*SMALL, *settings)), ANY)
    return report, json.loads((report.path / "card.json").read_text())


@pytest.mark.parametrize("name", [n for n in recipe_names() if n != "demo"])
def test_a_recipe_trains_to_a_model_folder(tiny_root, name):
    report, card = trained(tiny_root, name)
    assert card["supervision"] == load_recipe(name).supervision
    model = load_model(report.path / "model")
    images = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    assert model.features(images).shape == (3, 256)
    source = OurModel(report.path / "model", name="run", seed=1, access="open")
    assert source.name == ("run*" if card["supervision"] == "labels" else "run")
    encoder = source.load("cpu")
    assert source.reads_text == (encoder.embed_texts is not None) == (name != "labels")
    if encoder.embed_images is not None:
        found = encoder.embed_images(images.numpy())
        assert found.shape == (3, 16) and np.isfinite(found).all()
    rows = read_metrics(report.path / "metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows)
    if name == "imitate-plus":
        assert {"loss/alpha_findings", "loss/impression"} < set(rows[0])
    if name == "labels":
        assert "loss/labels" in rows[0] and card["text_encoder"] is None
        assert card["prior"] == {}


def test_a_learned_mass_is_kept_by_checkpoints_and_left_out_of_the_model(tiny_root, lasting_part):
    settings = ("loss.prior.adapt=learned", "optim.lr=0.01")
    report, _ = trained(tiny_root, "imitate", *settings)
    masses = [row["loss/alpha_impression"] for row in read_metrics(report.path / "metrics.jsonl")]
    assert masses[0] == pytest.approx(0.2)
    assert masses[-1] != pytest.approx(0.2, abs=1e-4)
    load_model(report.path / "model")
    expected = lasting_part(report.path)
    # the model and the newest checkpoint are lost; it goes on from the one before
    newest = max((report.path / "checkpoints").glob("*.json"))
    newest.unlink()
    newest.with_suffix(".safetensors").unlink()
    card = json.loads((report.path / "card.json").read_text())
    (report.path / "card.json").write_text(json.dumps(card | {"finished": False}))
    again, _ = trained(tiny_root, "imitate", *settings)
    assert lasting_part(again.path) == expected


def test_sections_of_any_name_come_from_the_reports(tiny_root):
    settings = (
        "model.branches={impression: null, findings: null, diagnosis: {}, observations: "
        "{stage1: 0.5, stage4: 0.5}}",
        "model.embedding=diagnosis",
        "loss.terms=[diagnosis, observations, vision_observations]",
        "loss.texts={diagnosis: impression, observations: findings}",
        "loss.weighted=[]",
    )
    report, card = trained(tiny_root, "imitate", *settings)
    assert set(card["prior"]) == {"diagnosis", "observations"}
    model = load_model(report.path / "model")
    images = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    assert torch.equal(model.embed_images(images), model.embed_branch("diagnosis", images))


def test_a_prior_of_labels_needs_a_set_that_has_them(tiny_root, make_set):
    make_set(tiny_root, "untold", text=True, told=False)
    recipe = load_recipe("imitate-plus", SMALL)
    with pytest.raises(ConfigError, match="--report-labels"):
        train(tiny_root, recipe, TrainOptions(quiet=True, device="cpu", data="untold"))
