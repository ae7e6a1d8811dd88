"""Many files: memory that does not grow, and processes that die without taking others along."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from imitate.files import blake3_file, read_json, read_rows
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import REJECTS

MIB = 1 << 20


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    write_rsna(folder, patients=8, seed=0, size=64)
    return sorted(folder.rglob("*.dcm"))


def many(films: list[Path], folder: Path, count: int) -> Path:
    """Hard links of a few films, a thousand a folder."""
    for number in range(count):
        place = folder / f"{number // 1_000:03d}" / f"{number:06d}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(films[number % len(films)], place)
    return folder


def command(source: Path, out: Path, *more: object) -> list[str]:
    words = ["images", source, "-o", out, "--size", 32, "--progress", "lines", *more]
    return [sys.executable, "-m", "imitate", "prep", *map(str, words)]


@contextmanager
def running(source: Path, out: Path, *more: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command(source, out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def chunks(out: Path) -> int:
    return sum(1 for _ in out.glob(".parts/0*.json"))


def wait(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    while process.poll() is None and not ready():
        time.sleep(0.005)


def descendants(process: subprocess.Popen[str], word: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def contents(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): blake3_file(path)
        for path in out.rglob("*")
        if path.suffix in (".png", ".parquet")
    }


def test_a_killed_worker_costs_nothing(films: list[Path], tmp_path: Path) -> None:
    source = many(films, tmp_path / "in", 400)
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "out"
    with running(source, out, "--workers", 2) as process:
        wait(process, lambda: chunks(out) >= 2)
        workers = descendants(process, "spawn_main")
        os.kill(workers[0].pid, signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert contents(out) == contents(tmp_path / "whole")


def test_a_killed_decoder_costs_one_file_which_a_retry_brings_back(
    films: list[Path], tmp_path: Path
) -> None:
    source = many(films, tmp_path / "in", 400)
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "out"
    killed = 0
    with running(source, out) as process:
        for number in (1, 3, 5):
            wait(process, lambda number=number: chunks(out) >= number)  # type: ignore[misc]
            for child in descendants(process, "pixels.decoder"):
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
        _, said = process.communicate()
    assert process.returncode == 0, said
    reasons = [row["reason"] for row in read_rows(out / "rejects.parquet", REJECTS)]
    assert reasons == ["decoder_crashed"] * len(reasons)
    assert len(reasons) <= killed
    assert read_json(out / "card.json")["rows"] == 400 - len(reasons)
    subprocess.run(command(source, out, "--retry"), check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "whole")


def test_progress_names_rate_time_left_and_rejects_by_reason(
    films: list[Path], tmp_path: Path
) -> None:
    source = many(films, tmp_path / "in", 40)
    (source / "000" / "a.dcm").write_bytes(b"")
    (source / "000" / "b.txt").write_text("notes")
    shutil.copy(source / "000" / "a.dcm", source / "000" / "c.dcm")
    done = subprocess.run(
        command(source, tmp_path / "out"), check=True, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("prep images 43/43, ")
    assert "/s, " in last
    assert " left, " in last
    assert last.endswith("3 rejected: 2 file_empty, 1 not_a_picture")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_archive(
    films: list[Path], tmp_path: Path, workers: int
) -> None:
    count = 6_000
    source = many(films, tmp_path / "in", count)
    out = tmp_path / "out"
    seen: dict[int, dict[int, int]] = {}  # percent done -> bytes of each process
    with running(source, out, "--workers", workers) as process:
        for percent in (25, 50, 95):
            wanted = count * percent // 100 // 32
            wait(process, lambda wanted=wanted: chunks(out) >= wanted)  # type: ignore[misc]
            family = psutil.Process(process.pid)
            tree = [family, *family.children(recursive=True)]
            seen[percent] = {child.pid: child.memory_info().rss for child in tree}
        _, said = process.communicate()
    assert process.returncode == 0, said
    for pid in seen[25].keys() & seen[95].keys():
        assert seen[95][pid] < seen[25][pid] + 24 * MIB, (seen[25][pid], seen[95][pid])
