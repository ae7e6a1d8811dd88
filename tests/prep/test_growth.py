"""A set follows its archive: what still stands is kept, and the bytes are those of a fresh run."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imitate.contract import InputError, UsageError
from imitate.files import blake3_file, read_json, read_rows
from imitate.prep.commands import app
from imitate.prep.job import earlier
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import MANIFEST, REJECTS


def run(kind: str, tree: Path, root: Path, *more: object) -> Path:
    arguments = [kind, tree, "--root", root, "--size", 32, "--quiet", "--name", "set", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    return root / "data" / "prepared" / "set"


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file of a set; of the card all but the facts of its run."""
    files = {
        str(path.relative_to(folder)): blake3_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "card.json" and path.suffix != ".html"
    }
    card = read_json(folder / "card.json")
    del card["run"]
    return {**files, "card.json": str(card)}


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def move(files: list[Path], tree: Path, away: Path) -> None:
    for path in files:
        target = away / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "rsna"
    write_rsna(folder, patients=40, seed=3, size=32)
    return folder


@pytest.fixture
def tree(archive: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(archive, tmp_path / "rsna"))


def dicoms(tree: Path) -> list[Path]:
    return sorted((tree / "stage_2_train_images").glob("*.dcm"))


def test_new_files_are_added_and_nothing_is_redone(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move(dicoms(tree)[::3], tree, tmp_path / "away")
    folder = run("rsna", tree, tmp_path / "grown", "--max-failures", "50%")
    before = stamps(folder)
    shutil.copytree(tmp_path / "away", tree, dirs_exist_ok=True)
    capsys.readouterr()
    run("rsna", tree, tmp_path / "grown")
    assert f"{len(before)} rows were finished by an earlier run" in capsys.readouterr().out
    assert contents(folder) == contents(run("rsna", tree, tmp_path / "fresh"))
    after = stamps(folder)
    assert len(after) > len(before)
    assert {path: after[path] for path in before} == before


def test_what_is_gone_or_changed_is_so_in_the_set(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("rsna", tree, tmp_path / "followed")
    before = stamps(folder)
    first, second, *rest = dicoms(tree)
    gone, changed = first.stem, second.stem
    first.unlink()
    second.write_bytes(rest[0].read_bytes() + b"\0" * 16)
    capsys.readouterr()
    run("rsna", tree, tmp_path / "followed", "--max-failures", "50%")
    assert "1 pictures left the set" in capsys.readouterr().out
    fresh = run("rsna", tree, tmp_path / "fresh", "--max-failures", "50%")
    assert contents(folder) == contents(fresh)
    redone = {path.stem for path, stamp in stamps(folder).items() if before[path] != stamp}
    assert redone <= {changed}
    assert gone not in {path.stem for path in stamps(folder)}


def test_other_splits_and_patients_decode_nothing_again(tree: Path, tmp_path: Path) -> None:
    """The mapping gives patients, so that the splits are drawn anew."""
    mapping = tmp_path / "mapping.json"

    def write(patients: int) -> None:
        ids = [path.stem for path in dicoms(tree)]
        names = [f"{number % patients:08d}_000.png" for number in range(len(ids))]
        rows = [{"subset_img_id": i, "img_id": n} for i, n in zip(ids, names, strict=True)]
        mapping.write_text(json.dumps(rows))

    write(30)
    folder = run("rsna", tree, tmp_path / "followed", "--mapping", mapping)
    before = stamps(folder), contents(folder)["manifest.parquet"]
    write(7)
    run("rsna", tree, tmp_path / "followed", "--mapping", mapping)
    fresh = run("rsna", tree, tmp_path / "fresh", "--mapping", mapping)
    assert contents(folder) == contents(fresh)
    assert stamps(folder) == before[0]
    assert contents(folder)["manifest.parquet"] != before[1]


@contextlib.contextmanager
def begun(tree: Path, root: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has finished some of the set, to be ended by the caller."""
    command = [sys.executable, "-m", "imitate", "prep", "rsna", str(tree), "--size", "32"]
    command += ["--root", str(root), "--name", "set", *more]
    parts = root / "data" / "prepared" / "set" / ".parts"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(parts.glob("0*.json")):
            time.sleep(0.002)
        yield process


def test_a_begun_set_follows_its_archive(tree: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    move(dicoms(tree)[::4], tree, away)
    with begun(tree, tmp_path / "begun", "--max-failures", "50%") as process:
        process.kill()
    folder = tmp_path / "begun" / "data" / "prepared" / "set"
    assert not (folder / "card.json").exists()
    shutil.copytree(away, tree, dirs_exist_ok=True)
    dicoms(tree)[1].unlink()
    run("rsna", tree, tmp_path / "begun", "--max-failures", "50%")
    fresh = run("rsna", tree, tmp_path / "fresh", "--max-failures", "50%")
    assert contents(folder) == contents(fresh)


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("moment", ["opening", "working", "writing"])
def test_a_kill_while_a_set_is_brought_up_to_date_loses_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    move(dicoms(tree)[::5], tree, tmp_path / "away")
    folder = run("rsna", tree, tmp_path / "killed", "--max-failures", "50%")
    before = stamps(folder)
    shutil.copytree(tmp_path / "away", tree, dirs_exist_ok=True)

    def killed(*arguments: object, **options: object) -> None:
        raise Killed

    place = {
        "opening": "imitate.prep.job.earlier.write_json",
        "working": "imitate.prep.job.run.run_tasks",
        "writing": "imitate.prep.job.gather.manifest_facts",
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        with pytest.raises(Killed):
            run("rsna", tree, tmp_path / "killed")
    assert (folder / "card.json").exists() == (moment == "opening")
    run("rsna", tree, tmp_path / "killed")
    assert contents(folder) == contents(run("rsna", tree, tmp_path / "fresh"))
    after = stamps(folder)
    assert {path: after[path] for path in before} == before


def test_a_vanished_archive_leaves_the_set_alone(tree: Path, tmp_path: Path) -> None:
    folder = run("rsna", tree, tmp_path)
    before = contents(folder)
    for path in tree.rglob("*.dcm"):
        path.unlink()
    with pytest.raises(InputError, match="nothing of rsna could be prepared"):
        run("rsna", tree, tmp_path)
    assert contents(folder) == before


def test_a_set_that_another_process_prepares_is_left_to_it(tree: Path, tmp_path: Path) -> None:
    with begun(tree, tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(UsageError, match="another process is preparing this set"):
            run("rsna", tree, tmp_path)
        process.kill()


def test_reports_that_changed_in_their_zip_are_read_again(tmp_path: Path) -> None:
    tree = tmp_path / "mimic"
    write_mimic(tree, studies=6, seed=1, size=32)
    reports = sorted((tree / "files").rglob("*.txt"))
    texts = {str(path.relative_to(tree)): path.read_text() for path in reports}
    for path in reports:
        path.unlink()

    def pack() -> None:
        with zipfile.ZipFile(tree / "mimic-cxr-reports.zip", "w") as archive:
            for name, text in texts.items():
                archive.writestr(name, text)

    pack()
    folder = run("mimic", tree, tmp_path / "followed")
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    study = next(row["study_id"] for row in rows)
    before = stamps(folder)
    name = next(name for name in texts if study in name)
    texts[name] = texts[name].replace(" IMPRESSION:", " IMPRESSION:  Xyz seen.", 1)
    pack()
    run("mimic", tree, tmp_path / "followed")
    assert contents(folder) == contents(run("mimic", tree, tmp_path / "fresh"))
    redone = {path.stem for path, stamp in stamps(folder).items() if before[path] != stamp}
    assert redone == {row["key"] for row in rows if row["study_id"] == study}


def files_of(folder: Path) -> dict[str, str]:
    """Contents but for the card, which holds the name of the folder."""
    return {name: digest for name, digest in contents(folder).items() if name != "card.json"}


def test_loose_pictures_follow_and_foreign_files_stay(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def images(out: Path) -> None:
        options = ["--size", "32", "--quiet", "--max-failures", "50%"]
        app(["images", str(tree), "-o", str(out), *options], standalone_mode=False)

    images(out)
    (out / "mine.png").write_bytes(b"not ours")
    gone = dicoms(tree)[0]
    gone.unlink()
    (tree / "new.dcm").write_bytes(dicoms(tree)[0].read_bytes())
    images(out)
    images(tmp_path / "fresh")
    (out / "mine.png").unlink()
    assert files_of(out) == files_of(tmp_path / "fresh")


def test_rejects_of_before_stay_rejects(tree: Path, tmp_path: Path) -> None:
    dicoms(tree)[0].write_bytes(b"")
    folder = run("rsna", tree, tmp_path / "set", "--max-failures", "50%")
    dicoms(tree)[5].unlink()
    run("rsna", tree, tmp_path / "set", "--max-failures", "50%")
    fresh = run("rsna", tree, tmp_path / "fresh", "--max-failures", "50%")
    assert contents(folder) == contents(fresh)
    reasons = {row["reason"] for row in read_rows(folder / "rejects.parquet", REJECTS)}
    assert {"file_empty", "file_missing"} <= reasons


def test_a_table_of_before_is_held_without_hard_links(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run("rsna", tree, tmp_path / "set")
    dicoms(tree)[0].unlink()

    def refuse(*paths: object) -> None:
        raise OSError

    monkeypatch.setattr(earlier.os, "link", refuse)
    run("rsna", tree, tmp_path / "set", "--max-failures", "50%")
    fresh = run("rsna", tree, tmp_path / "fresh", "--max-failures", "50%")
    assert contents(folder) == contents(fresh)
