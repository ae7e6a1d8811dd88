"""--check names all that is wrong at once and writes nothing; --checksums compares files."""

import csv
import gzip
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from imitate.contract import ImitateError, InputError
from imitate.files import read_json, read_rows
from imitate.prep.commands import app
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import REJECTS


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "mimic"
    write_mimic(folder, studies=12, seed=5, size=32, anomalies=False)
    return folder


@pytest.fixture
def tree(mimic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mimic, tmp_path / "mimic"))


def prep(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def code_of(done: Result) -> int:
    error = done.exception
    return int(error.code) if isinstance(error, ImitateError) else done.exit_code


def check(tree: Path, root: Path, *more: object) -> tuple[dict[str, Any], int]:
    """The problems by name, and the exit code; nothing may have been written."""
    done = prep("mimic", tree, "--root", root, "--check", "--json", "--quiet", *more)
    assert not (root / "data").exists()
    assert done.stdout, done.exception
    said = json.loads(done.stdout)
    return {problem["problem"]: problem for problem in said["problems"]}, code_of(done)


def pictures(tree: Path) -> list[Path]:
    return sorted(tree.rglob("*.dcm"))


def table(tree: Path, name: str) -> tuple[Path, list[dict[str, str]]]:
    path = next(tree.rglob(f"*{name}.csv.gz"))
    with gzip.open(path, "rt") as handle:
        return path, list(csv.DictReader(handle))


def rewrite(path: Path, rows: list[dict[str, str]]) -> None:
    with gzip.open(path, "wt") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_nothing_wrong_is_exit_0(tree: Path, tmp_path: Path) -> None:
    problems, code = check(tree, tmp_path)
    assert code == 0
    assert all(problem["kind"] == "note" for problem in problems.values())


def test_a_film_that_is_cut_off_is_named(tree: Path, tmp_path: Path) -> None:
    film = pictures(tree)[0]
    film.write_bytes(film.read_bytes()[:-200])
    problems, code = check(tree, tmp_path)
    assert code == 1
    assert problems["truncated"]["count"] == 1


def test_several_problems_are_named_at_once_with_counts_and_examples(
    tree: Path, tmp_path: Path
) -> None:
    first, second, third, *_ = pictures(tree)
    first.unlink()
    second.write_bytes(b"\0" * 500)
    (third.parent / f"{'a' * 8}-{'-'.join(['b' * 8] * 4)}.dcm").write_bytes(third.read_bytes())
    report = sorted(tree.rglob("s5*.txt"))[-1]
    report.write_bytes(b"x" * 70_000)
    problems, code = check(tree, tmp_path, "--views", "all")
    assert code == 1
    assert problems["file_missing"]["examples"] == [first.stem]
    assert problems["not_dicom"]["examples"] == [second.stem]
    assert problems["file_not_listed"]["count"] == 1
    assert "aaaaaaaa" in problems["file_not_listed"]["examples"][0]
    assert problems["report_unreadable"]["count"] >= 1
    assert all(problem["meaning"] for problem in problems.values())


def test_a_missing_report_is_named(tree: Path, tmp_path: Path) -> None:
    sorted(tree.rglob("s5*.txt"))[0].unlink()
    problems, code = check(tree, tmp_path)
    assert problems["report_missing"]["kind"] == "fault"
    assert code == 1


def test_a_picture_that_is_there_twice_is_named(tree: Path, tmp_path: Path) -> None:
    twin = pictures(tree)[0]
    (tree / "copies").mkdir()
    shutil.copy(twin, tree / "copies" / twin.name)
    problems, code = check(tree, tmp_path)
    assert problems["duplicate_name"]["count"] == 1
    assert code == 1


def test_a_patient_in_two_splits_is_named(tree: Path, tmp_path: Path) -> None:
    path, rows = table(tree, "split")
    subjects = [row["subject_id"] for row in rows if row["split"] == "train"]
    twice = next(subject for subject in subjects if subjects.count(subject) > 1)
    next(row for row in rows if row["subject_id"] == twice)["split"] = "test"
    rewrite(path, rows)
    problems, code = check(tree, tmp_path, "--views", "all")
    assert problems["shared_subjects_train_test"]["examples"] == [twice]
    assert code == 1


def test_a_published_split_with_shared_patients_is_a_note(tmp_path: Path) -> None:
    tree = tmp_path / "rsna"
    write_rsna(tree, patients=60, seed=2, size=32)
    ids = [path.stem for path in (tree / "stage_2_train_images").glob("*.dcm")]
    rows = [{"subset_img_id": i, "img_id": f"{n % 5:08d}_0.png"} for n, i in enumerate(ids)]
    (tmp_path / "mapping.json").write_text(json.dumps(rows))
    options = ["--mapping", tmp_path / "mapping.json", "--protocol", "mgca"]
    done = prep("rsna", tree, "--root", tmp_path, "--check", "--json", "-q", *options)
    kinds = {p["problem"]: p["kind"] for p in json.loads(done.stdout)["problems"]}
    assert kinds["shared_subjects_train_test"] == "note"
    assert code_of(done) == 0


def test_a_split_list_that_misses_a_picture_is_named(tree: Path, tmp_path: Path) -> None:
    path, rows = table(tree, "split")
    rewrite(path, rows[1:])
    problems, _ = check(tree, tmp_path, "--views", "all")
    assert problems["split_missing"]["examples"] == [rows[0]["dicom_id"]]


@pytest.mark.parametrize("columns", [["--check"], []])
def test_a_table_with_a_wrong_header_ends_with_exit_3(
    tree: Path, tmp_path: Path, columns: list[str]
) -> None:
    path, rows = table(tree, "split")
    rewrite(path, [{"dicom": row["dicom_id"], **row, "dicom_id": ""} for row in rows])
    header_lost = [{k: v for k, v in row.items() if k != "split"} for row in rows]
    rewrite(path, header_lost)
    done = prep("mimic", tree, "--root", tmp_path, *columns)
    assert isinstance(done.exception, InputError)
    assert "no column named split" in str(done.exception)
    assert path.name in str(done.exception)


def test_prep_itself_leaves_none_of_them_unnamed(tree: Path, tmp_path: Path) -> None:
    films, report = pictures(tree), sorted(tree.rglob("s5*.txt"))[0]
    without_report = [film for film in films if film.parent.name == report.stem]
    report.unlink()
    kept = [film for film in films if film not in without_report]
    kept[0].unlink()
    (tree / "copies").mkdir()
    shutil.copy(kept[1], tree / "copies" / kept[1].name)
    unlisted = tree / "copies" / f"{'a' * 8}-{'-'.join(['b' * 8] * 4)}.dcm"
    shutil.copy(kept[1], unlisted)
    path, rows = table(tree, "split")
    there = {film.stem for film in kept[2:]}
    train = [row for row in rows if row["split"] == "train" and row["dicom_id"] in there]
    patients = [row["subject_id"] for row in train]
    next(row for row in train if patients.count(row["subject_id"]) > 1)["split"] = "test"
    rewrite(path, rows)
    options = ["--views", "all", "--size", 32, "--max-failures", "90%", "--quiet"]
    done = prep("mimic", tree, "--root", tmp_path, *options)
    assert code_of(done) == 0, done.output
    found = reasons(tmp_path / "data" / "prepared" / "mimic")
    left = {(Path(source).stem, reason) for source, reason in found.items()}
    assert {(film.stem, "report_missing") for film in without_report} <= left
    assert (kept[0].stem, "file_missing") in left
    assert (kept[1].stem, "duplicate_name") in left
    assert (unlisted.stem, "file_not_listed") in left
    assert "patients are in both splits of train-test" in done.stdout


def test_two_images_of_one_key_are_fatal_and_all_are_named(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    write_rsna(tmp_path / "phantom", patients=3, seed=2, size=32)
    film = next((tmp_path / "phantom").rglob("*.dcm"))
    names = ["a b.dcm", "a-b.dcm", "a.b.dcm"]
    for name in names:
        shutil.copy(film, tmp_path / "p" / name)
    lines = ["image,report", *(f"{name},The lungs are clear." for name in names)]
    (tmp_path / "p" / "list.csv").write_text("\n".join(lines) + "\n")
    options = ["--root", tmp_path, "--key", "path", "--deidentified", "--check", "--json", "-q"]
    done = prep("table", tmp_path / "p" / "list.csv", *options)
    problems = json.loads(done.stdout)["problems"]
    assert [p["problem"] for p in problems] == ["two images have one key"] * 2
    assert code_of(done) == 3


def test_the_table_is_readable_and_ends_with_a_verdict(tree: Path, tmp_path: Path) -> None:
    pictures(tree)[0].unlink()
    done = prep("mimic", tree, "--root", tmp_path, "--check", "--quiet")
    assert "1 file_missing" in done.stdout
    assert "rows could be prepared" in done.stdout
    assert "1 faults; nothing was written" in str(done.exception)


# --- checksums ---


def write_sums(tree: Path, place: str = "SHA256SUMS.txt", only: str = "") -> Path:
    folder = (tree / place).parent
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and only in str(p)]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}"
        for path in files
        if not path.name.startswith("SHA256SUMS")
    ]
    (tree / place).write_text("\n".join(lines) + "\n")
    return tree / place


