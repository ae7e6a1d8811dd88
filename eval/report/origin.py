"""Where the numbers came from: data cards, the chain of digests, the commands that make them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...contract import SPLITS
from ...page import Cell, Fold, Prose, Section, Table
from ...prep.sheets.report import command_of
from ...shards.manifest import ShardSet
from ...train.recipes.config import leaves, read_yaml
from ..table import CONTROLS
from .opened import Opened, RunFolder

INPUT = ("size", "resize", "channels", "mean", "std")  # keys of --encoder
AUGMENTED = "-augmented"  # ends the name of a task that `--augment` makes of another


def data_section(run: RunFolder) -> Section | None:
    """Return the data card: what the run was trained on, and what it was evaluated on."""
    columns: dict[str, dict[str, Cell]] = {}
    if run.card.get("dataset"):
        columns[f"training: {run.card['dataset']['name']}"] = _shard_facts(run.training)
    for each in run.evaluations:
        columns[f"test: {each.name}"] = _shard_facts(each.shards) | _test_facts(each)
    if not columns:
        return None
    facts = dict.fromkeys(name for column in columns.values() for name in column)
    lines = ((fact, *(column.get(fact) for column in columns.values())) for fact in facts)
    rows = tuple(line for line in lines if any(cell is not None for cell in line[1:]))
    blocks: list[Table | Prose] = [Table(columns=("", *columns), rows=rows)]
    for each in run.evaluations:
        for note in each.document["notes"]:  # an archive may name its patients or files there
            text = f"{each.name}: {note}"
            blocks.append(Prose(text=text, tone="note", private=True))
    return Section(title="Data", blocks=tuple(blocks))


def _shard_facts(shards: ShardSet | None) -> dict[str, Cell]:
    if shards is None:
        return {"films": "its shards are not here"}
    prep = shards.card.get("prep", {})
    options = prep.get("options", {})
    facts: dict[str, Cell] = {"archive": prep.get("dataset"), "access": shards.access}
    facts |= {"films": shards.n}
    facts |= {f"{split} films": shards.card["splits"].get(split, 0) for split in SPLITS}
    facts |= {"protocol": ((prep.get("archive", {}).get("protocol") or {}).get("name"))}
    facts |= {name: _told(options.get(name)) for name in ("views", "size", "fit", "bits")}
    facts |= {"grey levels": grey_levels(shards)}
    if "partial" in prep:
        facts["archive complete"] = "no, a part of it" if prep["partial"] else "yes"
    return facts


def grey_levels(shards: ShardSet) -> str | None:
    """Return how the grey levels of a set were made; None where its card does not tell."""
    return ", ".join(sorted(shards.card.get("prep", {}).get("counts", {}).get("norm", {}))) or None


def _test_facts(opened: Opened) -> dict[str, Cell]:
    document = opened.document
    sources = ", ".join(sorted(document["label_source"]))
    reading = document["reading"]
    return {
        "archive": document["archive"],
        "access": document["access"],
        "protocol": document["protocol"],
        "labels": f"{len(document['labels'])}" + (f" ({sources})" if sources else ""),
        "labels of the test split": f"those of a {reading}, on the films read" if reading else None,
        "damaged, left out": len(document["damaged"]),
        "phantom": "yes: synthetic, no patient's" if document["phantom"] else "no",
    }


def _told(value: object) -> Cell:
    return None if value is None else str(value)


def origin_section(run: RunFolder) -> Section:
    """Return the chain from archives to numbers by its digests, and versions."""
    rows = tuple(_chain(run))
    blocks: list[Prose | Table | Fold] = [
        Table(columns=("link", "what", "digest (BLAKE3)"), rows=rows),
        Prose(
            text="imitate verify on the folder of the run compares every link that is there; "
            "imitate report RUN --recompute computes every number once more.",
            tone="quiet",
        ),
    ]
    if run.trained:
        recipe = read_yaml(run.folder / "recipe.yaml")
        told = tuple((key, str(value)) for key, value in leaves(recipe))
        table = Table(columns=("", ""), rows=told)  # with paths of this machine
        blocks.append(Fold(summary="Recipe", blocks=(table,), private=True))
    if versions := run.card.get("versions"):
        table = Table(columns=("", ""), rows=tuple(sorted(versions.items())))
        blocks.append(Fold(summary="Versions", blocks=(table,)))
    return Section(title="Where it came from", blocks=tuple(blocks))


def _chain(run: RunFolder) -> Iterator[tuple[str, str, str]]:
    card = run.card
    dataset = card.get("dataset", {})
    prepared = dataset.get("prepared") or {}
    if "digest" in prepared:
        yield "prepared", ", ".join(prepared.get("sets", [dataset["name"]])), prepared["digest"]
    if "digest" in dataset:
        yield "shards to train on", dataset["name"], dataset["digest"]
    if text := card.get("text_encoder"):
        yield "text encoder", Path(text["model"]).name, text["digest"]
    if "recipe_digest" in card:
        yield "recipe", f"{card['recipe']}, seed {card['seed']}", card["recipe_digest"]
    for name, digest in {
        each.document["encoder"]["name"]: each.document["encoder"]["digest"]
        for each in run.evaluations
    }.items():
        yield "weights", name, digest
    for name, each in run.sets.items():
        yield "shards to test on", name, each.document["dataset_digest"]


def command_section(run: RunFolder) -> Section:
    """Return the commands that make the same numbers again, from archives to this page.

    Paths of archives are not told; the order of the commands is that in which they must run.
    """
    sets = {name: each.shards for name, each in run.sets.items()}
    dataset = run.card.get("dataset")
    if dataset:
        sets = {dataset["name"]: run.training} | sets
    lines = [line for name, shards in sets.items() for line in _making(name, shards)]
    if dataset:
        words = ["imitate", "train", "RECIPE", "--data", dataset["name"], "--name", run.name]
        lines.append(shlex.join(words))
    lines += [line for each in run.sets.values() for line in _evaluating(run, each)]
    lines.append(shlex.join(["imitate", "report", f"runs/{run.name}"]))
    text = (
        "In this order they make the same numbers again. RECIPE is the recipe.yaml of this run; "
        "SRC, TABLE and PATH stand for places that are not told."
    )
    commands = tuple(Prose(text=line, tone="code") for line in lines)
    return Section(title="Commands", blocks=(Prose(text=text, tone="quiet"), *commands))


def _making(name: str, shards: ShardSet | None) -> Iterator[str]:
    prep = shards.card.get("prep", {}) if shards is not None else {}
    if {"options", "seed", "dataset"} <= set(prep):
        command = command_of(prep)
        named = "" if name == prep["dataset"] or "--name" in command else f" --name {name}"
        yield f"{command}{named}"
    yield shlex.join(["imitate", "shard", name])


def _evaluating(run: RunFolder, opened: Opened) -> Iterator[str]:
    """Yield the calls of `imitate eval`, one for all tasks that have the same cells."""
    calls: dict[tuple[str, ...], list[str]] = {}
    for task in opened.tasks:
        calls.setdefault(tuple(_cells_asked(opened, task)), []).append(task)
    company = opened.statistics.get("company", [run.name])
    weights = [word for name in company for word in _weights(run, opened, name)]
    norm = opened.document.get("norm")
    for options, tasks in calls.items():
        plain = (word for task in tasks for word in ("--task", task.removesuffix(AUGMENTED)))
        words = ["imitate", "eval", opened.set, *weights, *plain, *options]
        yield shlex.join([*words, *(["--match-norm"] if norm else [])])


def _weights(run: RunFolder, opened: Opened, name: str) -> tuple[str, str]:
    """Return what names an encoder of the call: a run, or weights from elsewhere.

    Those of this page with the input they were evaluated at, unless they tell it themselves: a
    model folder of ours has a seed, and takes none.
    """
    folder = run.folder.resolve().with_name(name)
    if (folder / "recipe.yaml").is_file() or not folder.is_dir():
        return "--run", name
    cells = (told["cell"] for told in opened.document["cells"])
    own = next(cell for cell in cells if cell["encoder"] not in CONTROLS)
    if name != run.name or own["pretrain_seed"] is not None:
        return "--encoder", "PATH"
    keys = (f"{key}={_joined(opened.document['image'][key])}" for key in INPUT)
    return "--encoder", ",".join(["PATH", *keys])


def _joined(value: object) -> str:
    return ":".join(map(str, value)) if isinstance(value, list) else str(value)


def _cells_asked(opened: Opened, task: str) -> Iterator[str]:
    cells: list[Mapping[str, Any]] = [told["cell"] for told in opened.document["cells"]]
    cells = [cell for cell in cells if cell["task"] == task]
    own = [cell for cell in cells if cell["encoder"] not in CONTROLS]
    for fraction in sorted({cell["fraction"] for cell in own} - {0.0, 1.0}):
        yield from ("--fraction", f"{fraction:g}")
    if {cell["fraction"] for cell in own} > {1.0}:
        yield from ("--fraction", "1")
    for flag, name in (("--draws", "draw"), ("--seeds", "head_seed")):
        if (count := 1 + max(cell[name] for cell in own or cells)) > 1:
            yield from (flag, str(count))
    if len(own) == len(cells):
        yield "--no-control"
    if task.endswith(AUGMENTED):
        yield "--augment"
