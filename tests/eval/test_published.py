"""The data file of printed results, and when they may stand beside a run."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitate.contract import Folders
from imitate.eval.statistics.lines import published_lines, statistics_text
from imitate.eval.statistics.published import comparable, read_published
from imitate.eval.testset import TestSet, open_testset
from imitate.shards.manifest import ShardSet

SIZES = {"train": 16_010, "validate": 5_337, "test": 5_337}


@pytest.fixture
def whole(built: Path) -> TestSet:
    """The set of the tests as if it were the complete RSNA under `paper`."""
    shards = ShardSet.open(Folders(built).shards("phantom-rsna"))
    facts = {"name": "paper", "complete": True, "published": SIZES, "here": SIZES}
    card = {**shards.card, "dataset": "rsna-paper", "prep": {"archive": {"protocol": facts}}}
    films = {split: np.arange(size) for split, size in SIZES.items()}
    tests = open_testset(shards)
    return replace(tests, shards=ShardSet(shards.folder, card), films=films, protocol="paper")


def facts(tests: TestSet, **changed: Any) -> TestSet:
    told = tests.shards.card["prep"]["archive"]["protocol"] | changed
    card = {**tests.shards.card, "prep": {"archive": {"protocol": told}}}
    return replace(tests, shards=ShardSet(tests.shards.folder, card))


def test_every_number_is_printed_somewhere_once() -> None:
    numbers = read_published()
    places = Counter(
        (n.source, n.task, n.protocol, n.dataset, n.metric, n.label, n.fraction, n.method)
        for n in numbers
    )
    assert max(places.values()) == 1 and len(numbers) > 600
    assert all(0 < n.value <= 100 and n.source for n in numbers)
    assert {n.protocol for n in numbers} == {"paper", "medklip", "unknown"}


@pytest.mark.parametrize(
    ("task", "dataset", "metric", "fraction", "method", "source", "value"),
    [
        ("linear", "rsna", "auroc", 0.01, "MGCA", "Table 4", 88.6),
        ("linear", "rsna", "auroc", 0.01, "MGCA-ResNet", "ASG", 87.6),
        ("linear", "covidx", "accuracy", 1.0, "G2D", "Table 4", 93.4),
        ("segment", "siim", "dice-batches", 0.1, "GLoRIA", "Table 1", 46.9),
        ("detect", "object-cxr", "map-mgca", 1.0, "MGCA", "Table 1", 19.2),
        ("finetune", "nih", "auroc", 1.0, "KAD*", "Table 3", 82.5),
        ("zeroshot", "nih", "f1", 0.0, "MedKLIP*", "Table 2b", 24.4),
    ],
)
def test_numbers_are_those_of_the_papers(
    task: str, dataset: str, metric: str, fraction: float, method: str, source: str, value: float
) -> None:
    (found,) = (
        n.value
        for n in read_published()
        if (n.task, n.dataset, n.metric, n.fraction, n.method)
        == (task, dataset, metric, fraction, method)
        and n.label == "macro"
        and n.protocol == "paper"
        and source in n.source
    )
    assert found == value


def test_label_by_label_numbers_have_the_mean_that_is_printed() -> None:
    for method in ("G2D", "KAD*", "ConVIRT"):
        own = [n for n in read_published() if n.method == method and "Table 3" in n.source]
        labels = [n.value for n in own if n.label != "macro"]
        (mean,) = (n.value for n in own if n.label == "macro" and n.fraction == 1)
        assert len(labels) == 14 and np.mean(labels) == pytest.approx(mean, abs=0.15)


def test_the_complete_set_under_the_same_protocol_has_company(whole: TestSet) -> None:
    found = comparable(whole)
    assert {(n.dataset, n.protocol) for n in found} == {("rsna", "paper")}
    assert {n.task for n in found} == {"linear", "segment", "detect"}


def test_any_other_set_has_none(whole: TestSet, built: Path) -> None:
    shards = ShardSet.open(Folders(built).shards("phantom-rsna"))
    fewer = dict(whole.films) | {"test": np.arange(5_336)}
    for other in (
        open_testset(shards),
        replace(whole, films=fewer),
        replace(whole, protocol="clean"),
        facts(whole, complete=False),
        facts(whole, published={}),
        replace(
            whole,
            shards=ShardSet(shards.folder, {**whole.shards.card, "dataset": "phantom-rsna"}),
        ),
    ):
        assert comparable(other) == ()


def test_printed_numbers_stand_apart_and_name_their_source(whole: TestSet, tmp_path: Path) -> None:
    rows = [asdict(number) for number in comparable(whole)]
    document = {"published": rows, "rows": [{"task": "linear"}]}
    text = statistics_text(document, [tmp_path])
    assert "published, not measured here: linear, auroc in percent; G2D" in text
    assert "Dice" not in text and "dice" not in text  # no segmentation was measured
    line = next(line for line in text.splitlines() if line.split()[:1] == ["MGCA"])
    assert line.split() == ["MGCA", "88.6", "89.1", "89.9"]
    assert (
        published_lines([]) == []
        and statistics_text({"published": [], "rows": []}, [tmp_path]) == ""
    )
