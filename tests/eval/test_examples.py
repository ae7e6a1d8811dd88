"""Retrieval examples in the report: what was asked and found, from the shards, and never shared."""

import html
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from imitate.cli import app
from imitate.contract import Folders
from imitate.eval.report.examples import DAMAGED, SHOWN
from imitate.eval.report.written import write_run_report
from imitate.eval.retrieval.ranking import DIRECTIONS
from imitate.eval.statistics.recompute import recompute
from imitate.files import read_rows, write_table
from imitate.schema import MANIFEST, RETRIEVALS
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards

SET = "phantom-openi"
HOSTILE = "<script>alert('Doe')</script> & <b>normal</b>"
WORDS = ("Finding 0.", "finding 0", HOSTILE, *(f"Finding {n}." for n in range(1, 7)))
Row = dict[str, Any]


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory,
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
) -> Path:
    root = make_set(tmp_path_factory.mktemp("asked"), SET, n=60, dataset="openi", labels={})
    path = Folders(root).prepared(SET) / "manifest.parquet"
    rows = read_rows(path, MANIFEST)
    texts = (WORDS[place % len(WORDS)] for place in range(len(rows)))
    write_table(
        path, MANIFEST, [r | {"impression": text} for r, text in zip(rows, texts, strict=True)]
    )
    write_shards(root, SET, ShardOptions(samples=20))
    make_run(root)
    words = ["eval", SET, "--root", str(root), "--task", "retrieve", "--quiet"]
    result = CliRunner().invoke(app, words)
    assert result.exception is None
    return root


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Folders(Path(shutil.copytree(evaluated, tmp_path / "root"))).run("run")


def kept(run: Path, direction: str) -> list[Row]:
    """What the encoder found in one direction, from the best query to the worst."""
    rows = read_rows(run / "eval" / SET / "retrievals.parquet", RETRIEVALS)
    own = [r for r in rows if (r["direction"], r["encoder"]) == (direction, "run")]
    return sorted(own, key=lambda row: (row["above"] + row["level"] / 2, row["key"]))


def impressions(run: Path) -> dict[str, str]:
    path = Folders(run.parents[1]).prepared(SET) / "manifest.parquet"
    return {row["key"]: row["impression"] for row in read_rows(path, MANIFEST)}


def shown(run: Path) -> dict[str, list[str]]:
    """The examples of each direction as they stand in the page, one HTML text an example."""
    page = write_run_report(run).read_text().split("</section>")
    (section,) = (part for part in page if "<h3>retrieve" in part)
    parts = re.split(r"<h3>retrieve, ", section)[1:]
    return {name: [part for part in parts if part.startswith(name)] for name in DIRECTIONS}


def chosen(rows: Sequence[Row]) -> list[Row]:
    assert SHOWN == 3
    return [rows[0], rows[round((len(rows) - 1) / 2)], rows[-1]]


def likeness(own: str, text: str) -> str:
    """By hand for these texts: the first two differ in case and punctuation alone."""
    if text == own:
        return "own text"
    return "same text" if {own, text} == set(WORDS[:2]) else "another"


def test_films_that_ask_stand_beside_the_impressions_they_found(run: Path) -> None:
    rows, texts = kept(run, "image-to-text"), impressions(run)
    examples = shown(run)["image-to-text"]
    for row, example in zip(chosen(rows), examples, strict=True):
        nearer = f"image-to-text: {row['above']} of {len(rows)} Impressions are nearer"
        assert example.startswith(nearer) and f"<div>{row['key']}</div>" in example
        own = texts[row["key"]]
        assert f"<p>Its own Impression: {html.escape(own, quote=False)}</p>" in plain(example)
        assert example.count("data:image/jpeg") == 1
        found = re.findall(r"<tr><td>(\d)</td>\s*<td>([^<]*)</td>\s*<td>([^<]*)</td>", example)
        near = [texts[key] for key in row["nearest"]]
        assert [(int(place), mark, html.unescape(text)) for place, mark, text in found] == [
            (place, likeness(own, text), text) for place, text in enumerate(near, start=1)
        ]
        assert len(set(near)) == 5


