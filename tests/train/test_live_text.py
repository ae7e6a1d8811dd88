"""The text encoder whose last layers are trained: its tokens, its copy, and a whole run of it."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from imitate.contract import ConfigError
from imitate.train.bound import TrainOptions, bind
from imitate.train.distribution.cached import InParts, Whole
from imitate.train.network.folder import load_model
from imitate.train.network.language.live import LiveText, tokens_of
from imitate.train.network.text import TextConfig, TextEncoder, build_text_encoder
from imitate.train.objective.task import PretrainBatch, PretrainTask
from imitate.train.parts import Parts, build_parts
from imitate.train.recipes.recipe import Recipe, load_recipe
from imitate.train.run import train

TEXTS = ["No edema.", "The lungs are clear; no effusion on the left.", "Edema on both sides."]
KINDS = {
    "bert": lambda words: BertModel(
        BertConfig(
            vocab_size=words,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
        ),
        add_pooling_layer=False,
    ),
    "distilbert": lambda words: DistilBertModel(
        DistilBertConfig(vocab_size=words, dim=16, n_layers=3, n_heads=2, hidden_dim=32)
    ),
}


def encoder_of(kind: str = "bert", *, pooling: str = "mean", layers: int = 1) -> TextEncoder:
    """A random encoder of three layers over the words of `TEXTS`."""
    tokenizer = build_text_encoder(TextConfig(model="tiny"), texts=TEXTS).tokenizer
    torch.manual_seed(0)
    config = TextConfig(model=kind, pooling=pooling, trainable_layers=layers)
    return TextEncoder(config, tokenizer=tokenizer, net=KINDS[kind](len(tokenizer)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_untrained_it_reads_as_the_frozen_encoder(kind: str, pooling: str) -> None:
    encoder = encoder_of(kind, pooling=pooling)
    live, tokens = LiveText(encoder, layers=1), tokens_of(encoder, TEXTS)
    rows = np.array([2, 0, -1, 1, 0])
    found = live(*tokens.batch(rows)).detach().numpy()
    expected = encoder.embed([*TEXTS, ""])[rows]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_its_last_layers_are_trained(kind: str) -> None:
    encoder = encoder_of(kind)
    live = LiveText(encoder, layers=2).train()
    assert not any(module.training for module in live.modules())  # no dropout, ever
    live(*tokens_of(encoder, TEXTS).batch(np.arange(3))).square().sum().backward()
    moved = {name for name, p in live.named_parameters() if p.grad is not None and p.grad.any()}
    assert {re.search(r"layers?\.(\d)", name)[1] for name in moved} == {"1", "2"}
    trained = {name for name, p in live.named_parameters() if p.requires_grad}
    # a shift of all keys moves no attention
    assert {n for n in trained - moved if not re.search(r"(key|k_lin)\.bias$", n)} == set()
    assert not any(p.requires_grad for p in encoder.net.parameters())


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 3 layers"):
        LiveText(encoder_of(), layers=4)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    encoder_of().save(folder)
    return folder


@pytest.fixture
def recipe(encoder_folder: Path, tiny_settings: tuple[str, ...]) -> Callable[..., Recipe]:
    """The recipe `demo` in a second, its text encoder the folder, with further settings."""

    def make(*settings: str) -> Recipe:
        text = (f"text.model={encoder_folder}", "text.trainable_layers=1")
        return load_recipe("demo", (*tiny_settings, *text, *settings))

    return make


def options(name: str = "live") -> TrainOptions:
    return TrainOptions(quiet=True, device="cpu", name=name)


def parts_of(root: Path, recipe: Recipe) -> tuple[Parts, PretrainBatch]:
    """The parts of a run, and its first batch."""
    told = options()
    bound = bind(root, recipe, told)
    parts = build_parts(
        recipe,
        bound.shards,
        bound.plan.rows,
        device=bound.device,
        budget=told.budget,
        progress="none",
        allow_download=False,
    )
    ordinals = bound.plan.batch(0)
    pictures = parts.reader.empty(ordinals)
    parts.reader.fill(pictures, ordinals)
    return parts, parts.task.prepare(pictures, ordinals, step=0, epoch=0)


def test_before_the_first_step_the_loss_is_that_of_the_frozen_encoder(
    tiny_root: Path, recipe: Callable[..., Recipe]
) -> None:
    live, batch = parts_of(tiny_root, recipe())
    frozen, same = parts_of(tiny_root, recipe("text.trainable_layers=0"))
    assert frozen.task.model.live_text is None and frozen.task.corpus.tokens is None
    assert live.encoder is not None and frozen.encoder is not None
    assert live.encoder.digest == frozen.encoder.digest  # so that the cache of embeddings is shared
    losses = live.task.loss(batch)
    for name, value in frozen.task.loss(same).items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-4)
    assert isinstance(live.task, PretrainTask)
    for branch in ("impression", "findings"):  # the targets are the frozen encoder's
        ours, theirs = (
            p.task.targets(branch, batch.ordinals, step=0, epoch=0)[0] for p in (live, frozen)
        )
        assert torch.equal(ours, theirs)


def test_parts_of_a_batch_have_the_gradients_of_the_whole(
    tiny_root: Path, recipe: Callable[..., Recipe]
) -> None:
    gradients = []
    for size in (4, 2):
        parts, batch = parts_of(tiny_root, recipe("model.norm_group=2"))
        parts.task.model.train()
        steps = (
            Whole(parts.task, nullcontext)
            if size == 4
            else InParts(parts.task, nullcontext, size=2)
        )
        steps.backward(steps.forward(batch)["loss"])
        live = parts.task.model.live_text
        assert live is not None
        gradients.append([p.grad for p in live.parameters() if p.grad is not None])
    whole, parts_of_it = (torch.cat([g.flatten() for g in each]) for each in gradients)
    torch.testing.assert_close(parts_of_it, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_a_run_trains_it_and_the_model_folder_keeps_it(
    tiny_root: Path, recipe: Callable[..., Recipe]
) -> None:
    report = train(tiny_root, recipe(), options())
    loaded = load_model(report.path / "model")
    live, frozen = loaded.model.live_text, loaded.text
    assert live is not None and frozen is not None
    before, after = frozen.net.state_dict(), live.net.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("layer.2." in name for name in moved)
    texts = ["Edema.", "The lungs are clear."]
    own = torch.from_numpy(frozen.embed(texts, net=live.net))
    torch.testing.assert_close(loaded.embed_texts(texts), loaded.model.embed_text_vectors(own))
    without = dataclasses.replace(loaded, model=loaded.model)
    without.model.live_text = None
    assert not torch.allclose(without.embed_texts(texts), loaded.model.embed_text_vectors(own))
    rows = [json.loads(line) for line in (report.path / "metrics.jsonl").read_text().splitlines()]
    assert "validate/loss" in {key for row in rows for key in row}


def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny_root: Path, tmp_path: Path, recipe: Callable[..., Recipe]
) -> None:
    other = shutil.copytree(tiny_root, tmp_path / "other")
    whole = train(tiny_root, recipe(), options())
    stopped = train(other, recipe(), options())
    folder = stopped.path
    shutil.rmtree(folder / "model")
    last = max((folder / "checkpoints").glob("*.json"))
    last.with_suffix(".safetensors").unlink()
    last.unlink()
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"finished": False}))
    again = train(other, recipe(), options())
    assert not again.fresh
    name = "model/model.safetensors"
    assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
