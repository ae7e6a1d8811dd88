"""--retry does rejects again, of a begun or a finished set, and nothing else."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imitate.files import read_json, read_rows
from imitate.prep.commands import app
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import REJECTS, SOURCES


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three films; of two more one is cut off and one is no picture."""
    write_rsna(tmp_path / "phantom", patients=5, seed=0, size=64)
    films = sorted((tmp_path / "phantom").rglob("*.dcm"))[:5]
    folder = tmp_path / "in"
    folder.mkdir()
    for number, film in enumerate(films):
        shutil.copy(film, folder / f"{number}.dcm")
    for number, cut in ((3, 1_500), (4, 0)):
        data = (folder / f"{number}.dcm").read_bytes()
        (folder / f"{number}.dcm").write_bytes(data[: len(data) - cut] if cut else b"\0" * 600)
    return folder


def images(pictures: Path, out: Path, *more: object) -> str:
    arguments = ["images", pictures, "-o", out, "--size", 32, "--quiet", *more]
    arguments += ["--max-failures", "90%"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def reasons(out: Path) -> dict[str, str]:
    rows = read_rows(out / "rejects.parquet", REJECTS)
    return {row["source"]: row["reason"] for row in rows}


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*.png")}


def mend(pictures: Path, number: int) -> None:
    """Put a film there of the same size as the damaged file, as a filled gap of a download is."""
    size = (pictures / f"{number}.dcm").stat().st_size
    good = (pictures / "0.dcm").read_bytes()
    (pictures / f"{number}.dcm").write_bytes(good + b"\0" * (size - len(good)))


@pytest.fixture
def done(pictures: Path, tmp_path: Path) -> Path:
    """A finished folder with two rejects, whose files are by now whole, and of the same size."""
    for number in (3, 4):
        (pictures / f"{number}.dcm").write_bytes(b"\0" * 20_000)
    images(pictures, tmp_path / "out")
    assert reasons(tmp_path / "out") == {"3.dcm": "not_dicom", "4.dcm": "not_dicom"}
    mend(pictures, 3)
    mend(pictures, 4)
    return tmp_path / "out"


def test_a_finished_set_retries_its_faults_and_no_more(pictures: Path, done: Path) -> None:
    before = stamps(done)
    assert "already prepared" in images(pictures, done)
    images(pictures, done, "--retry")
    assert reasons(done) == {}
    after = stamps(done)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"3.png", "4.png"}
    assert read_json(done / "card.json")["run"]["kept"] == 3


def test_only_the_reason_that_is_named_is_retried(pictures: Path, done: Path) -> None:
    assert "already prepared" in images(pictures, done, "--retry", "truncated")
    assert len(reasons(done)) == 2
    images(pictures, done, "--retry", "truncated", "--retry", "not_dicom")
    assert reasons(done) == {}


def test_what_is_still_damaged_is_rejected_again(pictures: Path, tmp_path: Path) -> None:
    images(pictures, tmp_path / "out")
    before = (tmp_path / "out" / "rejects.parquet").read_bytes()
    images(pictures, tmp_path / "out", "--retry")
    assert (tmp_path / "out" / "rejects.parquet").read_bytes() == before
    rows = read_rows(tmp_path / "out" / "sources.parquet", SOURCES)
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png", None, None]


def test_a_begun_set_retries_what_it_had_rejected(pictures: Path, tmp_path: Path) -> None:
    (pictures / "0.dcm").rename(pictures / "a.dcm")
    for number in range(40):
        shutil.copy(pictures / "a.dcm", pictures / f"b{number}.dcm")
    for number in (3, 4):
        (pictures / f"{number}.dcm").write_bytes(b"\0" * 20_000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "imitate", "prep", "images", str(pictures), "-o", str(out)]
    with subprocess.Popen([*command, "--size", "32"], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(out.glob(".parts/0*.json")):
            time.sleep(0.002)
        process.kill()
    assert not (out / "card.json").exists()
    for number in (3, 4):
        good = (pictures / "a.dcm").read_bytes()
        (pictures / f"{number}.dcm").write_bytes(good + b"\0" * (20_000 - len(good)))
    images(pictures, out, "--retry")
    assert reasons(out) == {}
    assert len(stamps(out)) == 45


def test_retry_stands_anywhere_and_without_a_set(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["images", "--retry", str(pictures), "-o", str(out), "--json", "-q"]
    said = CliRunner().invoke(app, [*arguments, "--max-failures", "90%"])
    assert json.loads(said.stdout)["out"] == 3


def test_an_unknown_reason_names_the_known_ones(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["images", str(pictures), "-o", str(out), "--retry=broken"])
    assert "--retry 'broken' is not one of faults" in str(said.exception)
    assert not out.exists()
