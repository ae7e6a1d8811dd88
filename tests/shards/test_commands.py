"""The commands: what they say on stdout, and how they end."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from imitate.contract import Exit, Folders, ImitateError, InputError, TooManyFaults, UsageError
from imitate.files import read_json
from imitate.shards.commands import register

Call = Callable[..., tuple[str, ImitateError | None]]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run a command in this process; return stdout and the error it ended with."""
    app = typer.Typer()
    register(app)

    def run(command: str, *arguments: str) -> tuple[str, ImitateError | None]:
        root = [] if command == "verify" else ["--root", str(tmp_path)]
        quiet = [] if command == "show" else ["--quiet"]
        result = CliRunner().invoke(app, [command, *arguments, *root, *quiet])
        if result.exception is not None and not isinstance(result.exception, ImitateError):
            raise result.exception
        return result.stdout, result.exception

    return run


def test_one_set_ends_with_the_next_command(make_set: Any, call: Call, tmp_path: Path) -> None:
    make_set()
    text, error = call("shard", "phantom")
    assert error is None
    assert text.startswith("phantom: written, 40 samples in 3 shards")
    assert text.rstrip().endswith("next: imitate train")
    text, error = call("shard", "phantom")
    assert error is None and text.startswith("phantom: up to date")


def test_json_of_one_set_is_an_object(make_set: Any, call: Call, tmp_path: Path) -> None:
    make_set()
    text, _ = call("shard", "--json")
    result = json.loads(text)
    folder = Folders(tmp_path).shards("phantom")
    card = read_json(folder / "dataset.json")
    same = ("dataset", "samples", "shards", "bytes", "digest", "rejected")
    assert {name: result[name] for name in same} == {name: card[name] for name in same}
    assert result["path"] == str(folder) and result["seconds"] > 0
    assert set(result) == {*same, "path", "seconds"}


def test_without_a_name_every_set_that_needs_it_is_written(
    make_set: Any, call: Call, tmp_path: Path
) -> None:
    make_set("one", n=10)
    call("shard", "one")
    times = {p: p.stat().st_mtime_ns for p in Folders(tmp_path).shards("one").rglob("*")}
    make_set("two", n=15)
    text, _ = call("shard", "--json")
    assert [(r["dataset"], r["samples"]) for r in json.loads(text)] == [("one", 10), ("two", 15)]
    assert {p: p.stat().st_mtime_ns for p in Folders(tmp_path).shards("one").rglob("*")} == times


def test_options_of_the_first_run_stay(make_set: Any, call: Call, tmp_path: Path) -> None:
    make_set()
    call("shard", "phantom", "--shard-samples", "4", "--seed", "5")
    digest = json.loads(call("shard", "--json")[0])["digest"]
    card = read_json(Folders(tmp_path).shards("phantom") / "dataset.json")
    assert card["options"] == {"samples": 4, "bytes": 256 << 20, "seed": 5, "codec": "png"}
    assert digest == card["digest"]
    text, _ = call("shard", "phantom", "--shard-samples", "6")
    assert text.startswith("phantom: written")


def test_a_dry_run_writes_nothing(make_set: Any, call: Call, tmp_path: Path) -> None:
    make_set()
    text, error = call("shard", "phantom", "--dry-run", "--json", "--shard-samples", "4")
    assert error is None and not Folders(tmp_path).shards("phantom").exists()
    planned = json.loads(text)
    assert planned["digest"] is None
    call("shard", "phantom", "--shard-samples", "4")
    done = json.loads(call("shard", "--json")[0])
    same = ("samples", "shards", "bytes")
    assert [planned[name] for name in same] == [done[name] for name in same]


def test_bytes_limit_the_shards(make_set: Any, call: Call, tmp_path: Path) -> None:
    make_set()
    call("shard", "phantom", "--shard-bytes", "20480")
    sizes = [p.stat().st_size for p in (Folders(tmp_path).shards("phantom") / "shards").iterdir()]
    assert len(sizes) > 3 and max(sizes) <= 20480


def test_damage_ends_with_one_after_everything_else_is_done(
    make_set: Any, call: Call, tmp_path: Path
) -> None:
    prepared = make_set()
    sorted((prepared / "images").iterdir())[0].unlink()
    text, error = call("shard", "phantom")
    assert isinstance(error, TooManyFaults) and error.code == Exit.FAULTS
    assert "39 samples" in text and "1 damaged" in text
    assert call("verify", str(Folders(tmp_path).shards("phantom")))[1] is None
    text, error = call("shard", "phantom", "--max-failures", "1")
    assert error is None and "up to date" in text


def test_sets_without_text_point_to_evaluation(make_set: Any, call: Call, tmp_path: Path) -> None:
    from imitate.files import read_rows, write_table
    from imitate.schema import MANIFEST

    path = make_set("films", n=5) / "manifest.parquet"
    rows = [row | {"findings": "", "impression": ""} for row in read_rows(path, MANIFEST)]
    write_table(path, MANIFEST, rows)
    assert call("shard", "films")[0].rstrip().endswith("next: imitate eval films")


def test_what_is_missing_is_named(call: Call) -> None:
    _, error = call("shard")
    assert isinstance(error, InputError) and "imitate prep" in error.todo
    _, error = call("shard", "nowhere")
    assert isinstance(error, InputError) and "nowhere" in error.where
    _, error = call("shard", "../elsewhere")
    assert isinstance(error, UsageError)


