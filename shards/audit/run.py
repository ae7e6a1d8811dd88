"""A run's chain of cards: its own files, the shards it learned from, what those were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ...contract import Folders, InputError
from ...files import blake3_file, digest_of, read_json
from ..manifest import ShardSet
from ..reading.remote import open_kept
from ..source.prepared import open_sets
from ..walk import Problem


def inspect_run(folder: Path) -> tuple[int, list[Problem]]:
    """Return the samples of the shard set a run was trained on, and every problem of the chain.

    The root is two folders above the run. Shards are opened, which compares their tables, sizes
    and digest with their card, but not read. A run that has not finished has no model yet.
    """
    try:
        card = read_json(folder / "card.json")
    except InputError as error:
        return 0, [_problem("table", "card.json", error.what)]
    try:
        own = [*_recipe(folder, card), *_model(folder, card), *_checkpoints(folder)]
        samples, theirs = _shards(Folders(folder.resolve().parents[1]), card["dataset"])
    except (KeyError, TypeError):
        return 0, [_problem("table", "card.json", "without a field it should have")]
    return samples, own + theirs


def _problem(kind: Literal["damaged", "missing", "table"], file: str, detail: str) -> Problem:
    return Problem(problem=kind, file=file, key=None, detail=detail)


def _recipe(folder: Path, card: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare the resolved recipe with its digest."""
    try:
        tree = yaml.safe_load((folder / "recipe.yaml").read_text())
        same = digest_of(tree) == card["recipe_file_digest"]
    except (OSError, yaml.YAMLError, ValueError):
        same = False
    if not same:
        yield _problem("table", "recipe.yaml", "missing or not the recipe that the card names")


def _model(folder: Path, card: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare the weights with their hash, and the card inside the model with the run's."""
    if not card["finished"]:
        return
    weights = folder / "model" / "model.safetensors"
    if not weights.is_file():
        yield _problem("missing", "model/model.safetensors", "the finished run has no weights")
    elif blake3_file(weights) != card["weights_blake3"]:
        detail = "the weights no longer have the hash that the card tells"
        yield _problem("damaged", "model/model.safetensors", detail)
    lasting = {n: value for n, value in card.items() if n not in ("run", "weights_blake3")}
    try:
        same = read_json(folder / "model" / "config.json")["card"] == lasting
    except (InputError, KeyError):
        same = False
    if not same:
        yield _problem("table", "model/config.json", "missing or not the model of this card")


def _checkpoints(folder: Path) -> Iterator[Problem]:
    """Compare every checkpoint with the hashes in its JSON, its commit mark."""
    for mark in sorted((folder / "checkpoints").glob("samples-*.json")):
        file, weights = f"checkpoints/{mark.name}", mark.with_suffix(".safetensors")
        try:
            body = read_json(mark)
            digest, expected = body.pop("digest"), body["tensors_blake3"]
        except (InputError, KeyError):
            yield _problem("damaged", file, "unreadable or without its hashes")
            continue
        if digest_of(body) != digest:
            yield _problem("damaged", file, "not what was written")
        elif not weights.is_file():
            yield _problem("missing", f"checkpoints/{weights.name}", "its tensors are missing")
        elif blake3_file(weights) != expected:
            detail = "the tensors no longer have their hash"
            yield _problem("damaged", f"checkpoints/{weights.name}", detail)


def _shards(folders: Folders, told: Mapping[str, Any]) -> tuple[int, list[Problem]]:
    """Compare the shard set that lies there with what the run's card tells, then its source."""
    file = f"data/shards/{told['name']}"
    source = told["prepared"]
    prepared = _prepared(folders, source, told["name"])
    try:
        shards = ShardSet.open(folders.shards(told["name"]))
    except InputError as error:
        problem = _problem("missing", file, error.what)
        return _elsewhere(folders, told, [problem, *prepared])
    if shards.digest != told["digest"]:
        detail = f"digest {shards.digest[:12]} instead of {told['digest'][:12]}: other content now"
        return _elsewhere(folders, told, [_problem("damaged", file, detail), *prepared])
    if shards.card["source"] != source:
        detail = "the card tells another prepared set than the run's card"
        return shards.n, [_problem("table", f"{file}/dataset.json", detail), *prepared]
    return shards.n, prepared


def _elsewhere(
    folders: Folders, told: Mapping[str, Any], problems: list[Problem]
) -> tuple[int, list[Problem]]:
    """Return no problem if the shards were read from elsewhere and their tables were kept here."""
    try:
        return open_kept(folders.root, told["digest"]).n, []
    except InputError:
        return 0, problems


def _prepared(folders: Folders, source: Mapping[str, Any], name: str) -> list[Problem]:
    """Compare the prepared sets that lie there with the digest that the shards were made from."""
    names = source.get("sets", [name])
    file = " ".join(f"data/prepared/{each}" for each in names)
    try:
        digest = open_sets(folders, names).digest
    except InputError as error:
        return [_problem("missing", file, error.what)]
    if digest != source["digest"]:
        return [_problem("damaged", file, "not the content that the shards were made from")]
    return []
