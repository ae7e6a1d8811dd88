"""Damaged shards made again from the prepared set; the whole ones stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import Folders, InputError, UsageError
from ...files import read_json
from ...work import Interrupts
from ..source.prepared import open_sets
from ..verify import Verdict, verify_path
from ..walk import Problem
from ..write import options_for, write_shards

TODO = "write the set from what is prepared now: imitate shard"


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was wrong, the shards that were made again, and what is still wrong."""

    before: Verdict
    shards: Sequence[str] = ()
    left: Sequence[Problem] = ()


def verify_and_repair(
    path: Path,
    *,
    deep: bool = False,
    interrupts: Interrupts | None = None,
    progress: str = "none",
) -> Repaired:
    """Verify a shard set, make again what is not as it should be, and verify it once more.

    Every shard that is made again has the bytes it had when it was whole. Raises UsageError for
    another folder than one below data/shards; InputError when the card is lost, or when the
    prepared set is gone, damaged or another one, as then other shards would come out.
    """
    folder = path.resolve()
    if not folder.is_relative_to(_root(folder) / "data" / "shards"):
        raise UsageError("--repair takes the folder of a shard set", where=str(path))
    before = verify_path(path, deep=deep, interrupts=interrupts, progress=progress)
    if not before.problems:
        return Repaired(before=before)
    names = _sources(folder, interrupts or Interrupts())
    report = write_shards(
        _root(folder),
        folder.name,
        options_for(folder),
        sets=names,
        suspect=True,
        interrupts=interrupts,
        progress=progress,
    )
    after = verify_path(path, deep=deep, interrupts=interrupts, progress=progress)
    return Repaired(before=before, shards=report.written, left=after.problems)


def _root(folder: Path) -> Path:
    """Return the root of data/shards/<set>."""
    return folder.parent.parent.parent


def _sources(folder: Path, interrupts: Interrupts) -> list[str]:
    """Return the prepared sets of a shard set, after a look at all that they hold."""
    card, folders = _card(folder), Folders(_root(folder))
    names: list[str] = card["source"].get("sets", [folder.name])
    where = ", ".join(str(folders.prepared(name)) for name in names)
    if open_sets(folders, names).digest != card["source"]["digest"]:
        what = "the prepared set is no longer the one that these shards were made from"
        raise InputError(what, where=where, todo=TODO)
    lost = {
        (name, problem.key)
        for name in names
        for problem in verify_path(folders.prepared(name), interrupts=interrupts).problems
        if problem.problem in ("damaged", "missing")
    }
    if len(lost) > sum(card["rejected"].values()):  # those were left out from the beginning
        raise InputError(
            f"{len(lost)} samples of the prepared set are damaged as well; nothing was changed",
            where=where,
            todo="imitate verify names them; prepare the set again, then repair",
        )
    return names


def _card(folder: Path) -> Mapping[str, Any]:
    where = folder / "dataset.json"
    try:
        card = read_json(where)
        if {"source", "rejected"} <= card.keys() and "digest" in card["source"]:
            return card
    except (InputError, TypeError):
        pass
    raise InputError("the card does not say what to repair from", where=str(where), todo=TODO)
