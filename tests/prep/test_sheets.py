"""The report of a prepared set: what it counts, what it shows, and what it keeps to itself."""

import base64
import itertools
import re
import shlex
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.contract import InputError, Reject, UsageError
from imitate.files import read_json, read_rows, write_json, write_table
from imitate.page import Fold, Page, Prose, Sheet, Table, Tile
from imitate.prep.commands import app
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.phantoms.rsna import write_rsna
from imitate.prep.pixels.decoder import Decoder
from imitate.prep.pixels.glance import glance_at
from imitate.prep.sheets.composition import label_counts
from imitate.prep.sheets.funnel import lead
from imitate.prep.sheets.prepared import PreparedSet, draw
from imitate.prep.sheets.report import command_of, report_page, write_report
from imitate.prep.sheets.texts import histogram, normal
from imitate.prep.sheets.twins import ALIKE, BITS, near_pairs, picture_hash
from imitate.schema import MANIFEST, REJECTS


def prepare(*arguments: object) -> None:
    app([str(argument) for argument in (*arguments, "--quiet")], standalone_mode=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "mimic-cxr"
    write_mimic(folder, studies=90, seed=5, size=64)
    return folder


@pytest.fixture(scope="module")
def prepared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    prepare("mimic", archive, "--root", root, "--size", 48, "--name", "phantom-mimic")
    return root / "data" / "prepared" / "phantom-mimic"


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxed")
    write_rsna(root / "rsna", patients=30, seed=2, size=64)
    prepare("rsna", root / "rsna", "--root", root, "--size", 64, "--name", "boxed")
    return root / "data" / "prepared" / "boxed"


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as child:
        yield child


@pytest.fixture(scope="module")
def whole(prepared: Path, decoder: Decoder) -> Page:
    return report_page(PreparedSet.open(prepared), decoder, shareable=False)


def tiles_of(page: Page, title: str) -> list[Tile]:
    blocks = [block for section in page.sections for block in section.blocks]
    sheets = [b for b in blocks if isinstance(b, Sheet) and b.title.startswith(title)]
    return [tile for sheet in sheets for tile in sheet.tiles]


def section_of(page: Page, title: str) -> list[Any]:
    return [block for s in page.sections if s.title == title for block in s.blocks]


def pixels_of(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_prep_writes_the_report_and_the_command_writes_the_same(
    prepared: Path, decoder: Decoder, tmp_path: Path
) -> None:
    path = prepared / "report.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_report(prepared, decoder, out=tmp_path / "again.html") == tmp_path / "again.html"
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()
    assert stat.S_IMODE((tmp_path / "again.html").stat().st_mode) == 0o600


def test_a_set_killed_before_its_report_gets_one(archive: Path, prepared: Path) -> None:
    before = (prepared / "report.html").read_bytes()
    (prepared / "report.html").unlink()
    root = prepared.parents[2]
    prepare("mimic", archive, "--root", root, "--size", 48, "--name", "phantom-mimic")
    assert (prepared / "report.html").read_bytes() == before


def test_the_funnel_counts_what_the_tables_hold(prepared: Path, whole: Page) -> None:
    manifest = read_rows(prepared / "manifest.parquet", MANIFEST, ["key", "study_id"])
    rejects = read_rows(prepared / "rejects.parquet", REJECTS)
    table, *folds = section_of(whole, "Left out")
    assert isinstance(table, Table)
    assert {row[0]: row[3] for row in table.rows} == Counter(row["reason"] for row in rejects)
    assert table.rows[-1][4] == len(manifest)
    numbers = dict(whole.headline)
    assert numbers["listed"] == len(manifest) + len(rejects)
    assert numbers["prepared"] == len(manifest)
    assert numbers["studies"] == len({row["study_id"] for row in manifest})
    named = {(row["reason"], row["source"]) for row in rejects}
    assert len(folds) == len(table.rows)
    for fold in folds:
        assert isinstance(fold, Fold)
        inner = fold.blocks[0]
        assert isinstance(inner, Table)
        assert inner.rows
        reason = fold.summary.split()[2].rstrip(":")
        assert {(reason, row[0]) for row in inner.rows} <= named


def test_rows_that_went_missing_are_said_at_the_top(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    rejects = read_rows(prepared / "rejects.parquet", REJECTS)
    write_table(tmp_path / "set" / "rejects.parquet", REJECTS, rejects[1:])
    lost = PreparedSet.open(tmp_path / "set")
    assert lead(lost)[-1].tone == "fault"
    assert lead(PreparedSet.open(prepared))[-1].tone == "note"


def test_films_are_shown_as_stored_and_as_prepared(whole: Page) -> None:
    tiles = [*tiles_of(whole, "AP"), *tiles_of(whole, "PA"), *tiles_of(whole, "Inverted")]
    assert tiles
    signs: dict[bool, list[float]] = {True: [], False: []}
    for tile in tiles:
        before, after = (pixels_of(uri).astype(float) for _, uri in tile.pictures)
        side = max(before.shape)
        fitted = np.full((side, side), np.nan)
        top, left = ((side - length) // 2 for length in before.shape)
        fitted[top : top + before.shape[0], left : left + before.shape[1]] = before
        large = cv2.resize(after, (side, side))
        known = ~np.isnan(fitted)
        signs[bool(tile.tags)].append(np.corrcoef(fitted[known], large[known])[0, 1])
    assert max(signs[True]) < 0 < min(signs[False])


def test_films_left_out_are_shown_with_their_reason(prepared: Path, whole: Page) -> None:
    rejects = read_rows(prepared / "rejects.parquet", REJECTS)
    reasons = {row["image_id"]: row["reason"] for row in rejects}
    tiles = tiles_of(whole, "Left out")
    assert {"view_not_selected", "blank_picture"} <= {tile.tags[0] for tile in tiles}
    for tile in tiles:
        assert reasons[tile.caption[0]] == tile.tags[0]
        blank = np.ptp(pixels_of(tile.pictures[0][1])) < 8
        assert blank == (tile.tags[0] == "blank_picture")


def test_an_archive_that_is_gone_leaves_the_prepared_films(
    prepared: Path, decoder: Decoder, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    card = read_json(prepared / "card.json")
    card["run"]["archive"] = [str(tmp_path / "elsewhere")]
    write_json(tmp_path / "set" / "card.json", card)
    page = report_page(PreparedSet.open(tmp_path / "set"), decoder, shareable=False)
    assert all(len(tile.pictures) == 1 for tile in tiles_of(page, "AP"))
    assert tiles_of(page, "AP")
    assert not tiles_of(page, "Left out")
    first = section_of(page, "Films")[0]
    assert isinstance(first, Prose)
    assert "could not be read" in first.text


def test_boxes_are_drawn_where_they_are(boxed: Path, decoder: Decoder) -> None:
    rows = {row["key"]: row for row in read_rows(boxed / "manifest.parquet", MANIFEST)}
    tiles = tiles_of(report_page(PreparedSet.open(boxed), decoder, shareable=False), "Boxes")
    assert tiles
    for tile in tiles:
        pixels = pixels_of(tile.pictures[0][1]).astype(int)
        coloured = np.ptp(pixels, axis=2) > 60
        ys, xs = np.nonzero(coloured)
        boxes = rows[tile.caption[0]]["boxes"]
        assert abs(xs.min() - min(box["x"] for box in boxes)) <= 2
        assert abs(ys.max() - max(box["y"] + box["h"] for box in boxes)) <= 2


def test_a_shareable_report_holds_no_picture_text_or_id(
    prepared: Path, decoder: Decoder, tmp_path: Path
) -> None:
    path = write_report(prepared, decoder, out=tmp_path / "share.html", shareable=True)
    html = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) != 0o600
    assert "data:image" not in html
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    rejects = read_rows(prepared / "rejects.parquet", REJECTS)
    for row in rows:
        for name in ("key", "subject_id", "study_id", "image_id", "source", "findings"):
            assert not row[name] or row[name] not in html, name
        assert len(row["impression"]) < 20 or row["impression"].lower() not in html.lower()
    assert not [r for r in rejects if r["source"] in html or (r["image_id"] or "—") in html]
    small = re.findall(r'<td class="n">([1-9])</td>|<dd>([1-9])</dd>', html)
    assert not small
    assert "&lt;10" in html
    assert "RESTRICTED" in html


def test_the_command_of_a_page_makes_the_set_again(
    archive: Path, tmp_path: Path, prepared: Path
) -> None:
    options = ["--size", 40, "--keep-image-only", "--views", "AP,LL", "--sections", "both"]
    prepare("mimic", archive, "--root", tmp_path / "one", *options)
    card = read_json(tmp_path / "one" / "data" / "prepared" / "mimic" / "card.json")
    words = shlex.split(command_of(card))
    assert words[:4] == ["imitate", "prep", "mimic", "SRC"]
    prepare("mimic", archive, *words[4:], "--root", tmp_path / "two")
    again = read_json(tmp_path / "two" / "data" / "prepared" / "mimic" / "card.json")
    assert again["files"] == card["files"]
    assert again["options"] == card["options"]
    assert command_of(read_json(prepared / "card.json")).endswith("--size 48 --norm mimic")


def test_the_command_of_a_table_names_its_columns_and_dataset(boxed: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "Path,label_A\n"
        + "".join(
            f"{path.relative_to(boxed)},{number % 2}\n"
            for number, path in enumerate(sorted(boxed.rglob("*.png"))[:10])
        )
    )
    prepare(
        *("table", tmp_path / "t.csv", "--map", "image=Path", "--images", boxed),
        *("--dataset", "mine", "--root", tmp_path, "--keep-image-only"),
    )
    card = read_json(tmp_path / "data" / "prepared" / "mine" / "card.json")
    words = shlex.split(command_of(card))
    assert words[:4] == ["imitate", "prep", "table", "TABLE"]
    assert {"--map image=Path", "--dataset mine"} <= {
        " ".join(pair) for pair in itertools.pairwise(words)
    }


def test_what_is_no_finished_set_is_named(tmp_path: Path, decoder: Decoder) -> None:
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "none", decoder)
    with pytest.raises(UsageError, match="neither a finished prepared set nor a run"):
        write_report(tmp_path, decoder)


def test_labels_are_counted_as_a_plain_loop_does(prepared: Path) -> None:
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    naive = Counter(
        (label, row["split"], value) for row in rows for label, value in row["labels"].items()
    )
    manifest = PreparedSet.open(prepared).manifest
    assert label_counts(manifest, "labels") == naive
    halves = pa.concat_tables([manifest.slice(0, 11), manifest.slice(11)])
    assert label_counts(halves, "labels") == naive


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_a_histogram_keeps_every_value(values: list[int]) -> None:
    drawn = histogram(np.array(values), title="t", unit="u")
    assert sum(drawn.counts) == len(values)
    assert len(drawn.counts) == len(drawn.labels) <= 25
    width = int(drawn.labels[0].split("–")[-1]) + 1 if "–" in drawn.labels[0] else 1
    assert drawn.counts[0] == sum(v < width for v in values) or len(drawn.counts) == 1


def test_texts_are_alike_but_for_case_blanks_and_marks() -> None:
    texts = ["The  XXXX is\nclear.", "the ___ is clear. ", "The heart is clear."]
    one, other, third = normal(pa.chunked_array([texts])).to_pylist()
    assert one == other == "the _ is clear."
    assert third == "the heart is clear."


@given(st.integers(0, 40), st.integers(0, 50), st.text("0123456789abcdef", min_size=8, max_size=64))
def test_a_draw_is_a_function_of_rows_and_seed(number: int, rows: int, seed: str) -> None:
    places = np.arange(rows) * 3
    chosen = draw(places, number, seed=seed)
    assert chosen.tolist() == draw(places, number, seed=seed).tolist()
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == min(number, rows)
    assert set(chosen.tolist()) <= set(places.tolist())


def test_near_pairs_are_those_of_a_plain_double_loop() -> None:
    rng = np.random.default_rng(0)
    films = [cv2.resize(rng.integers(0, 255, (6, 6), np.uint8), (90, 80)) for _ in range(8)]
    films += [cv2.resize(films[0], (60, 60)), films[1].copy()]
    hashed = [picture_hash(film) for film in films]
    hashes, pictures = np.array([h for h, _ in hashed], np.uint64), np.array([p for _, p in hashed])
    naive = [
        (i, j)
        for i in range(len(films))
        for j in range(i + 1, len(films))
        if (hashed[i][0] ^ hashed[j][0]).bit_count() <= BITS
        and float(hashed[i][1] @ hashed[j][1]) >= ALIKE
    ]
    assert near_pairs(hashes, pictures) == naive
    assert {(0, 8), (1, 9)} <= set(naive)


def test_equal_films_in_two_splits_are_pointed_out(
    prepared: Path, decoder: Decoder, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    rows = read_rows(prepared / "manifest.parquet", MANIFEST)
    one = next(row for row in rows if row["split"] == "train")
    rows.append({**one, "key": "zz-copy", "split": "test"})
    write_table(tmp_path / "set" / "manifest.parquet", MANIFEST, rows)
    page = report_page(PreparedSet.open(tmp_path / "set"), decoder, shareable=False)
    first = section_of(page, "Films more than once")[0]
    assert first.counts == (2, 1)
    tile = next(t for t in tiles_of(page, "Nearly equal") if "zz-copy" in t.caption[0])
    assert {"equal to the pixel", "one study", "two splits"} == set(tile.tags)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_cannot_be_decoded_is_no_glance(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(Reject):
        glance_at(tmp_path / "x.png", 32)


@pytest.mark.real
def test_real_films_that_are_there_twice_are_found(shared_data: Path) -> None:
    folder = shared_data / "openi" / "images"
    names = sorted(path.name for path in folder.glob("10*.jpg"))
    hashed = [picture_hash(cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE)) for name in names]
    hashes, pictures = np.array([h for h, _ in hashed], np.uint64), np.array([p for _, p in hashed])
    pairs = [(names[one], names[other]) for one, other in near_pairs(hashes, pictures)]
    assert pairs == [
        ("1015_IM-0001-1001.dcm.jpg", "1015_IM-0013-1001.dcm.jpg"),
        ("1015_IM-0001-2001.dcm.jpg", "1015_IM-0013-2001.dcm.jpg"),
    ]
