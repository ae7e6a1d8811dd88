"""Studies: one draw a study and epoch, whose views are two films; all views are trained on."""

import shutil
import signal

import numpy as np
import pytest
import torch

from imitate.contract import ConfigError, Stopped
from imitate.options import FaultBudget
from imitate.shards.manifest import ShardSet
from imitate.shards.reader import ShardReader
from imitate.shards.reading.source import OncePictures
from imitate.train.bound import TrainOptions, bind
from imitate.train.feed import feed, pictures_of
from imitate.train.identity import study_numbers, training_rows
from imitate.train.logbook import read_metrics
from imitate.train.network.model import ImageConfig
from imitate.train.objective.films import film_views
from imitate.train.objective.task import PretrainTask
from imitate.train.objective.views import ViewsConfig, make_views
from imitate.train.parts import build_parts
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train
from imitate.train.validation.measure import held_out_rows

QUIET = TrainOptions(quiet=True, device="cpu")
TERMS = "loss.terms=[impression, findings, vision_impression, vision_findings]"


@pytest.fixture(scope="module")
def study_root(make_set, tmp_path_factory):
    """Thirty-one films, two a study but for the last, frontal and lateral in turn."""
    root = tmp_path_factory.mktemp("studies")
    make_set(root, "pairs", count=31, views=("PA", "LATERAL"))
    return root


@pytest.fixture
def own_root(study_root, tmp_path):
    return shutil.copytree(study_root, tmp_path / "root")


@pytest.fixture(scope="module")
def recipe(tiny_settings):
    return load_recipe("demo", (*tiny_settings, "data.unit=study", TERMS))


@pytest.fixture(scope="module")
def bound(study_root, recipe):
    return bind(study_root, recipe, QUIET)


@pytest.fixture(scope="module")
def parts(bound):
    return build_parts(
        bound.recipe,
        bound.shards,
        bound.plan.rows,
        device=bound.device,
        budget=FaultBudget(number=0),
        progress="none",
        allow_download=False,
    )


def batches_of(bound, parts, source, steps):
    images = pictures_of(
        source, bound.plan, steps, ranks=bound.ranks, damage=parts.damage, workers=2
    )
    return list(feed(parts.task, images, bound.plan, steps=steps, workers=2))


def test_films_of_a_study_have_its_number_and_others_none(study_root):
    shards = ShardSet.open(study_root / "data" / "shards" / "pairs")
    rows = training_rows(shards)
    numbers = study_numbers(shards, rows)
    names = [shards.column("study_id")[row] for row in rows]
    pairs = set(zip(names, numbers.tolist(), strict=True))
    assert len(pairs) == len(set(names)) == len(set(numbers.tolist())) == 16


def test_training_takes_all_views_and_validation_stays_frontal(study_root):
    shards = ShardSet.open(study_root / "data" / "shards" / "pairs")
    views = shards.column("view")
    assert {views[row] for row in training_rows(shards)} == {"PA", "LATERAL"}
    assert {views[row] for row in held_out_rows(shards)} == {"PA"}


def test_an_epoch_is_of_studies(bound):
    assert bound.plan.steps_per_epoch == 16 // 4
    assert len(bound.plan.rows) == 31
    assert len(bound.plan.batch(0)) == 2 * 4


def test_each_view_shows_its_own_film(bound, parts):
    reader, keys = ShardReader(bound.shards), bound.shards.column("key")
    alone = 0
    for batch in batches_of(bound, parts, parts.reader, range(8)):
        assert batch.views.shape == (4, 2, 16, 16)
        assert np.array_equal(batch.films, bound.plan.batch(batch.step).reshape(4, 2))
        assert np.array_equal(batch.ordinals, batch.films[:, 0])
        assert all(np.array_equal(batch.shown(v), batch.films[:, v]) for v in (0, 1))
        drawn = {"image": parts.task.model.config.image, "seed": 42, "epoch": batch.epoch}
        for sample, films in enumerate(batch.films):
            views = [
                make_views(reader.images(film[None]), [keys[film]], parts.task.views, **drawn)[0]
                for film in films
            ]
            single = films[0] == films[1]
            alone += single
            # a film that is alone is seen in both of its views
            wanted = views[0] if single else np.stack([view[0] for view in views])
            assert np.array_equal(batch.views[sample].numpy(), wanted)
    assert alone  # the study of one film was among them


