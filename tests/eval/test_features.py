"""Features are computed once, survive a stop, and are computed again when the file is damaged."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imitate.contract import Folders, InputError, Stopped
from imitate.eval.encoders.crew import Crew
from imitate.eval.encoders.features import Extraction, Features, cached, extract, to_bytes
from imitate.shards.manifest import ShardSet
from imitate.shards.reader import ShardReader
from imitate.train.distribution.ranks import Ranks
from imitate.work import Interrupts

INPUTS = {"encoder": "means"}
ROWS = np.arange(150)


class Means:
    """A forward pass: mean and deviation of each picture; counts the pictures it saw."""

    def __init__(self, interrupts: Interrupts | None = None, *, stop_after: int = 10**9) -> None:
        self.seen, self.interrupts, self.stop_after = 0, interrupts, stop_after

    def __call__(self, image_BHW: np.ndarray) -> np.ndarray:
        self.seen += len(image_BHW)
        if self.interrupts and self.seen >= self.stop_after:
            self.interrupts.signal = 2
        x_BHW = image_BHW.astype(np.float32)
        return np.stack([x_BHW.mean(axis=(1, 2)), x_BHW.std(axis=(1, 2))], axis=1)


@pytest.fixture
def reader(built: Path) -> ShardReader:
    return ShardReader(ShardSet.open(Folders(built).shards("phantom-rsna")))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imitate.eval.encoders.features.BATCH", 8)
    monkeypatch.setattr("imitate.eval.encoders.features.CHUNK", 32)


def together(count: int) -> list[Crew]:
    """Crews of ranks that are threads here, and leave each other texts in a dictionary."""
    board: dict[str, str] = {}
    changed = threading.Condition()

    def post(name: str, text: str) -> None:
        with changed:
            board[name] = text
            changed.notify_all()

    def read(name: str) -> str:
        with changed:
            changed.wait_for(lambda: name in board)
            return board[name]

    return [Crew(Ranks(rank=rank, count=count, post=post, read=read)) for rank in range(count)]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_ranks_share_the_pictures_and_have_the_same_file(
    reader: ShardReader, tmp_path: Path, count: int
) -> None:
    alone = extract(work(reader, Means()), ROWS, path=tmp_path / "alone.npy", inputs=INPUTS)
    forwards = [Means() for _ in range(count)]
    works = [
        replace(work(reader, forward), crew=crew)
        for forward, crew in zip(forwards, together(count), strict=True)
    ]

    def extracted(each: Extraction) -> Features:
        return extract(each, ROWS, path=tmp_path / "shared.npy", inputs=INPUTS)

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(extracted, works))
    assert all(np.array_equal(each.values, alone.values) for each in found)
    assert (tmp_path / "shared.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
    # each picture is seen once, by one rank; five chunks keep no more than five ranks busy
    assert sum(forward.seen for forward in forwards) == len(ROWS)
    assert sum(forward.seen > 0 for forward in forwards) == min(count, 5)
    assert not list(tmp_path.glob(".parts*"))


def work(reader: ShardReader, forward: Means, interrupts: Interrupts | None = None) -> Extraction:
    return Extraction(
        reader=reader,
        forward=forward,
        workers=2,
        progress="none",
        interrupts=interrupts or Interrupts(),
    )


def test_features_are_those_of_each_picture(reader: ShardReader, tmp_path: Path) -> None:
    found = extract(work(reader, Means()), ROWS, path=tmp_path / "x.npy", inputs=INPUTS)
    assert found.values == pytest.approx(Means()(reader.images(ROWS)))
    assert found.damaged == frozenset()
    again = cached(tmp_path / "x.npy", ROWS, INPUTS)
    assert again is not None and (again.values == found.values).all()


def test_stopped_work_goes_on_where_it_was_with_the_same_bytes(
    reader: ShardReader, tmp_path: Path
) -> None:
    extract(work(reader, Means()), ROWS, path=tmp_path / "whole.npy", inputs=INPUTS)
    path, interrupts = tmp_path / "x.npy", Interrupts()
    with pytest.raises(Stopped):
        forward = Means(interrupts, stop_after=64)
        extract(work(reader, forward, interrupts), ROWS, path=path, inputs=INPUTS)
    rest = Means()
    extract(work(reader, rest), ROWS, path=path, inputs=INPUTS)
    assert rest.seen == len(ROWS) - 64
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not list(tmp_path.glob(".parts*"))


def test_parts_of_another_encoder_are_not_taken(reader: ShardReader, tmp_path: Path) -> None:
    path, interrupts = tmp_path / "x.npy", Interrupts()
    with pytest.raises(Stopped):
        forward = Means(interrupts, stop_after=64)
        extract(work(reader, forward, interrupts), ROWS, path=path, inputs=INPUTS)
    rest = Means()
    extract(work(reader, rest), ROWS, path=path, inputs={"encoder": "another"})
    assert rest.seen == len(ROWS)


def test_a_damaged_or_foreign_file_is_not_taken(reader: ShardReader, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    assert cached(path, ROWS, INPUTS) is None
    extract(work(reader, Means()), ROWS, path=path, inputs=INPUTS)
    assert cached(path, ROWS, {"encoder": "another"}) is None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert cached(path, ROWS, INPUTS) is None


def test_numbers_that_are_none_are_an_error(reader: ShardReader, tmp_path: Path) -> None:
    class Broken(Means):
        def __call__(self, image_BHW: np.ndarray) -> np.ndarray:
            return np.full((len(image_BHW), 2), np.nan)

    with pytest.raises(InputError, match="finite"):
        extract(work(reader, Broken()), ROWS, path=tmp_path / "x.npy", inputs=INPUTS)


def test_sixteen_bits_are_read_by_their_upper_half() -> None:
    deep = np.array([[[0, 255, 256, 65_535]]], dtype=np.uint16)
    assert to_bytes(deep).tolist() == [[[0, 0, 1, 255]]]
