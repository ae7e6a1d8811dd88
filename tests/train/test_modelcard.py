"""The model card: the chain from the archive to the weights, and nothing of a patient."""

import json

import pytest

from imitate.train.bound import TrainOptions
from imitate.train.records.modelcard import model_card
from imitate.train.run import train


@pytest.fixture(scope="module")
def finished(make_set, tmp_path_factory, tiny_recipe):
    root = tmp_path_factory.mktemp("card")
    make_set(root, "told")
    return train(root, tiny_recipe, TrainOptions(quiet=True, device="cpu")).path


@pytest.fixture(scope="module")
def card(finished):
    return json.loads((finished / "card.json").read_text())


def test_every_link_of_the_chain_is_named_with_its_digest(finished, card):
    text = (finished / "model" / "README.md").read_text()
    chain = text.partition("## Where it came from")[2].partition("##")[0]
    digests = (
        card["dataset"]["prepared"]["digest"],
        card["dataset"]["digest"],
        card["text_encoder"]["digest"],
        card["recipe_digest"],
    )
    places = [chain.index(digest) for digest in digests]
    assert places == sorted(places)
    assert "the last state, after step 10 (40 samples)" in chain
    assert "the reports alone" in chain


def test_what_was_measured_of_these_weights_is_in_it(finished, card):
    text = (finished / "model" / "README.md").read_text()
    part = text.partition("## On the validate split")[2].partition("## Everything")[0]
    rows = [line for line in part.splitlines() if line.startswith("| validate/")]
    assert len(rows) == len(card["validation"]["model"])
    assert f"| validate/loss | {card['validation']['model']['validate/loss']:.4g} |" in rows


def test_it_is_a_function_of_the_lasting_card(finished, card):
    lasting = json.loads((finished / "model" / "config.json").read_text())["card"]
    text = (finished / "model" / "README.md").read_text()
    assert model_card(lasting) == text
    assert card["run"]["started"] not in text and card["run"]["machine"] not in text
    assert "image-0" not in model_card(lasting | {"damaged": ["image-001"]})


def test_restricted_data_are_said_in_front(card):
    open_, restricted = (model_card(card | {"access": a}) for a in ("open", "credentialed"))
    assert "restricted" not in open_.partition("## Where")[0]
    assert "**Derived from restricted data**" in restricted.partition("## Where")[0]


def test_labels_as_supervision_are_said(card):
    assert "carry a star" in model_card(card | {"supervision": "labels", "text_encoder": None})


def test_a_card_that_tells_little_makes_a_short_one():
    text = model_card({"name": "mine"})
    assert "| name | mine |" in text and "## On the validate split" not in text
