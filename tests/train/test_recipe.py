"""Recipes: each is whole, explained, and refused when it cannot be."""

import dataclasses
import re

import pytest
import yaml

from imitate.contract import ConfigError, InputError, UsageError
from imitate.train.recipes.config import leaves, read_yaml, resolve, to_tree, to_yaml
from imitate.train.recipes.recipe import Recipe, load_recipe, recipe_names

PACKAGED = ("clip", "demo", "imitate", "paper-source")


@pytest.fixture
def recipes(repository):
    return repository / "train" / "recipes"


def test_the_packaged_recipes_are_these():
    assert tuple(recipe_names()) == PACKAGED


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_recipe_loads_and_writes_back(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    again = resolve(Recipe, yaml.safe_load(to_yaml(recipe)), where="")
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize("name", PACKAGED)
def test_every_value_is_explained(recipes, name):
    lines = (recipes / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"\s*[a-z_]+:\s*[^\s#]", line)]
    values = [line for line in values if not line.startswith("base:")]
    assert values
    assert [line for line in values if not re.search(r"\s#\s+\S", line)] == []


def test_the_default_recipe_states_every_value(recipes):
    stated = {key for key, _ in leaves(read_yaml(recipes / "imitate.yaml"))}
    known = {key for key, _ in leaves(to_tree(load_recipe("imitate")))}
    assert stated | {"name"} == known


def test_the_dataclasses_default_to_the_default_recipe():
    assert Recipe(name="imitate") == load_recipe("imitate")


def test_equal_recipes_have_equal_digests_and_any_value_counts():
    base = load_recipe("demo")
    assert load_recipe("demo", ["optim.lr=2.0e-3"]).digest == base.digest
    assert load_recipe("demo", ["optim.lr=1e-3"]).digest != base.digest
    assert dataclasses.replace(base, seed=1).digest != base.digest


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(UsageError, match="clip, demo, imitate, paper-source") as caught:
        load_recipe("imitat")
    assert caught.value.code == 2


def test_a_file_starts_from_a_recipe_and_gives_what_differs(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: demo\noptim: {lr: 1e-4}\n")
    (tmp_path / "yours.yaml").write_text("base: mine.yaml\nname: ours\nseed: 5\n")
    mine = load_recipe(str(tmp_path / "mine.yaml"))
    yours = load_recipe(str(tmp_path / "yours.yaml"), ["optim.epochs=1"])
    assert (mine.name, mine.optim.lr, mine.data.batch) == ("mine", 1e-4, 64)
    assert (yours.name, yours.optim.lr, yours.seed, yours.optim.epochs) == ("ours", 1e-4, 5, 1)


def test_a_resolved_recipe_is_a_recipe(tmp_path):
    recipe = load_recipe("demo", ["seed=3"])
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


def test_files_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError):
        load_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "a.yaml").write_text(f"base: {tmp_path / 'b.yaml'}")
    (tmp_path / "b.yaml").write_text(f"base: {tmp_path / 'a.yaml'}")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(str(tmp_path / "a.yaml"))
    (tmp_path / "c.yaml").write_text("base: [demo]")
    with pytest.raises(ConfigError, match="base must be"):
        load_recipe(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["data.batch=40"], "data.batch 40 must be a multiple of model.norm_group 16"),
        (["views.count=1"], "loss.terms that start with vision_ need views.count 2"),
        (["optim.lr=0", "optim.epochs=0"], "optim.lr must be positive"),
        (["loss.temprature=1"], "did you mean loss.temperature?"),
        (["losss.terms=[]"], "unknown key losss; did you mean loss?"),
        (["data.batch=1"], "data.batch must be at least 2"),
        (["optim.period_steps=0"], "optim.period_steps must be at least 1, or null"),
    ],
)
def test_values_that_cannot_be_are_refused(settings, problem):
    with pytest.raises(ConfigError) as caught:
        load_recipe("imitate", settings)
    assert problem in str(caught.value)


def test_a_small_batch_is_one_group():
    assert load_recipe("imitate", ["data.batch=12"]).data.batch == 12
