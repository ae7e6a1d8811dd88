"""Files that end too early are told from whole ones without decoding; no whole one is accused."""

from pathlib import Path

import pytest

from imitate.contract import Reject
from imitate.prep.phantoms.rsna import write_rsna
from imitate.prep.pixels.decoder import Decoder
from imitate.prep.pixels.ending import check_ending
from imitate.prep.pixels.png import PixelOptions


def verdict(path: Path) -> str | None:
    try:
        check_ending(path)
    except Reject as reject:
        return reject.reason
    return None


def cut(path: Path, folder: Path, share: float) -> Path:
    data = path.read_bytes()
    short = folder / path.name
    short.write_bytes(data[: int(len(data) * share)])
    return short


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_phantom_is_whole_and_its_beginning_is_not(tmp_path: Path, share: float) -> None:
    write_rsna(tmp_path / "phantom", patients=3, seed=1, size=64)
    films = sorted((tmp_path / "phantom").rglob("*.dcm"))
    assert [verdict(film) for film in films] == [None] * len(films)
    assert {verdict(cut(film, tmp_path, share)) for film in films} == {"truncated"}


@pytest.mark.real
@pytest.mark.parametrize("folder", ["dicom", "nih/images", "covidx/images"])
def test_what_can_be_prepared_is_whole(shared_data: Path, tmp_path: Path, folder: str) -> None:
    options = PixelOptions(size=64, any_modality=True, allow_burned_in=True)
    files = [path for path in sorted((shared_data / folder).rglob("*")) if path.is_file()]
    checked = 0
    with Decoder() as decoder:
        for path in files[:60]:
            try:
                decoder.convert(path, options)
            except Reject:
                continue
            checked += 1
            assert verdict(path) is None, path.name
            if "deflated" not in path.name:
                assert verdict(cut(path, tmp_path, 0.6)) is not None, path.name
    assert checked > 10


def test_an_empty_file_is_no_matter_of_its_end(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    assert verdict(tmp_path / "empty.png") is None
