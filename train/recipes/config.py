"""Configuration: YAML and `--set` fill frozen dataclasses, and every problem is told at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from ...contract import ConfigError, InputError, UsageError

Config = TypeVar("Config")
Tree = dict[str, Any]

_HELP = "`imitate config show imitate` prints every key with its value"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans, and an error for a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""


# PyYAML speaks YAML 1.1, where `lr: 2e-4` is text and `norm: no` is a boolean
for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in found if not tag.endswith(":bool")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(r"(true|True|false|False)$"), list("tTfF")
    )
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def parse_yaml(text: str, *, where: str) -> Any:
    """Return the value of a YAML text; ConfigError with the line where it cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError([f"{line}{problem}"], where=where) from None


def read_yaml(path: Path) -> Tree:
    """Read a YAML file that holds a mapping; InputError when it is missing."""
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("no such config file", where=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(["the file is not UTF-8 text"], where=str(path)) from None
    tree = parse_yaml(text, where=str(path))
    if not isinstance(tree, dict):
        raise ConfigError(["the file must hold `key: value` lines"], where=str(path))
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Return `base` with the values of `over`; mappings inside are merged the same way."""
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merge(before, value) if both and before is not None else value
    return result


def resolve(
    cls: type[Config], tree: Mapping[str, Any], settings: Sequence[str] = (), *, where: str
) -> Config:
    """Fill the dataclass `cls` from `tree` and then from `key=value` settings.

    Keys of settings are dotted, their values YAML. Raises ConfigError with every problem at once:
    unknown keys (with the nearest known one), wrong types, missing values, and what the
    dataclasses themselves refuse.
    """
    filler = _Filler(cls)
    for setting in settings:
        tree = merge(tree, filler.setting(setting))
    value = filler.fill(cls, tree, "")
    if filler.problems:
        raise ConfigError(filler.problems, where=where, todo=_HELP)
    return typing.cast(Config, value)


def to_tree(config: Any) -> Tree:
    """Return a dataclass as nested dictionaries and lists, ready for YAML and JSON."""
    return {key: _plain(value) for key, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def to_yaml(config: Any) -> str:
    """Return a dataclass as YAML that `resolve` reads back to an equal one."""
    return yaml.dump(to_tree(config), Dumper=_Dumper, sort_keys=False)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a tree under its dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return one line for each dotted key whose values differ."""
    old, new = dict(leaves(there)), dict(leaves(here))
    return [
        f"{key}: {_shown(old, key)} there, {_shown(new, key)} here"
        for key in sorted(old.keys() | new.keys())
        if _shown(old, key) != _shown(new, key)
    ]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Return each field's type, and whether it must be given."""
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (
            hints[field.name],
            field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(cls)
    }


def _names(cls: Any, prefix: str = "") -> Iterator[str]:
    for name, (kind, _) in _fields(cls).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            yield from _names(kind, f"{prefix}{name}.")


class _Filler:
    """Fills dataclasses and gathers what is wrong."""

    def __init__(self, cls: Any) -> None:
        self.problems: list[str] = []
        self.known = sorted(_names(cls))

    def setting(self, text: str) -> Tree:
        """Return `a.b=value` as a tree."""
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            self.problems.append(f"--set {text!r} is not key=value")
            return {}
        try:
            tree: Any = parse_yaml(value, where="")
        except ConfigError as error:
            self.problems.append(f"--set {text!r}: {error.problems[0]}")
            return {}
        for part in reversed(key.strip().split(".")):
            tree = {part: tree}
        return typing.cast(Tree, tree)

    def fill(self, cls: Any, tree: Any, prefix: str) -> Any:
        """Return an instance of `cls`, or None after noting why there is none."""
        if not isinstance(tree, Mapping):
            self.problems.append(f"{prefix[:-1]} must be a group of keys, not {tree!r}")
            return None
        before = len(self.problems)
        fields = _fields(cls)
        self.problems += [self._unknown(f"{prefix}{key}") for key in tree if key not in fields]
        values: Tree = {}
        for name, (kind, needed) in fields.items():
            if name in tree:
                values[name] = self._value(kind, tree[name], f"{prefix}{name}")
            elif needed:
                self.problems.append(f"{prefix}{name} is missing")
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except ConfigError as error:
            self.problems += [f"{prefix}{problem}" for problem in error.problems]
        except UsageError as error:
            self.problems.append(f"{prefix.rstrip('.') or 'recipe'}: {error.what}")
        return None

    def _unknown(self, name: str) -> str:
        last = name.rpartition(".")[2]
        near = difflib.get_close_matches(name, self.known, n=1)
        same = [key for key in self.known if key.rpartition(".")[2] == last]
        ends = {key.rpartition(".")[2]: key for key in self.known}
        typo = [ends[end] for end in difflib.get_close_matches(last, list(ends), n=1)]
        nearest = (same or near or typo)[:1]
        return f"unknown key {name}" + "".join(f"; did you mean {key}?" for key in nearest)

    def _value(self, kind: Any, value: Any, name: str) -> Any:
        if dataclasses.is_dataclass(kind):
            return self.fill(kind, value, f"{name}.")
        if typing.get_origin(kind) is Mapping:
            return self._mapping(typing.get_args(kind)[1], value, name)
        fits, result = _convert(kind, value)
        if not fits:
            self.problems.append(f"{name} must be {_describe(kind)}, not {value!r}")
        return result

    def _mapping(self, kind: Any, value: Any, name: str) -> Tree:
        """Return entries of any names; null takes one away that a base has given."""
        if not isinstance(value, Mapping):
            self.problems.append(f"{name} must be a group of keys, not {value!r}")
            return {}
        self.problems += [
            f"{name}: key {key!r} is not text" for key in value if type(key) is not str
        ]
        given = {str(key): inner for key, inner in value.items() if inner is not None}
        return {key: self._value(kind, inner, f"{name}.{key}") for key, inner in given.items()}


def _convert(kind: Any, value: Any) -> tuple[bool, Any]:
    """Return whether `value` fits the type, and the value as that type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in arguments), value
    if origin in (types.UnionType, typing.Union):
        tries = [_convert(argument, value) for argument in arguments]
        return next((found for found in tries if found[0]), (False, value))
    if origin is tuple:
        return _convert_tuple(arguments, value)
    if kind is float and type(value) in (int, float):
        return math.isfinite(value), float(value)
    return type(value) is kind, value


def _convert_tuple(arguments: tuple[Any, ...], value: Any) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, value
    kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
    found = [_convert(kind, item) for kind, item in zip(kinds, value, strict=False)]
    fits = len(kinds) == len(value) and all(fit for fit, _ in found)
    return fits, tuple(item for _, item in found)


_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
}


def _describe(kind: Any) -> str:
    """Return a type in the user's words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(map(_describe, arguments))
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
