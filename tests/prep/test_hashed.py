"""--key hash: PNGs are named by content, and only sources.parquet tells whose each is."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imitate.files import blake3_file, read_rows
from imitate.prep.commands import app
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import REJECTS, SOURCES


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three films, one of which is there twice, in folders named like patients."""
    write_rsna(tmp_path / "phantom", patients=4, seed=0, size=64)
    films = sorted((tmp_path / "phantom").rglob("*.dcm"))[:3]
    for name, film in zip(("Miller/1", "Miller/2", "Smith/1"), films, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(film, tmp_path / "in" / f"{name}.dcm")
    shutil.copy(films[0], tmp_path / "in" / "Smith" / "again.dcm")
    return tmp_path / "in"


def hashed(pictures: Path, out: Path, *more: object) -> None:
    arguments = ["images", pictures, "-o", out, "--key", "hash", "--size", 32, "--quiet", *more]
    arguments += ["--max-failures", "50%"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


def names_of(out: Path) -> dict[str, str | None]:
    return {row["source"]: row["image"] for row in read_rows(out / "sources.parquet", SOURCES)}


def reasons(out: Path) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in read_rows(out / "rejects.parquet", REJECTS)}


def test_names_are_hashes_of_the_content_and_one_private_table_maps_them(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hashed(pictures, out)
    assert names_of(out) == {
        str(path.relative_to(pictures)): f"{blake3_file(path)[:16]}.png"
        for path in pictures.rglob("*.dcm")
    }
    pngs = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert pngs == set(names_of(out).values())
    assert reasons(out) == {"Smith/again.dcm": "duplicate_name"}
    assert len(pngs) + len(reasons(out)) == sum(path.is_file() for path in pictures.rglob("*"))
    assert (out / "sources.parquet").stat().st_mode & 0o077 == 0


def test_which_of_two_twins_is_the_reject_does_not_depend_on_the_runs(
    pictures: Path, tmp_path: Path
) -> None:
    hashed(pictures, tmp_path / "followed")
    (pictures / "Miller" / "1.dcm").unlink()
    hashed(pictures, tmp_path / "followed")
    hashed(pictures, tmp_path / "fresh", "--workers", 1)
    assert reasons(tmp_path / "followed") == reasons(tmp_path / "fresh") == {}
    assert names_of(tmp_path / "followed") == names_of(tmp_path / "fresh")
    for name in names_of(tmp_path / "fresh").values():
        assert (tmp_path / "followed" / str(name)).is_file()
