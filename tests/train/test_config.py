"""Configuration: everything wrong is told at once, and nothing is guessed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imitate.contract import ConfigError, InputError, UsageError
from imitate.train.recipes.config import (
    differences,
    merge,
    parse_yaml,
    read_yaml,
    resolve,
    to_tree,
    to_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    rate: float = 0.5
    kind: Literal["round", "flat"] = "round"
    sizes: tuple[int, ...] = (1, 2)
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None

    def __post_init__(self):
        if self.rate < 0:
            raise UsageError("rate must not be negative")
        if self.rate > 9:
            raise ConfigError(["rate is huge", "really huge"])


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    count: int = 3
    on: bool = False
    part: Part = field(default_factory=Part)
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def made(text, *settings):
    return resolve(Whole, parse_yaml(text, where="x.yaml"), settings, where="x.yaml")


def problems(text, *settings):
    with pytest.raises(ConfigError) as caught:
        made(text, *settings)
    assert caught.value.code == 2
    assert "x.yaml" in str(caught.value)
    return caught.value.problems


def test_defaults_are_kept_and_values_are_typed():
    assert made("name: a") == Whole(name="a")
    whole = made("{name: a, count: 7, on: true, part: {rate: 1, sizes: [], betas: [0, 1]}}")
    assert whole == Whole(
        name="a", count=7, on=True, part=Part(rate=1.0, sizes=(), betas=(0.0, 1.0))
    )
    assert isinstance(whole.part.rate, float)


def test_settings_win_over_the_file_and_the_last_one_wins():
    whole = made("{name: a, part: {rate: 1}}", "part.rate=2e-4", "count=1", "count=2")
    assert (whole.part.rate, whole.count) == (2e-4, 2)
    assert made("name: a", "part={clip: 2}").part == Part(clip=2.0)


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "2.0e-4", ".2e-3", "0.0002", "+2e-4"])
def test_every_usual_form_of_a_number_is_one(text):
    assert made(f"{{name: a, part: {{rate: {text}}}}}").part.rate == 2e-4


def test_all_problems_are_told_at_once():
    found = problems(
        "{nam: a, count: 1.5, part: {rate: [1], knid: flat, kind: square}, other: 1}",
        "part.betas=[1]",
        "nonsense",
        "on=yep",
    )
    assert len(found) == 10
    assert "--set 'nonsense' is not key=value" in found
    assert "unknown key nam; did you mean name?" in found
    assert "unknown key part.knid; did you mean part.kind?" in found
    assert "name is missing" in found
    assert "count must be a whole number, not 1.5" in found
    assert "on must be true or false, not 'yep'" in found
    assert "part.kind must be one of round, flat, not 'square'" in found
    assert "part.rate must be a finite number, not [1]" in found
    assert "part.betas must be a list of 2: a finite number, a finite number, not [1]" in found
    assert "unknown key other" in found


def test_a_key_without_its_group_is_found_in_the_group():
    assert problems("name: a", "rate=1") == ("unknown key rate; did you mean part.rate?",)
    assert problems("name: a", "part.count=1") == ("unknown key part.count; did you mean count?",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{name: a, count: true}", "count must be a whole number, not True"),
        ("{name: a, on: 1}", "on must be true or false, not 1"),
        ("{name: 7}", "name must be text, not 7"),
        ("{name: a, part: {rate: .nan}}", "part.rate must be a finite number, not nan"),
        ("{name: a, part: {clip: x}}", "part.clip must be a finite number or null, not 'x'"),
        ("{name: a, part: {sizes: 3}}", "part.sizes must be a list, each a whole number, not 3"),
        ("{name: a, part: 3}", "part must be a group of keys, not 3"),
        ("{name: a, part: {rate: -1}}", "part: rate must not be negative"),
    ],
)
def test_wrong_values_are_named_with_what_would_be_right(text, problem):
    assert problems(text) == (problem,)


def test_what_a_dataclass_refuses_is_told_under_its_name():
    assert problems("{name: a, part: {rate: 10}}") == (
        "part.rate is huge",
        "part.really huge",
    )


@pytest.mark.parametrize(
    ("text", "line"), [("a: 1\na: 2", "line 2: key 'a' is given twice"), ("a: [1\nb: 2", "line 2")]
)
def test_yaml_that_cannot_be_read_names_the_line(text, line):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, where="x.yaml")
    assert caught.value.problems[0].startswith(line)


def test_files(tmp_path):
    with pytest.raises(InputError):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    for name in ("list.yaml", "latin.yaml"):
        with pytest.raises(ConfigError):
            read_yaml(tmp_path / name)


def test_differences_name_each_key_once():
    old = to_tree(Whole(name="a"))
    new = to_tree(Whole(name="a", part=Part(rate=1.0)))
    assert differences(old, old) == []
    assert differences(old, new) == ["part.rate: 0.5 there, 1.0 here"]
    assert differences({"a": 1}, {}) == ["a: 1 there, nothing here"]


wholes = st.builds(
    Whole,
    name=st.text(min_size=1),
    count=st.integers(),
    on=st.booleans(),
    part=st.builds(
        Part,
        rate=st.floats(0, 9),
        kind=st.sampled_from(["round", "flat"]),
        sizes=st.lists(st.integers()).map(tuple),
        clip=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
)


@given(wholes)
@example(Whole(name="2e-4"))
@example(Whole(name="on", part=Part(rate=1e-8)))
def test_a_config_written_as_yaml_reads_back_equal(whole):
    assert resolve(Whole, parse_yaml(to_yaml(whole), where=""), where="") == whole


@given(wholes, wholes)
def test_merging_a_whole_tree_replaces_it(one, other):
    assert merge(to_tree(one), to_tree(other)) == to_tree(other)


def test_groups_of_any_names_are_typed_merged_and_taken_away():
    text = "{name: a, shares: {one: {x: 1, y: 0.5}, two: {}}}"
    assert made(text).shares == {"one": {"x": 1.0, "y": 0.5}, "two": {}}
    settings = ("shares.one.x=0.25", "shares.two=null", "shares.three={z: 1}")
    assert made(text, *settings).shares == {"one": {"x": 0.25, "y": 0.5}, "three": {"z": 1.0}}
    assert made(text, "shares={one: {x: null}}").shares == {"one": {"y": 0.5}, "two": {}}
    whole = made(text)
    assert resolve(Whole, parse_yaml(to_yaml(whole), where=""), where="") == whole


def test_groups_that_cannot_be_are_refused():
    assert problems("{name: a, shares: 3}") == ("shares must be a group of keys, not 3",)
    assert problems("{name: a, shares: {one: {x: much}}}") == (
        "shares.one.x must be a finite number, not 'much'",
    )
    assert problems("{name: a, shares: {1: {}}}") == ("shares: key 1 is not text",)