def test_a_film_shown_twice_is_read_once(bound, parts):
    asked = []

    class Counting:
        """The reader, which also notes what it is asked for."""

        empty, advise = parts.reader.empty, parts.reader.advise

        def fill(self, pictures, ordinals):
            asked.extend(ordinals.tolist())
            parts.reader.fill(pictures, ordinals)

    steps = range(bound.plan.steps_per_epoch)
    batches_of(bound, parts, Counting(), steps)
    shown = [film for step in steps for film in bound.plan.batch(step).tolist()]
    assert sorted(asked) == sorted(set(shown)) and len(asked) == len(shown) - 1


def test_pictures_read_once_are_the_same():
    class Squares:
        """Pictures that hold their ordinal."""

        def empty(self, ordinals):
            return np.empty((len(ordinals), 2, 2), np.uint8)

        def fill(self, pictures, ordinals):
            pictures[:] = ordinals[:, None, None]

        def advise(self, ordinals):
            """Nothing."""

    for ordinals in ([3, 3, 3], [1, 2, 3], [5, 5, 1, 1, 5], [7]):
        once = OncePictures(Squares())
        pictures = once.empty(np.array(ordinals))
        once.fill(pictures, np.array(ordinals))
        assert pictures[:, 0, 0].tolist() == ordinals


def test_film_views_do_not_depend_on_their_neighbours():
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (3, 2, 20, 20), dtype=np.uint8)
    keys = [["a", "b"], ["c", "c"], ["b", "a"]]
    image = ImageConfig(size=16, resize=18, channels=1, mean=(0.5,), std=(0.25,))
    drawn = {"image": image, "seed": 1, "epoch": 0}
    found = film_views(films, keys, ViewsConfig(), **drawn)
    for sample in range(3):
        one = film_views(
            films[sample : sample + 1], keys[sample : sample + 1], ViewsConfig(), **drawn
        )
        assert np.array_equal(one[0], found[sample])
    assert not np.array_equal(found[1, 0], found[1, 1])


def test_a_run_on_studies_stopped_twice_is_never_stopped(
    own_root, recipe, lasting_part, monkeypatch
):
    straight = train(own_root, recipe, QUIET)
    assert (straight.steps, straight.samples) == (8, 32)
    wanted = lasting_part(straight.path)
    straight.path.rename(own_root / "straight")
    losses = PretrainTask.losses
    for stop, workers, cache in ((2, 1, "none"), (5, 3, "host")):

        def signalled(task, features, batch, stop=stop):
            if batch.step == stop and task.model.training:
                signal.raise_signal(signal.SIGINT)
            return losses(task, features, batch)

        monkeypatch.setattr(PretrainTask, "losses", signalled)
        options = TrainOptions(quiet=True, device="cpu", workers=workers, cache=cache)
        with pytest.raises(Stopped):
            train(own_root, recipe, options)
    monkeypatch.setattr(PretrainTask, "losses", losses)
    assert lasting_part(train(own_root, recipe, QUIET).path) == wanted
    rows = read_metrics(own_root / "straight" / "metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_study_and_image_are_different_runs(study_root, recipe, tiny_settings):
    image = load_recipe("demo", (*tiny_settings, TERMS))
    assert bind(study_root, image, QUIET).run.name != bind(study_root, recipe, QUIET).run.name


def test_gradients_reach_the_model_from_both_films(bound, parts):
    (batch,) = batches_of(bound, parts, parts.reader, range(1))
    parts.task.model.train()
    losses = parts.task.loss(batch)
    assert set(losses) == {*parts.task.criterion.config.terms, "loss"}
    torch.autograd.backward(losses["loss"])
    grads = [p.grad for p in parts.task.model.backbone.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert sum(float(grad.abs().sum()) for grad in grads) > 0


def test_webdataset_draws_no_studies(tiny_settings):
    with pytest.raises(ConfigError, match="unit study cannot be had with order webdataset"):
        load_recipe("demo", (*tiny_settings, "data.unit=study", "data.order=webdataset"))
