"""SIGKILL at any moment, then the same command again: the bytes of an uninterrupted run."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imitate.files import blake3_file, read_json
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.phantoms.rsna import write_rsna


def command(kind: str, tree: Path, root: Path, workers: int) -> list[str]:
    options = ["--size", "32", "--quiet", "--root", str(root), "--workers", str(workers)]
    return [sys.executable, "-m", "imitate", "prep", kind, str(tree), "--name", "set", *options]


def contents(root: Path) -> dict[str, str]:
    folder = root / "data" / "prepared" / "set"
    files = {
        str(path.relative_to(root)): blake3_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "card.json"
    }
    card = read_json(folder / "card.json")
    del card["run"]
    return {**files, "card.json": str(card)}


def kill_and_finish(kind: str, folder: Path, *, kills: int, workers: int, seed: int) -> None:
    """Kill runs on one root, each a random time after a random picture, and go on each time."""
    tree = folder / kind
    subprocess.run(command(kind, tree, folder / "whole", workers), check=True, capture_output=True)
    whole = contents(folder / "whole")
    pictures = sum(name.endswith(".png") for name in whole)
    moments = random.Random(seed)
    killed = 0
    for made in sorted(moments.sample(range(1, pictures + 1), kills)):
        with subprocess.Popen(
            command(kind, tree, folder / "killed", workers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and count_pictures(folder / "killed") < made:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            process.kill()
        killed += process.returncode == -9
    assert killed
    subprocess.run(command(kind, tree, folder / "killed", workers), check=True, capture_output=True)
    assert contents(folder / "killed") == whole


def count_pictures(root: Path) -> int:
    return sum(1 for _ in root.glob("data/prepared/set/images/*/*.png"))


def test_three_kills(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", patients=130, seed=3, size=40)
    kill_and_finish("rsna", tmp_path, kills=3, workers=1, seed=0)


def test_kills_while_a_set_follows_its_grown_archive(tmp_path: Path) -> None:
    tree = tmp_path / "rsna"
    write_rsna(tree, patients=130, seed=3, size=40)
    films = sorted((tree / "stage_2_train_images").glob("*.dcm"))
    held_back = films[::3]
    (tmp_path / "away").mkdir()
    for film in held_back:
        film.rename(tmp_path / "away" / film.name)
    first = command("rsna", tree, tmp_path / "killed", 1)
    subprocess.run(first, check=True, capture_output=True)
    for film in held_back:
        (tmp_path / "away" / film.name).rename(film)
    films[1].unlink()
    kill_and_finish("rsna", tmp_path, kills=4, workers=1, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2)])
def test_fifteen_kills(tmp_path: Path, workers: int, seed: int) -> None:
    write_mimic(tmp_path / "mimic", studies=150, seed=3, size=40)
    kill_and_finish("mimic", tmp_path, kills=15, workers=workers, seed=seed)
