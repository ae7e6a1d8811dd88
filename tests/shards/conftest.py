"""A small prepared set, written as prep writes one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imitate.contract import Folders
from imitate.files import blake3_file, blake3_hex, write_json, write_table
from imitate.schema import MANIFEST, REJECTS, SCHEMA_VERSION
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards

MakeSet = Callable[..., Path]

# the program as a user runs it, without the other stages
PROGRAM = """
import sys
import typer
from imitate.contract import ImitateError
from imitate.shards.commands import register

app = typer.Typer()
register(app)
if __name__ == "__main__":
    try:
        app(standalone_mode=False)
    except ImitateError as error:
        sys.stderr.write(str(error))
        sys.exit(error.code)
"""


def png_of(pixels: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", pixels)
    assert ok
    return data.tobytes()


def sample(folder: Path, number: int, *, bits: int, size: int, long: bool) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    kind = np.uint8 if bits == 8 else np.uint16
    pixels: np.ndarray = rng.integers(0, 1 << bits, (size, size)).astype(kind)
    png = png_of(pixels)
    key = f"film-{number:04d}" + ("x" * 120 if long and number % 5 == 0 else "")
    (folder / "images" / f"{key}.png").write_bytes(png)
    mask = None
    if number % 7 == 3:
        mask = f"images/{key}.mask.png"
        (folder / mask).write_bytes(png_of(np.greater(pixels, 99).astype(np.uint8)))
    return {
        "key": key,
        "dataset": "phantom",
        "subject_id": f"s{number // 3}",
        "study_id": None if number % 4 == 0 else f"t{number // 2}",
        "image_id": key.replace("film-", "film."),
        "view": "PA" if number % 2 else None,
        "view_source": "metadata",
        "split": ("train", "train", "train", "validate", "test")[number % 5],
        "image": f"images/{key}.png",
        "height": size,
        "width": size,
        "bits": bits,
        "source": f"files/{number}.dcm",
        "source_height": 2 * size,
        "source_width": 2 * size,
        "orientation": 1,
        "scale_x": 0.5,
        "scale_y": 0.5,
        "offset_x": 0.0,
        "offset_y": -1.25,
        "norm": "mimic",
        "png_blake3": blake3_hex(png),
        "pixel_blake3": blake3_hex(pixels.tobytes()),
        "findings": "The lungs are cléar.\nNo effusion." if number % 3 else "",
        "impression": f"Normal film {number}.",
        "sections": {"impression": f"Normal film {number}.", "HISTORY": "cough"},
        "sentences": {"impression": [f"Normal film {number}."], "findings": []},
        "section_source": "header",
        "labels": {"Edema": float(number % 2), "Atelectasis": -1.0},
        "label_source": "phantom",
        "boxes": [{"x": 1.0, "y": 2.0, "w": 3.0, "h": 4.5, "label": "Edema"}] * (number % 2),
        "mask": mask,
        "mask_blake3": mask and blake3_hex((folder / mask).read_bytes()),
        "report_labels": {},
        "metadata": {"sex": "F"},
    }


def write_set(
    root: Path,
    name: str,
    n: int,
    *,
    bits: int = 8,
    size: int = 16,
    access: str = "open",
    long: bool = False,
) -> Path:
    """Write a prepared set below the root and return its folder; equal arguments, equal bytes."""
    folder = Folders(root).prepared(name)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [sample(folder, i, bits=bits, size=size, long=long) for i in range(n)]
    write_table(folder / "manifest.parquet", MANIFEST, sorted(rows, key=lambda r: r["key"]))
    write_table(folder / "rejects.parquet", REJECTS, [])
    card = {
        "schema_version": SCHEMA_VERSION,
        "rows": n,
        "rejected": {},
        "dataset": name,
        "access": access,
        "options": {"size": size},
        "files": {p.name: blake3_file(p) for p in sorted(folder.glob("*.parquet"))},
        "run": {"finished": str(np.random.default_rng().random())},
    }
    write_json(folder / "card.json", card)
    return folder


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Write a prepared set, by default `phantom` of 40 samples below the test's own root."""

    def make(name: str = "phantom", n: int = 40, *, root: Path = tmp_path, **more: Any) -> Path:
        return write_set(root, name, n, **more)

    return make


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots `short` and `long`, by the names of their samples, each with a set and its shards."""
    folder = tmp_path_factory.mktemp("originals")
    for kind in ("short", "long"):
        write_set(folder / kind, "phantom", 40, long=kind == "long")
        write_shards(folder / kind, "phantom", ShardOptions(samples=8))
    return folder


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """The command line that runs `shard` and `verify` in a process of its own."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(program: list[str], tmp_path: Path) -> Run:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return call
