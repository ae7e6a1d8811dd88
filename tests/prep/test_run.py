"""A prepared set: the same bytes however it was made, and never another one in its place."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imitate.contract import InputError, UsageError
from imitate.files import blake3_file, read_json, read_rows
from imitate.prep.commands import app
from imitate.prep.job.chunk import Assignment
from imitate.prep.job.plan import Effort, Job, Plan, beside
from imitate.prep.job.run import prepare
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.pixels.png import PixelOptions
from imitate.prep.policy import ViewPolicy
from imitate.prep.record import Listing, Record
from imitate.schema import MANIFEST


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "mimic-cxr"
    write_mimic(folder, studies=80, seed=7, size=40)
    return folder


def run(tree: Path, root: Path, *more: object) -> Path:
    arguments = ["mimic", tree, "--root", root, "--size", 32, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    return root / "data" / "prepared" / "mimic"


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file of a set; of the card all but the facts of its run."""
    files = {
        str(path.relative_to(folder)): blake3_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "card.json"
    }
    card = read_json(folder / "card.json")
    del card["run"]
    return {**files, "card.json": str(card)}


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return contents(run(tree, tmp_path_factory.mktemp("whole")))


def test_two_workers_give_the_bytes_of_one(
    tree: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "imitate", "prep", "mimic", str(tree), "--size", "32"]
    command += ["--root", str(tmp_path), "--workers", "2"]
    subprocess.run(command, check=True, capture_output=True)
    assert contents(tmp_path / "data" / "prepared" / "mimic") == whole


def test_where_the_archive_lies_does_not_matter(
    tree: Path, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    assert contents(run(Path(tree.name), tmp_path)) == whole


def test_a_stopped_run_goes_on_and_redoes_nothing(
    tree: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "imitate", "prep", "mimic", str(tree), "--size", "32"]
    command += ["--root", str(tmp_path), "--progress", "lines"]
    folder = tmp_path / "data" / "prepared" / "mimic"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(folder.glob(".parts/0*.json")):
            time.sleep(0.002)
        process.terminate()
        _, message = process.communicate()
    assert process.returncode == 143, message
    assert "go on with: imitate prep mimic" in message
    assert not (folder / "card.json").exists()
    done = {path: path.stat().st_mtime_ns for path in folder.glob(".parts/0*.json")}
    rows = [row for path in done for row in json.loads(path.read_text().splitlines()[1])["rows"]]
    pictures = {folder / r["image"]: (folder / r["image"]).stat().st_mtime_ns for r in rows}
    assert pictures
    assert contents(run(tree, tmp_path)) == whole
    assert {path: path.stat().st_mtime_ns for path in pictures} == pictures


def test_a_finished_set_is_found_done(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tree, tmp_path)
    (folder / ".parts").mkdir()  # as a kill between the card and the clean-up leaves it
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    run(tree, tmp_path)
    assert "already prepared" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not (folder / ".parts").exists()


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (["--size", 48], "size was 32, now 48"),
        (["--sections", "both"], "sections was either, now both"),
        (["--limit", 3], "limit was None, now 3"),
    ],
)
def test_another_plan_is_refused_and_the_set_left_alone(
    tree: Path, whole: dict[str, str], made: Path, more: list[object], difference: str
) -> None:
    with pytest.raises(UsageError, match=difference) as caught:
        run(tree, made, *more)
    assert "--name" in caught.value.todo
    assert "--no-resume" in caught.value.todo
    assert contents(made / "data" / "prepared" / "mimic") == whole


def test_anew_goes_beside_what_is_there(tree: Path, made: Path, whole: dict[str, str]) -> None:
    run(tree, made, "--no-resume", "--limit", 2)
    folder = made / "data" / "prepared" / "mimic-2"
    assert len(read_rows(folder / "manifest.parquet", MANIFEST)) == 2
    assert contents(made / "data" / "prepared" / "mimic") == whole
    assert beside(folder).name == "mimic-2-2"
    assert beside(folder.with_name("mimic")).name == "mimic-3"


def test_a_dry_run_writes_nothing(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tree, tmp_path, "--dry-run", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["to_do"] + sum(said["rejected"].values()) == said["in"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def made(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    run(tree, root)
    return root


def job_of(records: list[Record], out: Path) -> Job:
    listing = Listing(dataset="test", access="open", records=records, inputs={"files": 1})
    assignment = Assignment(
        dataset="test",
        access="open",
        out=out,
        pixels=PixelOptions(),
        views=ViewPolicy.parse("all"),
        text=None,
        reports=None,
    )
    return Job(plan=Plan(listing=listing, options={}, seed=None), assignment=assignment)


def test_two_images_of_one_key_are_an_error(tmp_path: Path) -> None:
    records = [Record(image_id=i, source=f"{i}.png", root=tmp_path) for i in ("a.b", "a:b")]
    with pytest.raises(InputError, match=r"a\.b\.png and a:b\.png"):
        prepare(job_of(records, tmp_path / "out"), Effort())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_id", ["", "x" * 300])
def test_an_id_that_cannot_name_a_file_is_an_error(tmp_path: Path, image_id: str) -> None:
    records = [Record(image_id=image_id, source="a.png", root=tmp_path)]
    with pytest.raises(InputError, match="cannot name a file"):
        prepare(job_of(records, tmp_path / "out"), Effort())


def test_nothing_usable_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    records = [Record(image_id=i, source=f"{i}.png", root=tmp_path) for i in ("a", "b")]
    with pytest.raises(InputError, match=r"1 file_empty, 1 file_missing.*file_empty of a\.png"):
        prepare(job_of(records, tmp_path / "out"), Effort())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    records = [Record(image_id="a", source="a.png", root=tmp_path)]
    with pytest.raises(InputError, match="cannot write"):
        prepare(job_of(records, tmp_path / "file" / "out"), Effort())
