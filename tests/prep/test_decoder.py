"""The decoding process: the same pictures, and files that hang it, kill it or fill its memory."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from imitate.contract import Reject, UsageError
from imitate.prep.pixels.decoder import Decoder
from imitate.prep.pixels.picture import PixelOptions, convert
from imitate.work import run_tasks

OPTIONS = PixelOptions(size=64)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A good picture."""
    path = tmp_path / "film.png"
    array = np.random.default_rng(0).integers(0, 256, (90, 70)).astype(np.uint8)
    path.write_bytes(bytes(cv2.imencode(".png", array)[1]))
    return path


@pytest.fixture
def monster(tmp_path: Path) -> Path:
    """A DICOM of 4 MB that holds 16384 x 16384 pixels, RLE runs of 128 each."""
    side = 16384
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "2.25.1"
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    stream = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * (side * side // 128)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    path = tmp_path / "monster.dcm"
    path.write_bytes(buffer.getvalue())
    return path


def reason(decoder: Decoder, path: Path) -> str:
    with pytest.raises(Reject) as caught:
        decoder.convert(path, OPTIONS)
    return caught.value.reason


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_pictures_and_reasons_are_those_of_this_process(film: Path, tmp_path: Path) -> None:
    odd = tmp_path / "n\u00e4me with \udcff.png"
    odd.write_bytes(film.read_bytes())
    with Decoder() as decoder:
        for options in (OPTIONS, PixelOptions(size=0, norm="window", bits=16, fit="crop")):
            assert decoder.convert(film, options) == convert(film, options)
        assert decoder.convert(odd, OPTIONS) == convert(film, OPTIONS)
        assert reason(decoder, tmp_path / "absent.png") == "file_missing"
        with pytest.raises(Reject) as caught:
            decoder.convert(tmp_path, OPTIONS)
        assert caught.value.detail == "not a regular file"


def test_one_child_is_started_late_and_used_again(film: Path) -> None:
    before = children()
    with Decoder() as decoder:
        assert children() == before
        decoder.convert(film, OPTIONS)
        (child,) = children() - before
        decoder.convert(film, OPTIONS)
        assert children() - before == {child}
    assert children() == before
    decoder.close()


def test_relative_paths_are_those_of_the_parent(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Decoder() as decoder:
        decoder.convert(film, OPTIONS)
        monkeypatch.chdir(film.parent)
        assert decoder.convert(Path(film.name), OPTIONS) == convert(film, OPTIONS)


def test_a_file_over_its_time_is_a_reject_and_the_next_one_is_fine(
    film: Path, monster: Path
) -> None:
    with Decoder(timeout=0.05) as decoder:
        assert reason(decoder, monster) == "decoder_timeout"
        assert reason(decoder, monster) == "decoder_timeout"
        decoder.timeout = 60.0
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


def test_a_file_over_its_memory_is_a_reject_and_the_next_one_is_fine(
    film: Path, monster: Path
) -> None:
    with Decoder(memory=400 << 20) as decoder:
        assert reason(decoder, monster) == "decoder_memory"
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


def test_a_picture_over_the_memory_is_a_reject(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(bytes(cv2.imencode(".png", np.eye(12000, dtype=np.uint8))[1]))
    with Decoder(memory=400 << 20) as decoder:
        assert reason(decoder, path) == "decoder_memory"
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


def test_a_file_that_kills_the_child_is_a_reject_and_the_next_one_is_fine(
    film: Path, monster: Path
) -> None:
    """The RLE decoder aborts when an allocation of its own fails."""
    with Decoder(memory=750 << 20) as decoder:
        assert reason(decoder, monster) == "decoder_crashed"
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


def test_a_child_killed_from_outside_while_it_works(film: Path) -> None:
    before = children()
    with Decoder() as decoder:
        decoder.convert(film, OPTIONS)
        (child,) = children() - before
        os.kill(child, signal.SIGSTOP)  # it has the file, and does not finish before the kill
        timer = threading.Timer(0.2, os.kill, (child, signal.SIGKILL))
        timer.start()
        assert reason(decoder, film) == "decoder_crashed"
        timer.join()
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


def test_a_child_killed_between_files_is_replaced(film: Path) -> None:
    before = children()
    with Decoder() as decoder:
        decoder.convert(film, OPTIONS)
        (child,) = children() - before
        os.kill(child, signal.SIGKILL)
        psutil.Process(child).wait(10)
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_of_a_terminal_are_for_the_parent(film: Path, number: int) -> None:
    before = children()
    with Decoder() as decoder:
        decoder.convert(film, OPTIONS)
        (child,) = children() - before
        os.kill(child, number)
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)
        assert children() - before == {child}


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_child_dies_with_its_parent(film: Path) -> None:
    code = (
        "import os, signal, sys, psutil\n"
        "from pathlib import Path\n"
        "from imitate.prep.pixels.decoder import Decoder\n"
        "from imitate.prep.pixels.png import PixelOptions\n"
        "decoder = Decoder()\n"
        "decoder.convert(Path(sys.argv[1]), PixelOptions())\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(film)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    child, deadline = int(done.stdout), time.monotonic() + 30
    while not is_gone(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(child)


def test_the_child_loads_neither_torch_nor_spacy(film: Path) -> None:
    before = children()
    with Decoder() as decoder:
        decoder.convert(film, OPTIONS)
        (child,) = children() - before
        maps = Path(f"/proc/{child}/maps").read_text()
        files = {Path(line.split()[-1]).name for line in maps.splitlines() if ".so" in line}
    assert any(name.startswith("cv2") for name in files)
    assert not [name for name in files if "torch" in name or "arrow" in name or "spacy" in name]


def test_limits_that_cannot_be_are_usage_errors(film: Path) -> None:
    for wrong in ({"memory": 100 << 20}, {"timeout": 0.0}):
        with pytest.raises(UsageError):
            Decoder(**wrong)  # type: ignore[arg-type]
    with Decoder(memory=384 << 20) as decoder:
        assert decoder.convert(film, OPTIONS) == convert(film, OPTIONS)


def test_it_works_in_the_workers_of_dask(film: Path) -> None:
    def facts(path: str) -> str:
        import dataclasses
        import json
        from pathlib import Path

        from imitate.prep.pixels.decoder import Decoder
        from imitate.prep.pixels.png import PixelOptions

        with Decoder() as decoder:
            picture = decoder.convert(Path(path), PixelOptions(size=64))
        return json.dumps(dataclasses.asdict(dataclasses.replace(picture, png=b"")), default=str)

    found = list(run_tasks(facts, [str(film)] * 4, workers=2))
    picture = convert(film, OPTIONS)
    assert [json.loads(line)["png_blake3"] for line in found] == [picture.png_blake3] * 4
