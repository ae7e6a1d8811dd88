"""A synthetic shard set, small enough to train on in a test, and the settings that fit it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from imitate.contract import Folders
from imitate.files import blake3_file, blake3_hex, write_json, write_table
from imitate.schema import MANIFEST
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards
from imitate.train.logbook import TIMED, read_metrics
from imitate.train.recipes.recipe import load_recipe

SIZE = 24
HELD_OUT = ("validate",) * 2 + ("test",) * 2
TEXTS = (
    ("The lungs are clear.", "No acute finding.", {"Edema": 0.0, "Effusion": 0.0}),
    ("Moderate edema on both sides.", "Edema.", {"Edema": 1.0, "Effusion": 0.0}),
    ("A small effusion on the left.", "Small effusion.", {"Edema": -1.0, "Effusion": 1.0}),
    ("", "No acute finding.", {"Edema": 0.0}),
    ("Lungs are clear; heart ___ normal.", "", {}),
)


def row_of(folder: Path, index: int, split: str, *, text: bool, told: bool) -> dict[str, object]:
    findings, impression, labels = TEXTS[index % len(TEXTS)]
    pixels = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    pixels[: index % SIZE] //= 4
    png = cv2.imencode(".png", pixels)[1].tobytes()
    key = f"image-{index:03d}"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / f"{key}.png").write_bytes(png)
    found, concluded = (findings, impression) if text else ("", "")
    values = {
        "key": key,
        "dataset": folder.name,
        "subject_id": f"p{index // 2}",
        "study_id": f"s{index // 2}",
        "image_id": key,
        "view": "PA",
        "view_source": "metadata",
        "split": split,
        "image": f"images/{key}.png",
        "source": f"{key}.dcm",
        "norm": "none",
        "png_blake3": blake3_hex(png),
        "pixel_blake3": blake3_hex(pixels.tobytes()),
        "findings": found,
        "impression": concluded,
        "section_source": "header" if text else "none",
        "labels": labels,
        "label_source": "drawn",
        "mask": None,
        "mask_blake3": None,
        "report_labels": labels if told else {},
        "metadata": {"sex": "FM"[index % 2], "age": str(40 + index)},
    }
    sides = dict.fromkeys(("height", "width", "source_height", "source_width"), SIZE)
    geometry = {"scale_x": 1.0, "scale_y": 1.0, "offset_x": 0.0, "offset_y": 0.0}
    empty = {"sections": {}, "sentences": {}, "boxes": []}
    return values | sides | geometry | empty | {"bits": 8, "orientation": 1}


def write_set(
    root: Path,
    name: str,
    *,
    text: bool = True,
    told: bool = True,
    access: str = "open",
    count: int = 20,
    held_out: Sequence[str] = HELD_OUT,
    views: Sequence[str] = ("PA",),
    films: int = 2,
) -> None:
    """Write a prepared set, `count` of its samples for training, and its shards below a root.

    Its views take turns, and a study has so many `films`.
    """
    folder = Folders(root).prepared(name)
    splits = ("train",) * count + tuple(held_out)
    rows = [
        row_of(folder, index, split, text=text, told=told) for index, split in enumerate(splits)
    ]
    for index, row in enumerate(rows):
        row |= {"view": views[index % len(views)], "study_id": f"s{index // films}"}
    write_table(folder / "manifest.parquet", MANIFEST, rows)
    write_json(folder / "card.json", {"schema_version": 1, "dataset": name, "access": access})
    write_shards(root, name, ShardOptions(samples=9))


@pytest.fixture(scope="session")
def make_set():
    """The function that writes a set: `make_set(root, name, text=…, access=…, count=…)`."""
    return write_set


@pytest.fixture(scope="session")
def whole_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    write_set(root, "tiny")
    return root


@pytest.fixture
def tiny_root(whole_root, tmp_path):
    """A root of its own with the shard set `tiny`."""
    shutil.copytree(whole_root, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture(scope="session")
def tiny_settings():
    """`--set` values that make `demo` a matter of a second: 5 steps an epoch, 2 epochs."""
    return (
        "data.batch=4",
        "model.image.size=16",
        "model.image.resize=18",
        "model.tokens.grid=4",
        "model.embed_dim=16",
        "model.text_hidden=16",
        "optim.epochs=2",
        "optim.warmup_steps=2",
        "checkpoint.every_steps=3",
    )


@pytest.fixture(scope="session")
def tiny_recipe(tiny_settings):
    return load_recipe("demo", tiny_settings)


def lasting(folder: Path) -> dict[str, object]:
    """All of a run folder that must not depend on when and how often it was stopped."""
    found: dict[str, object] = {
        str(path.relative_to(folder)): blake3_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("log.txt", "metrics.jsonl", "card.json")
    }
    rows = read_metrics(folder / "metrics.jsonl")
    found["metrics"] = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
    card = json.loads((folder / "card.json").read_text())
    found["card"] = {k: v for k, v in card.items() if k != "run"}
    return found


@pytest.fixture(scope="session")
def lasting_part():
    """The function that returns all of a run folder that must always be the same."""
    return lasting
