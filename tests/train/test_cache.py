"""The pixel cache and the readers of a run: what changes its result, and what does not."""

import dataclasses
import shutil

import pytest

from imitate.contract import UsageError
from imitate.shards.manifest import ShardSet
from imitate.train.bound import TrainOptions, bind
from imitate.train.checkpoint import Checkpoints
from imitate.train.identity import plan_of
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

QUIET = TrainOptions(quiet=True, device="cpu")


def with_cache(cache):
    return dataclasses.replace(QUIET, cache=cache)


def rewind(run, samples):
    """Take a finished run back to a checkpoint, as if it had been stopped there."""
    card = run.path / "card.json"
    card.write_text(card.read_text().replace('"finished": true', '"finished": false'))
    shutil.rmtree(run.path / "model")
    saved = Checkpoints(run.path / "checkpoints", every=1, keep=1)
    for path in saved.folder.iterdir():
        if samples not in path.name:
            path.unlink()


def test_all_caches_give_the_same_run(tiny_root, tiny_recipe, lasting_part):
    plain = train(tiny_root, tiny_recipe, QUIET)
    expected = lasting_part(plain.path)
    for cache in ("host", "device"):
        shutil.rmtree(plain.path)
        report = train(tiny_root, tiny_recipe, with_cache(cache))
        assert report.run == plain.run
        assert lasting_part(report.path) == expected


def test_the_cache_may_change_on_resume(tiny_root, tiny_recipe, lasting_part):
    run = train(tiny_root, tiny_recipe, with_cache("device"))
    expected = lasting_part(run.path)
    rewind(run, "samples-000000000036")
    again = train(tiny_root, tiny_recipe, with_cache("host"))
    assert not again.fresh and again.run == run.run
    found = lasting_part(again.path)
    assert {k: v for k, v in found.items() if "checkpoint" not in k} == {
        k: v for k, v in expected.items() if "checkpoint" not in k
    }


def test_the_size_is_said_and_the_file_is_kept(tiny_root, tiny_recipe, capsys):
    loud = TrainOptions(device="cpu", cache="host", progress="none")
    train(tiny_root, tiny_recipe, loud)
    assert "pixel cache: 20 pictures will take 0.00 GB" in capsys.readouterr().err
    [path] = (tiny_root / "data" / "shards" / "tiny" / "pixels").glob("*.npy")
    before = path.stat().st_mtime_ns
    train(tiny_root, tiny_recipe, dataclasses.replace(loud, name="second"))
    assert path.stat().st_mtime_ns == before
    assert "pixel cache" not in capsys.readouterr().err


def test_an_unknown_cache_is_refused(tiny_root, tiny_recipe):
    with pytest.raises(UsageError, match="--cache 'gpu' is not one of none, host, device"):
        bind(tiny_root, tiny_recipe, with_cache("gpu"))


def test_the_order_belongs_to_the_run(tiny_root, tiny_settings):
    orders = ("permutation", "window:1", "window:2", "webdataset")
    recipes = [load_recipe("demo", (*tiny_settings, f"data.order={order}")) for order in orders]
    assert len({bind(tiny_root, recipe, QUIET).run.name for recipe in recipes}) == len(orders)
    for order in ("window:0", "window", "random"):
        with pytest.raises(UsageError, match=r"data\.order must be permutation, window:W"):
            load_recipe("demo", (*tiny_settings, f"data.order={order}"))


def test_a_window_is_of_whole_shards(tiny_root, tiny_settings, lasting_part):
    recipe = load_recipe("demo", (*tiny_settings, "data.order=window:1"))
    shards = ShardSet.open(tiny_root / "data" / "shards" / "tiny")
    plan, (codes, _) = plan_of(recipe, shards), shards.codes("shard")
    seen = [code for step in range(5) for code in codes[plan.batch(step)].tolist()]
    turns = list(dict.fromkeys(seen))
    assert len(turns) > 1 and seen == sorted(seen, key=turns.index)
    report = train(tiny_root, recipe, QUIET)
    expected = lasting_part(report.path)
    rewind(report, "samples-000000000036")
    again = lasting_part(train(tiny_root, recipe, QUIET).path)
    assert again["metrics"] == expected["metrics"]


def test_webdataset_trains_on_our_shards(tiny_root, tiny_settings):
    recipe = load_recipe("demo", (*tiny_settings, "data.order=webdataset"))
    first = train(tiny_root, recipe, QUIET)
    assert (first.steps, first.samples) == (10, 40)
    second = train(tiny_root, recipe, dataclasses.replace(QUIET, name="second"))
    assert second.loss == first.loss
    own = train(tiny_root, load_recipe("demo", tiny_settings), QUIET)
    assert own.loss != first.loss
    with pytest.raises(UsageError, match="no --cache"):
        bind(tiny_root, recipe, with_cache("host"))
