"""`imitate prep` as a user types it: results, messages, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imitate.contract import UsageError
from imitate.prep.commands import app
from imitate.prep.phantoms.openi import write_openi


def imitate(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imitate", "prep", *map(str, arguments)]
    environment = {**os.environ, **settings}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def run(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "openi"
    write_openi(folder, studies=5, seed=0, size=40)
    return folder


def test_json_is_the_only_thing_on_stdout(archive: Path, tmp_path: Path) -> None:
    done = imitate("openi", archive, "--root", tmp_path, "--size", 32, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == {"dataset", "in", "out", "rejected", "path", "seconds"}
    assert said["in"] == said["out"] + sum(said["rejected"].values())
    assert "prep openi" in done.stderr
    assert Path(said["path"], "card.json").is_file()


def test_the_table_says_what_was_left_out_and_what_comes_next(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("openi", archive, "--root", tmp_path, "--size", 32, "--min-tokens", 12, "--quiet")
    said = capsys.readouterr()
    assert "too_short" in said.out
    assert "the report has fewer tokens than --min-tokens" in said.out
    assert said.out.rstrip().endswith("next: imitate shard openi")
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mimic", "no-such-folder"], 3, "folder not found (no-such-folder)"),
        (["mimic", "."], 3, "no picture (.dcm, .dcm.gz or .jpg)"),
        (["openi", "."], 3, "no picture"),
        (["rsna", "."], 3, "no stage_2_train_labels.csv"),
        (["reports", "nowhere", "-o", "x.parquet"], 3, "no such file or folder (nowhere)"),
        (["mimic", ".", "--fit", "fill"], 2, "--fit 'fill' is not one of pad, crop, stretch"),
        (["mimic", ".", "--size", "many"], 2, "--size"),
        (["mimic"], 2, "SRC"),
    ],
)
def test_errors_name_what_where_and_what_to_do(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    command = [sys.executable, "-m", "imitate", "prep", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "lung"], "--views does not know 'LUNG'"),
        (["--views", "AP,UPSIDE"], "--views does not know 'UPSIDE'"),
        (["--norm", "clahe"], "--norm 'clahe' is not one of auto, mimic, window"),
        (["--bits", "12"], "--bits 12 is not 8 or 16"),
        (["--bits", "16", "--norm", "mimic"], "--norm mimic is defined on 8 bits"),
        (["--sections", "all"], "--sections 'all' is not one of either, both, findings"),
        (["--max-failures", "few"], "--max-failures 'few' is neither"),
        (["--progress", "loud"], "--progress 'loud' is not one of auto, bar, lines, none"),
        (["--name", "../elsewhere"], "a name is letters, digits"),
    ],
)
def test_unknown_values_name_the_known_ones(
    archive: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run("openi", archive, "--root", tmp_path, *arguments)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_many_faults_exit_1_after_the_work(archive: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    first = next(archive.rglob("*.png"))
    (pictures / "a.png").write_bytes(first.read_bytes())
    (pictures / "b.png").write_bytes(b"")
    done = imitate("images", pictures, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 2 are faulty" in done.stderr
    assert "prepared 1 of 2 rows" in done.stdout
    assert (tmp_path / "out" / "a.png").is_file()
    assert imitate("images", pictures, "-o", tmp_path / "out", "--max-failures", 1).returncode == 0
