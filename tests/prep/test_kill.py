"""SIGKILL at any moment, then the same command again: the bytes of an uninterrupted run."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imitate.files import blake3_file, read_json
from imitate.prep.phantoms.mimic import write_mimic


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "mimic-cxr"
    write_mimic(folder, studies=100, seed=3, size=40)
    return folder


def command(tree: Path, root: Path, workers: int) -> list[str]:
    options = ["--size", "32", "--quiet", "--root", str(root), "--workers", str(workers)]
    return [sys.executable, "-m", "imitate", "prep", "mimic", str(tree), *options]


def contents(root: Path) -> dict[str, str]:
    folder = root / "data" / "prepared" / "mimic"
    files = {
        str(path.relative_to(root)): blake3_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "card.json"
    }
    card = read_json(folder / "card.json")
    del card["run"]
    return {**files, "card.json": str(card)}


def kill_and_finish(tree: Path, folder: Path, *, kills: int, workers: int, seed: int) -> None:
    """Kill runs on one root, each a random time after a random picture, and go on each time."""
    subprocess.run(command(tree, folder / "whole", workers), check=True, capture_output=True)
    whole = contents(folder / "whole")
    pictures = sum(name.endswith(".png") for name in whole)
    moments = random.Random(seed)
    killed = 0
    for made in sorted(moments.sample(range(1, pictures + 1), kills)):
        with subprocess.Popen(
            command(tree, folder / "killed", workers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and count_pictures(folder / "killed") < made:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            process.kill()
        killed += process.returncode == -9
    assert killed
    subprocess.run(command(tree, folder / "killed", workers), check=True, capture_output=True)
    assert contents(folder / "killed") == whole


def count_pictures(root: Path) -> int:
    return sum(1 for _ in root.glob("data/prepared/mimic/images/*/*.png"))


def test_three_kills(tree: Path, tmp_path: Path) -> None:
    kill_and_finish(tree, tmp_path, kills=3, workers=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2)])
def test_fifteen_kills(tree: Path, tmp_path: Path, workers: int, seed: int) -> None:
    kill_and_finish(tree, tmp_path, kills=15, workers=workers, seed=seed)