def run(tree: Path, root: Path, *more: object) -> Path:
    arguments = ["mimic", tree, "--root", root, "--size", 32, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    return root / "data" / "prepared" / "mimic"


def reasons(folder: Path) -> dict[str, str]:
    rows = read_rows(folder / "rejects.parquet", REJECTS)
    return {row["source"]: row["reason"] for row in rows}


def test_a_picture_and_a_report_that_differ_are_rejects(tree: Path, tmp_path: Path) -> None:
    write_sums(tree)
    folder = run(tree, tmp_path / "whole", "--checksums")
    kept = [path.stem for path in folder.rglob("*.png")]
    assert "checksum_mismatch" not in reasons(folder).values()
    facts = read_json(folder / "card.json")["archive"]["checksums"]
    assert facts["lists"] == ["SHA256SUMS.txt"]
    assert facts["files_not_named"] == 0
    assert facts["tables_verified"] >= 3
    film = next(path for path in pictures(tree) if path.stem == kept[0])
    data = bytearray(film.read_bytes())
    data[-10] ^= 1
    film.write_bytes(data)
    other = next(p for p in pictures(tree) if p.stem in kept and p.parent != film.parent)
    report = other.parent.with_suffix(".txt")
    report.write_text(report.read_text().replace("e", "o", 1))
    folder = run(tree, tmp_path / "damaged", "--checksums", "--max-failures", "50%")
    wrong = {Path(s).stem for s, reason in reasons(folder).items() if reason == "checksum_mismatch"}
    assert film.stem in wrong
    assert other.stem in wrong
    problems, code = check(tree, tmp_path / "checked", "--checksums")
    assert problems["checksum_mismatch"]["count"] == len(wrong)
    assert code == 1


def test_a_table_that_differs_ends_the_run(tree: Path, tmp_path: Path) -> None:
    write_sums(tree)
    path, rows = table(tree, "split")
    rewrite(path, rows[:-1])
    with pytest.raises(InputError, match=r"1 of \d+ tables differ from SHA256SUMS") as caught:
        run(tree, tmp_path, "--checksums")
    assert path.name in caught.value.where
    assert not (tmp_path / "data").exists()


def test_lists_at_any_level_count_and_the_card_says_what_they_leave_out(
    tree: Path, tmp_path: Path
) -> None:
    some = sorted((tree / "files").iterdir())[0].name
    write_sums(tree, f"files/{some}/SHA256SUMS", only=".dcm")
    facts = read_json(run(tree, tmp_path, "--checksums") / "card.json")["archive"]["checksums"]
    assert facts["files_named"] > 0
    assert facts["files_not_named"] > 0
    assert facts["tables_verified"] == 0


def test_a_zip_of_reports_counts_as_a_table(tree: Path, tmp_path: Path) -> None:
    texts = sorted((tree / "files").rglob("*.txt"))
    with zipfile.ZipFile(tree / "mimic-cxr-reports.zip", "w") as archive:
        for path in texts:
            archive.write(path, path.relative_to(tree))
            path.unlink()
    write_sums(tree)
    with zipfile.ZipFile(tree / "mimic-cxr-reports.zip", "a") as archive:
        archive.writestr("more.txt", "x")
    with pytest.raises(InputError, match="tables differ from SHA256SUMS"):
        run(tree, tmp_path, "--checksums")


def test_no_list_and_a_damaged_list_are_named(tree: Path, tmp_path: Path) -> None:
    for path in tree.rglob("SHA256SUMS*"):
        path.unlink()
    with pytest.raises(InputError, match="no SHA256SUMS"):
        run(tree, tmp_path, "--checksums")
    (tree / "SHA256SUMS.txt").write_text("0123  files/a.dcm\n")
    with pytest.raises(InputError, match="not a list of SHA-256") as caught:
        run(tree, tmp_path, "--checksums")
    assert caught.value.where.endswith("line 1")


def test_a_corrected_list_redoes_what_it_changes(tree: Path, tmp_path: Path) -> None:
    sums = write_sums(tree)
    right = sums.read_text()
    name = run(tree, tmp_path / "whole", "--checksums")
    film = sorted(path.stem for path in name.rglob("*.png"))[0]
    lines = [line if film not in line else "0" * 64 + line[64:] for line in right.splitlines()]
    sums.write_text("\n".join(lines) + "\n")
    folder = run(tree, tmp_path / "wrong", "--checksums", "--max-failures", "50%")
    assert "checksum_mismatch" in reasons(folder).values()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    sums.write_text(right)
    run(tree, tmp_path / "wrong", "--checksums")
    assert "checksum_mismatch" not in reasons(folder).values()
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert {path.stem for path in after.keys() - before.keys()} == {film}
    assert {path: after[path] for path in before} == before
