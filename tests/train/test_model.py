from collections.abc import Callable

import numpy as np
import pytest
import torch

from imitate.contract import ConfigError
from imitate.train.network.backbone import BackboneConfig, pooled
from imitate.train.network.branches import TokensConfig
from imitate.train.network.model import (
    ImageConfig,
    ModelConfig,
    VisionLanguageModel,
    build_model,
    normalise,
    prepare_images,
)
from imitate.train.objective.views import ViewsConfig, make_views

IMAGE = ImageConfig(size=32, resize=40, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CONFIG = ModelConfig(
    backbone=BackboneConfig(name="tiny"),
    tokens=TokensConfig(grid=4),
    image=IMAGE,
    embed_dim=12,
    text_hidden=16,
    norm_group=2,
)


def pictures(n: int = 4, height: int = 40, width: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    model = build_model(CONFIG, text_width=6, seed=0)
    with torch.no_grad():  # so that running statistics and positions say something
        for view in pictures(8)[:, :32, :32].split(4):
            levels = model.levels(view)
            draw = model.draw("findings", "test", 0)
            model.project("findings", model.read("findings", levels, draw))
            model.project("impression", pooled(levels))
        model.branches["findings"].position_KW.normal_()
        model.text_head(torch.randn(8, 6))
    return model


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, same, other = (
        build_model(CONFIG, text_width=6, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_pixels_are_normalised_by_channel() -> None:
    images = pictures(2, 3, 5)
    out = normalise(images, IMAGE)
    assert out.shape == (2, 3, 3, 5)
    for c in range(3):
        expected = (images.double() / 255 - IMAGE.mean[c]) / IMAGE.std[c]
        torch.testing.assert_close(out[:, c].double(), expected, rtol=1e-5, atol=1e-6)
    gray = normalise(images, ImageConfig(size=8, resize=8, channels=1, mean=(0.5,), std=(0.25,)))
    torch.testing.assert_close(gray[:, 0], (images / 255 - 0.5) * 4)


def test_stored_images_are_cut_in_the_centre() -> None:
    images = pictures()
    expected = normalise(images[:, 4:36, 4:36], IMAGE)
    assert torch.equal(prepare_images(images, IMAGE), expected)


def test_evaluation_sees_what_views_without_augmentation_are() -> None:
    images = pictures()
    views = make_views(
        images.numpy(), list("abcd"), ViewsConfig(mode="none"), image=IMAGE, seed=0, epoch=0
    )
    assert torch.equal(
        normalise(torch.from_numpy(views[:, 0]), IMAGE), prepare_images(images, IMAGE)
    )


def test_larger_images_are_resized_without_aliasing() -> None:
    doubled = pictures().repeat_interleave(2, 1).repeat_interleave(2, 2)
    # means over fine stripes, where plain sampling would see only one of them
    doubled[:, ::2] = 0
    doubled[:, 1::2] = 200
    out = prepare_images(doubled, ImageConfig(size=32, resize=40, mean=(0.0,), std=(1.0,)))
    torch.testing.assert_close(out, torch.full_like(out, 100 / 255), atol=0.01, rtol=0)
    assert prepare_images(pictures(1, 80, 100), IMAGE).shape == (1, 3, 32, 32)


def test_features_are_the_pooled_last_level(model: VisionLanguageModel) -> None:
    features = model.features(pictures())
    model.eval()
    with torch.no_grad():
        levels = model.backbone(prepare_images(pictures(), IMAGE))
    torch.testing.assert_close(features, levels["stage4"].mean((2, 3)))
    assert features.shape == (4, model.backbone.width)


EMBEDDINGS: dict[str, Callable[[VisionLanguageModel, torch.Tensor], torch.Tensor]] = {
    "features": lambda model, images: model.features(images),
    "impression": lambda model, images: model.embed_images(images),
    "findings": lambda model, images: model.embed_branch("findings", images),
}


@pytest.mark.parametrize("embed", EMBEDDINGS)
def test_an_image_has_its_embedding_whatever_batch_it_is_in(
    model: VisionLanguageModel, embed: str
) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = EMBEDDINGS[embed](model, pictures())
    part = EMBEDDINGS[embed](model, pictures()[1:3])
    torch.testing.assert_close(whole[1:3], part, rtol=1e-4, atol=1e-5)
    assert model.training and not whole.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_embeddings_have_length_one(model: VisionLanguageModel) -> None:
    for out in (
        model.embed_images(pictures()),
        model.embed_branch("findings", pictures()),
        model.embed_text_vectors(torch.randn(4, 6)),
    ):
        assert out.shape == (4, 12)
        torch.testing.assert_close(out.norm(dim=1), torch.ones(4))


def test_the_findings_embedding_averages_eight_draws(model: VisionLanguageModel) -> None:
    model.eval()
    with torch.no_grad():
        levels = model.backbone(prepare_images(pictures(), IMAGE))
        total = torch.zeros(4, 12)
        for i in range(8):
            draw = model.draw("findings", "evaluation", 0, i)
            out = model.project("findings", model.read("findings", levels, draw))
            total += out / out.norm(dim=1, keepdim=True)
    expected = total / total.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.embed_branch("findings", pictures()), expected)


def test_the_model_reads_one_channel() -> None:
    image = ImageConfig(size=32, resize=40, channels=1, mean=(0.5,), std=(0.25,))
    config = ModelConfig(
        backbone=BackboneConfig(name="tiny"), tokens=TokensConfig(grid=4), image=image
    )
    features = build_model(config, text_width=6, seed=0).features(pictures())
    assert np.isfinite(features.numpy()).all()


def test_settings_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        ImageConfig(size=64, resize=32, channels=2, std=(0.0,))
    assert len(caught.value.problems) == 4  # three means for two channels too
    with pytest.raises(ConfigError) as caught:
        ModelConfig(embed_dim=0, norm_group=1)
    assert len(caught.value.problems) == 2
