"""Retrieval: ranks against naive loops, what is looked for in each set, and what is kept."""

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from imitate.contract import Folders, UsageError
from imitate.eval.commands import register
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.results.papers import gather, to_csv
from imitate.eval.retrieval.queries import read_queries
from imitate.eval.retrieval.ranking import CHUNK, DIRECTIONS, PLACES, Collection
from imitate.eval.retrieval.ranks import MEASURES, Ranks, retrieval_rows
from imitate.eval.run import Evaluation
from imitate.eval.statistics.recompute import recompute
from imitate.eval.statistics.written import write_statistics
from imitate.eval.tasks.retrieve import Retrieve
from imitate.eval.tasks.task import EvalOptions
from imitate.eval.testset import TestSet, open_testset
from imitate.files import read_json, read_rows, write_table
from imitate.prep.commands import app
from imitate.prep.phantoms.chexpert import write_chexpert
from imitate.schema import MANIFEST, RETRIEVALS
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards
from imitate.train.validation.retrieval import recalls
from imitate.work import Interrupts

Make = Callable[..., Path]
Row = dict[str, Any]
SET = "phantom-rsna"


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def collection(seed: int, *, films: int = 24, texts: int = 9, coarse: bool = False) -> Collection:
    """Films with few texts, of which two count as the same; coarse embeddings have many ties."""
    rng = np.random.default_rng(seed)
    if coarse:
        image, text = np.eye(4)[rng.integers(0, 4, films)], np.eye(4)[rng.integers(0, 4, texts)]
    else:
        image, text = unit(rng.normal(size=(films, 6))), unit(rng.normal(size=(texts, 6)))
    row = rng.integers(0, texts, films)
    return Collection(
        images=image,
        texts=text,
        text=row,
        same=np.maximum(row, 1),
        finding=rng.integers(0, 3, films),
    )


def rows_of(told: Collection) -> list[Row]:
    return [
        row | {"key": f"k{row['film']:04d}", "subject_id": f"s{row['film'] // 2}"}
        for row in told.rankings()
    ]


def shuffled(told: Collection, direction: str, film: int, rng: random.Random) -> list[int]:
    """One order in which a query may find the films, those as near as another by chance."""
    text = told.text
    towards_text = direction == DIRECTIONS[0]
    scores = [
        float(
            told.images[film] @ told.texts[text[i]]
            if towards_text
            else told.texts[text[film]] @ told.images[i]
        )
        for i in range(len(text))
    ]
    return sorted(range(len(text)), key=lambda i: (-round(scores[i], 9), rng.random()))


@pytest.mark.parametrize("coarse", [False, True])
def test_ranks_are_those_of_orders_drawn_at_random(*, coarse: bool) -> None:
    told, rng = collection(5, coarse=coarse), random.Random(0)
    assert told.finding is not None
    draws, films = (400, range(0, 24, 5)) if coarse else (1, range(24))
    rows = {(row["film"], row["direction"]): row for row in told.rankings()}
    for film in films:
        for direction in DIRECTIONS:
            row = rows[film, direction]
            same = {i for i in range(24) if told.same[i] == told.same[film]}
            alike = {i for i in range(24) if told.finding[i] == told.finding[film]}
            orders = [shuffled(told, direction, film, rng) for _ in range(draws)]
            first = orders[0]
            if not coarse and direction == DIRECTIONS[1]:
                assert (row["above"], row["level"]) == (first.index(film), 1)
                assert row["before"] == min(first.index(i) for i in same)
            assert row["same"] == len(same)
            assert row["equal"] == int((told.text == told.text[film]).sum())
            slack = 0.1 if coarse else 1e-12
            for right, column in ((same, "same_share"), (alike, "finding_share")):
                for k, share in zip(PLACES, row[column], strict=True):
                    k = min(k, 24)
                    found = [len(right & set(order[:k])) / k for order in orders]
                    if coarse or direction == DIRECTIONS[1]:
                        assert share == pytest.approx(np.mean(found), abs=slack)
            chance = np.mean([film in order[:5] for order in orders])
            if coarse or direction == DIRECTIONS[1]:
                assert MEASURES["r@5"](row) == pytest.approx(chance, abs=slack)


