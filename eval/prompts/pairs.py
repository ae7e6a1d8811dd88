"""Prompt pairs: how a study with and without a finding is worded.

The prompts of an archive are a YAML file beside this module, one pair of lists a label. A label
without prompts there gets the templates `{label}` and `no {label}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import yaml

from ...contract import ImitateError

TEMPLATE = "template"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Prompts of one label: what is written when it is present, and when it is absent."""

    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    source: str


def prompt_files() -> list[str]:
    """Return the archives that have prompts of their own."""
    folder = resources.files(__package__)
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_prompts(name: str) -> dict[str, Pair]:
    """Read the pairs of `prompts/<name>.yaml` by label."""
    file = resources.files(__package__).joinpath(f"{name}.yaml")
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    pairs = {}
    for label, lists in tree.items():
        if set(lists) != {"positive", "negative"} or not all(lists.values()):
            raise ImitateError(
                "prompts need a list `positive` and a list `negative`", where=f"{name}: {label}"
            )
        pairs[label] = Pair(
            label=label,
            positive=tuple(lists["positive"]),
            negative=tuple(lists["negative"]),
            source=f"prompts/{name}.yaml",
        )
    return pairs


def prompts_for(names: Sequence[str], labels: Sequence[str]) -> tuple[Pair, ...]:
    """Return a pair for each label, from the first of `names` that has a prompt file.

    `names` are what the set may be called, the most particular first.
    """
    files = prompt_files()
    known = next((read_prompts(name) for name in names if name in files), {})
    return tuple(known.get(label) or _template(label) for label in labels)


def _template(label: str) -> Pair:
    text = label.replace("_", " ").lower()
    return Pair(label=label, positive=(text,), negative=(f"no {text}",), source=TEMPLATE)