def test_another_process_at_work_is_told(make_set: Any, call: Call, tmp_path: Path) -> None:
    import fcntl

    make_set()
    lock = Folders(tmp_path).shards("phantom") / ".lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _, error = call("shard", "phantom")
    assert isinstance(error, UsageError) and "another process" in error.what


def test_verify_says_each_problem_on_a_line_and_ends_with_three(
    make_set: Any, call: Call, tmp_path: Path
) -> None:
    make_set()
    call("shard", "phantom")
    folder = Folders(tmp_path).shards("phantom")
    text, error = call("verify", str(folder), "--deep")
    assert error is None and "40 samples, all sound" in text
    tar = sorted((folder / "shards").iterdir())[0]
    tar.write_bytes(tar.read_bytes()[:5000])
    text, error = call("verify", str(folder))
    assert isinstance(error, InputError) and error.code == Exit.INPUT
    lines = text.splitlines()
    assert lines[0].startswith(f"damaged   -  shards/{tar.name}")
    assert lines[1:] and {line.split()[0] for line in lines[1:]} <= {"damaged", "missing"}
    found = json.loads(call("verify", str(folder), "--json")[0])
    assert found["kind"] == "shards" and len(found["problems"]) == len(lines)
    assert set(found["problems"][0]) == {"problem", "file", "key", "detail"}


def test_verify_repairs_and_says_which(make_set: Any, call: Call, tmp_path: Path) -> None:
    make_set()
    call("shard", "phantom", "--shard-samples", "8")
    folder = Folders(tmp_path).shards("phantom")
    tar = sorted((folder / "shards").iterdir())[0]
    whole = tar.read_bytes()
    tar.write_bytes(whole[:5000])
    text, error = call("verify", str(folder), "--repair")
    assert error is None and tar.read_bytes() == whole
    assert text.splitlines()[-1].split()[:3] == ["repaired", "-", f"shards/{tar.name}"]
    assert "all sound" in call("verify", str(folder), "--repair")[0]
    tar.unlink()
    done = json.loads(call("verify", str(folder), "--repair", "--json")[0])
    assert (done["repaired"], done["left"]) == ([tar.name], 0) and done["problems"]
    _, error = call("verify", str(Folders(tmp_path).prepared("phantom")), "--repair")
    assert isinstance(error, UsageError)


def test_sets_are_joined_under_a_name(make_set: Any, call: Call, tmp_path: Path) -> None:
    from imitate.files import read_rows, write_table
    from imitate.schema import MANIFEST

    for name, n in (("one", 10), ("two", 15)):
        path = make_set(name, n=n) / "manifest.parquet"
        write_table(path, MANIFEST, [r | {"dataset": name} for r in read_rows(path, MANIFEST)])
    planned = json.loads(call("shard", "one", "two", "--name", "both", "--dry-run", "--json")[0])
    assert (planned["dataset"], planned["samples"]) == ("both", 25)
    text, error = call("shard", "one", "two", "--name", "both")
    assert error is None and text.startswith("both: written, 25 samples")
    assert Folders(tmp_path).names("shards") == ["both"]
    assert call("shard", "two", "one", "--name", "both")[0].startswith("both: up to date")
    assert call("shard", "both")[0].startswith("both: up to date, 25 samples")
    apart = json.loads(call("shard", "one", "two", "--json")[0])
    assert [(each["dataset"], each["samples"]) for each in apart] == [("one", 10), ("two", 15)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("one", "--name", "both"),
        ("one", "one", "--name", "both"),
        ("--name", "both"),
        ("one", "two", "--name", "one"),
        ("one", "two", "--name", "../x"),
    ],
)
def test_names_of_what_is_not_joined_are_refused(
    make_set: Any, call: Call, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    make_set("one", n=5)
    make_set("two", n=5)
    _, error = call("shard", *arguments)
    assert isinstance(error, UsageError)
    assert Folders(tmp_path).names("shards") == []


def test_show_prints_a_sample(make_set: Any, call: Call, tmp_path: Path) -> None:
    prepared = make_set()
    call("shard", "phantom")
    text, error = call("show", "film-0007")
    assert error is None and text.startswith("film-0007\n") and "Normal film 7." in text
    picture = tmp_path / "film.png"
    (shown,) = json.loads(call("show", "film-0007", "--json", "--picture", str(picture))[0])
    assert shown["set"] == "phantom" and shown["sample"]["study_id"] == "t3"
    assert picture.read_bytes() == (prepared / "images" / "film-0007.png").read_bytes()
    assert len(json.loads(call("show", "t3", "--set", "phantom", "--json")[0])) == 2
    text, error = call("show", "nobody")
    assert isinstance(error, InputError) and error.code == Exit.INPUT and text == ""


def test_no_report_text_is_in_what_is_said(make_set: Any, run: Run, tmp_path: Path) -> None:
    prepared = make_set()
    picture = sorted((prepared / "images").iterdir())[0]
    picture.write_bytes(b"x")
    done = run("shard", "phantom", "-j", "1", "--progress", "lines")
    assert done.returncode == Exit.FAULTS
    assert "Traceback" not in done.stderr
    for said in (done.stdout, done.stderr):
        assert "Normal film" not in said and "effusion" not in said
