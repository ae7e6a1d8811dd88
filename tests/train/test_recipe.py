"""Recipes: each is whole, explained, and refused when it cannot be."""

import dataclasses
import re

import pytest
import yaml

from imitate.contract import ConfigError, InputError, UsageError
from imitate.train.recipes.config import leaves, read_yaml, resolve, to_tree, to_yaml
from imitate.train.recipes.recipe import Recipe, load_recipe, recipe_names

PACKAGED = (
    *("clip", "demo", "imitate", "imitate-plus"),
    *("labels", "paper-2023", "paper-source"),
)


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
    with pytest.raises(UsageError, match=", ".join(PACKAGED)) as caught:
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
        (["model.branches.findings=null"], "loss.terms names 'findings', but model.branches are"),
        (["loss.texts={diagnosis: impression}"], "loss.texts names 'diagnosis'"),
        (["loss.weighted=[lungs]"], "loss.weighted names 'lungs'"),
        (["model.embedding=lungs"], "model.embedding must be a branch, not 'lungs'"),
        (["model.branches.vision_x={}"], "branches must have names of small letters"),
        (["model.branches.findings.stage1=0"], "shares above 0 and at most 1"),
        (["task=labels"], "task labels trains no branch"),
        (["loss.prior.alpha=2"], "loss.prior.alpha must be between 0 and 1"),
    ],
)
def test_values_that_cannot_be_are_refused(settings, problem):
    with pytest.raises(ConfigError) as caught:
        load_recipe("imitate", settings)
    assert problem in str(caught.value)


def test_a_small_batch_is_one_group():
    assert load_recipe("imitate", ["data.batch=12"]).data.batch == 12


def test_the_controls_leave_all_else_as_it_is():
    imitate = to_tree(load_recipe("imitate"))
    for name, own in (("clip", {"name", "model", "loss"}), ("labels", {"name", "model", "task"})):
        tree = to_tree(load_recipe(name))
        assert {key for key in tree if tree[key] != imitate[key]} == own
        model = {k for k in tree["model"] if tree["model"][k] != imitate["model"][k]}
        assert model <= {"branches", "embedding"}


def test_runs_that_labels_supervise_say_so():
    supervised = {name for name in PACKAGED if load_recipe(name).supervision == "labels"}
    assert supervised == {"imitate-plus", "labels"}
    assert load_recipe("imitate-plus", ["loss.prior.knowledge=0"]).supervision == "text"


def ablations(repository):
    """The recipes and settings of the table of ablations in the method's page."""
    page = (repository / "docs" / "explanation" / "method.md").read_text()
    rows = re.findall(r"^\| .* \| `([a-z0-9-]+)` \| `--set \'?([^`]*?)\'?` \|$", page, re.M)
    assert len(rows) >= 18
    return rows


def test_every_ablation_is_one_setting(repository):
    digests = set()
    for name, setting in ablations(repository):
        changed = load_recipe(name, [setting])
        assert changed != load_recipe(name), setting
        digests.add(changed.digest)
    assert len(digests) == len(ablations(repository))


def test_findings_from_the_last_level_alone_keep_their_number_of_tokens(repository):
    [setting] = [s for _, s in ablations(repository) if "stage4: 0.2178" in s]
    branches = load_recipe("imitate", [setting]).model.branches
    assert dict(branches["findings"]) == {"stage4": 0.2178}
    assert int(0.2178 * 2048) == 446