def plain(text: str) -> str:
    return text.replace("&#39;", "'")


def test_impressions_that_ask_stand_above_the_films_they_found(run: Path) -> None:
    rows, texts = kept(run, "text-to-image"), impressions(run)
    examples = shown(run)["text-to-image"]
    marks = []
    for row, example in zip(chosen(rows), examples, strict=True):
        assert example.startswith(f"text-to-image: {row['above']} of {len(rows)} films are nearer")
        own = texts[row["key"]]
        told = f"<p>The Impression of {row['key']}: {html.escape(own, quote=False)}</p>"
        assert told in plain(example)
        tiles = re.findall(r'<div>(film-\d+)</div>\s*<span class="tag">([^<]*)</span>', example)
        assert [key for key, _ in tiles] == row["nearest"]
        assert example.count("data:image/jpeg") == 5
        for key, mark in tiles:
            assert mark == ("own film" if key == row["key"] else likeness(own, texts[key]))
        marks += [mark for _, mark in tiles]
    assert "own film" in marks and "another" in marks


def test_texts_are_escaped(run: Path) -> None:
    path = run / "eval" / SET / "retrievals.parquet"
    rows = read_rows(path, RETRIEVALS)
    hostile = next(key for key, text in impressions(run).items() if text == HOSTILE)
    write_table(path, RETRIEVALS, [row | {"nearest": [hostile]} for row in rows])
    page = write_run_report(run).read_text()
    assert "<script" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(" in page and "&lt;b&gt;normal" in page


def test_a_page_to_be_shared_has_no_example(run: Path) -> None:
    page = write_run_report(run, shareable=True).read_text()
    assert "<img" not in page and "Impression" not in page and "Finding" not in page
    assert not re.search(r"film-\d", page)


def test_without_the_shards_there_is_no_example_and_that_is_said(run: Path) -> None:
    shutil.rmtree(Folders(run.parents[1]).shards(SET))
    page = write_run_report(run).read_text()
    assert "no retrieval examples" in page and "<img" not in page and "Finding" not in page


def spoil(run: Path, key: str, member: str) -> None:
    """Flip a byte of a picture or text in its shard."""
    shards = ShardSet.open(Folders(run.parents[1]).shards(SET))
    place = list(shards.column("key")).index(key)
    file = shards.folder / "shards" / shards.column("shard")[place]
    inside = int(shards.column("offset")[place]) + int(shards.column(f"{member}_off")[place])
    data = bytearray(file.read_bytes())
    data[inside + 20] ^= 0xFF
    file.write_bytes(data)


def test_a_damaged_picture_is_named_and_the_others_are_shown(run: Path) -> None:
    row = kept(run, "text-to-image")[0]
    spoil(run, row["nearest"][1], "png")
    example = shown(run)["text-to-image"][0]
    assert example.count("data:image/jpeg") == 4
    assert re.search(rf"<div>{row['nearest'][1]}</div>\s*<div>{DAMAGED}</div>", example)
    assert example.count(DAMAGED) == 1


def test_a_damaged_text_is_named_and_likens_nothing(run: Path) -> None:
    row = kept(run, "image-to-text")[0]
    spoil(run, row["nearest"][2], "json")
    example = shown(run)["image-to-text"][0]
    assert re.search(rf"<td>3</td>\s*<td>not known</td>\s*<td>{DAMAGED}</td>", example)
    assert example.count("not known") == 1


def test_numbers_follow_without_what_is_shown(run: Path) -> None:
    path = run / "eval" / SET / "retrievals.parquet"
    before = recompute(run)
    assert before.differences == () and before.numbers > 50
    rows = read_rows(path, RETRIEVALS)
    write_table(path, RETRIEVALS, [row | {"nearest": []} for row in rows])
    assert recompute(run) == before
