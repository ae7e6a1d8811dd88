"""What a protocol says of a task: how heads are trained, on which pictures, and what is measured.

One YAML file a protocol, beside this module; how each splits an archive lies in `prep/protocols`.

    datasets: {<archive>: {…}}      what holds for an archive in every task
    tasks:
      <task>:
        <key>: <value>              what holds for every archive
        datasets: {<archive>: {…}}  what differs for one
        at: {<fraction>: {…}}       what differs for one fraction of the training labels
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

Setting = Mapping[str, Any]


def read_setting(protocol: str, task: str, archive: str) -> Setting | None:
    """Return what a protocol says of a task on an archive; None if it does not know the task."""
    tree = _read(protocol)
    tasks, of_archive = tree["tasks"], tree.get("datasets", {}).get(archive, {})
    if task not in tasks:
        return None
    told: dict[str, Any] = dict(tasks[task] or {}) | of_archive
    own: dict[str, Any] = told.pop("datasets", {}).get(archive, {})
    return told | own


def at_fraction(setting: Setting, fraction: float) -> Setting:
    """Return a setting as it is for one fraction of the training labels."""
    told = dict(setting)
    own: dict[str, Any] = told.pop("at", {}).get(fraction, {})
    return told | own


@cache
def _read(protocol: str) -> dict[str, Any]:
    file = resources.files(__package__).joinpath(f"{protocol}.yaml")
    tree: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tree