@given(seed=st.integers(0, 99), coarse=st.booleans())
@settings(max_examples=15, deadline=None)
def test_recalls_are_those_of_the_validation_of_a_run(*, seed: int, coarse: bool) -> None:
    told = collection(seed, coarse=coarse)
    known = recalls(
        torch.from_numpy(told.images),
        torch.from_numpy(told.texts),
        text_N=torch.from_numpy(told.text),
        same_N=torch.from_numpy(told.same),
    )
    numbers = {(n["metric"], n["label"]): n["value"] for n in retrieval_rows(rows_of(told), seed=0)}
    for k in (1, 5, 10):
        for direction in DIRECTIONS:
            own = direction.replace("-", "_")
            assert numbers[f"r@{k}", direction] == pytest.approx(known[f"{own}/pair/r@{k}"])
            assert numbers[f"r@{k}-same", direction] == pytest.approx(known[f"{own}/same/r@{k}"])


def nearest_by_hand(told: Collection, direction: str, film: int) -> list[int]:
    """The first five in order; of equal texts, and of films as near, the first one first."""
    text = told.text.tolist()
    among, score = [], {}
    for i, own in enumerate(text):
        if direction == DIRECTIONS[1]:
            among.append(i)
            score[i] = sum(told.texts[text[film]] * told.images[i])
        elif own not in text[:i]:
            among.append(i)
            score[i] = sum(told.images[film] * told.texts[own])
    return sorted(among, key=lambda i: (-round(score[i], 9), i))[:5]


@given(
    seed=st.integers(0, 99),
    films=st.integers(1, 24),
    texts=st.integers(1, 9),
    coarse=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_nearest_are_the_first_of_distinct_candidates(
    *, seed: int, films: int, texts: int, coarse: bool
) -> None:
    told = collection(seed, films=films, texts=texts, coarse=coarse)
    for row in told.rankings():
        assert row["nearest"] == nearest_by_hand(told, row["direction"], row["film"])


def test_nearest_are_looked_for_among_all_chunks() -> None:
    told = collection(2, films=CHUNK + 40, texts=300)
    rows = [row for row in told.rankings() if row["film"] in (0, CHUNK - 1, CHUNK, CHUNK + 39)]
    assert len(rows) == 8 and max(max(row["nearest"]) for row in rows) >= CHUNK
    for row in rows:
        assert row["nearest"] == nearest_by_hand(told, row["direction"], row["film"])


def test_a_perfect_encoder_reaches_the_ceilings_and_no_more() -> None:
    row = np.repeat(np.arange(8), [1, 1, 1, 2, 2, 3, 5, 12])
    texts = np.eye(8)
    told = Collection(images=texts[row], texts=texts, text=row, same=row)
    numbers = {(n["metric"], n["label"]): n for n in retrieval_rows(rows_of(told), seed=0)}
    value = {place: n["value"] for place, n in numbers.items()}
    assert not any(metric in {f"p@{k}" for k in PLACES} for metric, _ in numbers)
    assert value["r@1-ceiling", "macro"] == pytest.approx(8 / len(row))
    for direction in DIRECTIONS:
        for k in (1, 5, 10):
            assert value[f"r@{k}", direction] == pytest.approx(value[f"r@{k}-ceiling", direction])
            assert value[f"r@{k}-same", direction] == 1
        for k in (5, 10):
            ceiling = np.mean([min(Counter(row.tolist())[i], k) / k for i in row])
            assert value[f"p@{k}-same-ceiling", direction] == pytest.approx(ceiling)
            assert value[f"p@{k}-same", direction] == pytest.approx(ceiling)
    assert numbers["r@1-ceiling", "macro"]["ci_method"] == "none"
    low, high = (numbers["r@1", "macro"][name] for name in ("ci_low", "ci_high"))
    assert low < value["r@1", "macro"] < high


@given(seed=st.integers(0, 99), coarse=st.booleans())
@settings(max_examples=10, deadline=None)
def test_no_number_exceeds_its_ceiling(*, seed: int, coarse: bool) -> None:
    told = collection(seed, coarse=coarse)
    numbers = {(n["metric"], n["label"]): n["value"] for n in retrieval_rows(rows_of(told), seed=0)}
    alike = Counter(told.text.tolist())
    for k in (1, 5, 10):
        ceiling = np.mean([min(k / alike[i], 1) for i in told.text.tolist()])
        for direction in DIRECTIONS:
            assert numbers[f"r@{k}-ceiling", direction] == pytest.approx(ceiling)
            assert numbers[f"r@{k}", direction] <= ceiling + 1e-9
            if k > 1:
                bound = numbers[f"p@{k}-same-ceiling", direction]
                assert numbers[f"p@{k}-same", direction] <= bound + 1e-9


def test_numbers_are_means_over_films_and_need_some_of_them() -> None:
    rows = rows_of(collection(3))
    numbers = {(n["metric"], n["label"]): n for n in retrieval_rows(rows, seed=0)}
    for metric in ("p@5", "r@1", "p@10-same"):
        both = []
        for direction in DIRECTIONS:
            own = [MEASURES[metric](row) for row in rows if row["direction"] == direction]
            both.append(sum(own) / len(own))
            assert numbers[metric, direction]["value"] == pytest.approx(both[-1])
        assert numbers[metric, "macro"]["value"] == pytest.approx(sum(both) / 2)
    assert (numbers["r@1", "macro"]["n"], numbers["r@1", "macro"]["n_subjects"]) == (24, 12)
    assert numbers["r@1", "macro"]["ci_method"] == "bootstrap-subjects-1000"
    assert [numbers["r@1", label]["n_pos"] for label in (*DIRECTIONS, "macro")] == [24, 24, None]
    few = [row for row in rows if row["film"] < 4]
    assert {n["value"] for n in retrieval_rows(few, seed=0)} == {None}


def test_evidence_has_the_numbers_and_intervals_of_the_results() -> None:
    rows = rows_of(collection(4))
    numbers = {(n["metric"], n["label"]): n for n in retrieval_rows(rows, seed=3)}
    ranks = Ranks.of(reversed(rows))
    value, spread = ranks.values(("r@5",)), ranks.spread(("r@5",), seed=3)
    for place, direction in enumerate(DIRECTIONS):
        known = numbers["r@5", direction]
        assert value[place, 0] == pytest.approx(known["value"])
        bounds = np.quantile(spread[:, place, 0], (0.025, 0.975))
        assert bounds == pytest.approx([known["ci_low"], known["ci_high"]])
    half = ranks.only(np.arange(24) < 12)
    assert half.keys == ranks.keys[:12] and half.counted.all()
    assert np.isnan(ranks.only(np.arange(24) < 4).values(("r@5",))).all()


def opened(root: Path, name: str) -> TestSet:
    return open_testset(ShardSet.open(Folders(root).shards(name)))


def evaluated(root: Path, name: str, source: OurModel) -> tuple[Path, dict[str, Any]]:
    tests, folder = opened(root, name), Folders(root).run("run") / "eval" / name
    options = EvalOptions(tasks=("retrieve",), progress="none")
    facts = {"archive": tests.archive, "phantom": True, "published": []}
    document = Evaluation(source, tests, folder, options).run(facts, Interrupts())
    write_statistics([folder], tests)
    return folder, document


def source_of(run: Path) -> OurModel:
    return OurModel(run / "model", name="run", seed=3, access="open")


def test_a_set_without_labels_is_retrieved_and_recomputed(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    texts = [f"Finding {n % 40}." for n in range(120)]
    root = make_set(tmp_path, "phantom-openi", n=120, dataset="openi", labels={})
    path = Folders(root).prepared("phantom-openi") / "manifest.parquet"
    rows = [
        row | {"impression": text}
        for row, text in zip(read_rows(path, MANIFEST), texts, strict=True)
    ]
    write_table(path, MANIFEST, rows)
    write_shards(root, "phantom-openi", ShardOptions(samples=40))
    folder, document = evaluated(root, "phantom-openi", source_of(make_run(root)))
    films = {r["key"]: r for r in rows if r["split"] == "test" and r["view"] == "PA"}
    kept = read_rows(folder / "retrievals.parquet", RETRIEVALS)
    assert {row["encoder"] for row in kept} == {"run", "random"}
    assert {row["key"] for row in kept} == films.keys() and len(kept) == 4 * len(films)
    alike = Counter(film["impression"] for film in films.values())
    assert all(row["same"] == alike[films[row["key"]]["impression"]] for row in kept)
    for row in kept:
        assert len(set(row["nearest"])) == len(row["nearest"]) == 5
        found = {films[key]["impression"] for key in row["nearest"]}
        assert row["direction"] == DIRECTIONS[1] or len(found) == 5
    facts = document["cells"][0]
    assert (facts["of"], facts["films"], facts["texts"]) == ("test", len(films), len(alike))
    assert not any(row["metric"] in {"p@5", "p@10", "p@100"} for row in document["rows"])
    (control,) = [
        row for row in read_json(folder / "statistics.json")["comparisons"] if row["p"] is not None
    ]
    assert control["metric"] == "r@5" and control["encoder"] == "run"
    told = recompute(folder)
    assert told.differences == () and told.left_out == ()
    assert told.numbers >= len(document["rows"])
    kept[0]["above"] += 30
    write_table(folder / "retrievals.parquet", RETRIEVALS, kept)
    assert any("retrieve" in line for line in recompute(folder).differences)


def test_a_table_as_papers_print_it_names_the_direction(built: Path, tmp_path: Path) -> None:
    folder = built / "runs" / "run"
    _, document = evaluated_copy(built, tmp_path, source_of(folder))
    table, columns = gather([document], "retrieve")
    assert [column.metric for column in columns][:1] == ["r@1 image-to-text"]
    known = {
        (r["metric"], r["label"]): r["value"] for r in document["rows"] if r["encoder"] == "run"
    }
    line = next(x for x in to_csv(table, columns).splitlines() if "r@5 image-to-text" in x)
    assert float(line.split(",")[6]) == pytest.approx(known["r@5", "image-to-text"])


def evaluated_copy(built: Path, root: Path, source: OurModel) -> tuple[Path, dict[str, Any]]:
    shards = Folders(root).shards(SET)
    shards.parent.mkdir(parents=True)
    shards.symlink_to(Folders(built).shards(SET))
    return evaluated(root, SET, source)


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chexpert")
    write_chexpert(root / "source" / "CheXpert-v1.0", patients=60, seed=3, size=48)
    words = ["chexpert", root / "source", "--root", root, "--name", "phantom-chexpert"]
    more = ["--size", 32, "--quiet", "--keep-image-only"]
    app([str(word) for word in (*words, *more)], standalone_mode=False)
    write_shards(root, "phantom-chexpert", ShardOptions(samples=60))
    return root


def test_chexpert_is_retrieved_in_its_films_of_one_finding(chexpert: Path, make_run: Make) -> None:
    run = make_run(chexpert, trained_on={"name": "elsewhere", "digest": "0"})
    folder, document = evaluated(chexpert, "phantom-chexpert", source_of(run))
    path = Folders(chexpert).prepared("phantom-chexpert") / "manifest.parquet"
    marked = {
        row["key"]: told["5x200"]
        for row in read_rows(path, MANIFEST)
        if "5x200" in (told := dict(row["metadata"])) and row["impression"]
    }
    kept = read_rows(folder / "retrievals.parquet", RETRIEVALS)
    assert {row["key"]: row["finding"] for row in kept} == marked
    assert document["cells"][0]["of"] == "5x200"
    assert document["cells"][0]["findings"] == dict(Counter(sorted(marked.values())))
    value = {
        (r["metric"], r["label"]): r["value"] for r in document["rows"] if r["encoder"] == "run"
    }
    count = Counter(marked.values())
    everything = sum(n * n for n in count.values()) / len(marked) ** 2
    assert value["p@100", "image-to-text"] == pytest.approx(everything)  # fewer than 100 films
    assert not math.isnan(value["p@5", "image-to-text"])
    assert recompute(folder).differences == ()


def invoked(root: Path, *words: object) -> Any:
    commands = typer.Typer()
    register(commands)
    return CliRunner().invoke(commands, ["phantom-chexpert", "--root", str(root), *map(str, words)])


def test_a_run_trained_on_films_of_5x200_is_not_retrieved_there(
    chexpert: Path, make_run: Make
) -> None:
    digest = ShardSet.open(Folders(chexpert).shards("phantom-chexpert")).digest
    make_run(chexpert, "leaking", trained_on={"name": "phantom-chexpert", "digest": digest})
    words = ["--run", "leaking", "--no-control", "--task", "retrieve"]
    alone = invoked(chexpert, *words)
    assert isinstance(alone.exception, UsageError) and "overlap" in str(alone.exception)
    both = invoked(chexpert, *words, "--task", "zeroshot", "--json")
    assert both.exception is None and "no retrieval in 5x200" in both.stderr
    assert '"task":"retrieve"' not in both.stdout.replace(" ", "")


def test_sets_and_encoders_that_cannot_be_retrieved_are_named(
    tmp_path: Path, built: Path, make_set: Make
) -> None:
    source, tests = source_of(built / "runs" / "run"), opened(built, SET)
    assert Retrieve().why_not(source, tests) is None
    source.reads_text = False
    assert "no text side" in (Retrieve().why_not(source, tests) or "")
    source.reads_text = True
    root = make_set(tmp_path, n=20, impression="", findings="Clear lungs are seen here.")
    write_shards(root, SET, ShardOptions(samples=30))
    assert "an Impression" in (Retrieve().why_not(source, opened(root, SET)) or "")


def test_damaged_pictures_are_left_out_on_both_sides(root: Path) -> None:
    tests = opened(root, SET)
    queries = read_queries(tests)
    gone = queries.ordinals[1]
    shards = tests.shards
    place = int(shards.column("offset")[gone]) + int(shards.column("png_off")[gone]) + 40
    file = shards.folder / "shards" / shards.column("shard")[gone]
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)
    folder, document = evaluated(root, SET, source_of(root / "runs" / "run"))
    key = str(shards.column("key")[gone])
    assert document["damaged"] == [key]
    kept = read_rows(folder / "retrievals.parquet", RETRIEVALS)
    assert len({row["key"] for row in kept}) == len(queries.ordinals) - 1
    assert key not in {row["key"] for row in kept}


@pytest.mark.real
def test_reports_of_openi_repeat_and_limit_every_encoder(
    shared_data: Path, tmp_path: Path, make_run: Make
) -> None:
    words = ["openi", shared_data / "openi", "--root", tmp_path, "--size", 32, "--quiet"]
    app([str(word) for word in (*words, "--limit", 500)], standalone_mode=False)
    write_shards(tmp_path, "openi", ShardOptions(samples=200))
    folder, document = evaluated(tmp_path, "openi", source_of(make_run(tmp_path)))
    texts = list(read_queries(opened(tmp_path, "openi")).texts)
    assert len(texts) > 30
    value = {
        (r["metric"], r["label"]): r["value"] for r in document["rows"] if r["encoder"] == "run"
    }
    assert value["r@1-ceiling", "image-to-text"] == pytest.approx(len(set(texts)) / len(texts))
    assert value["r@1-ceiling", "image-to-text"] < 0.9
    assert value["r@1", "image-to-text"] <= value["r@1-ceiling", "image-to-text"]
    assert recompute(folder).differences == ()
