"""`imitate report RUN --recompute`: every number once more, and every change found."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from imitate.cli import app
from imitate.contract import Folders, InputError, TooManyFaults, UsageError
from imitate.eval.boxes import detection_rows
from imitate.eval.commands import register
from imitate.eval.masks import Overlaps, overlap_rows
from imitate.eval.statistics.recompute import recompute
from imitate.eval.statistics.written import write_statistics
from imitate.eval.table import to_csv
from imitate.eval.testset import open_testset
from imitate.files import read_json, read_rows, write_json, write_table, write_text
from imitate.schema import DETECTIONS, PREDICTIONS, REGIONS, RESULTS
from imitate.shards.manifest import ShardSet

Make = Callable[..., Path]
SET = "phantom-rsna"


def evaluate(root: Path, *arguments: str) -> None:
    evaluation = typer.Typer()
    register(evaluation)
    result = CliRunner().invoke(evaluation, [SET, "--root", str(root), "--quiet", *arguments])
    if result.exception:
        raise result.exception


def report(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", str(path), "--recompute", *arguments])


@pytest.fixture(scope="session")
def evaluated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("evaluated") / "root"))
    evaluate(root, "--fraction", "0.3", "--draws", "2")
    return root


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Folders(Path(shutil.copytree(evaluated, tmp_path / "root"))).run("run")


def evaluation(run: Path) -> Path:
    return run / "eval" / SET


def test_every_number_follows_from_what_was_predicted(run: Path) -> None:
    result = report(run)
    assert result.exception is None, result.exception
    document = read_json(evaluation(run) / "results.json")
    statistics = read_json(evaluation(run) / "statistics.json")
    numbers = sum(row["value"] is not None for row in document["rows"])
    numbers += sum(len(statistics[name]) for name in ("summary", "slices", "comparisons"))
    assert result.stdout.startswith(f"{numbers} numbers of 1 evaluations")
    assert recompute(evaluation(run)) == recompute(run)
    told = json.loads(report(run, "--json").stdout)
    assert (told["numbers"], told["differences"]) == (numbers, [])


def change_rows(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    change(next(row for row in rows if row["label"] == "macro" and row["metric"] == "auroc"))
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def in_csv(folder: Path) -> None:
    change_rows(folder / "results.csv", lambda row: row.update(value="0.99"))


def in_csv_interval(folder: Path) -> None:
    change_rows(folder / "results.csv", lambda row: row.update(ci_low="0.1"))


def in_json(folder: Path) -> None:
    document = read_json(folder / "results.json")
    row = next(row for row in document["rows"] if row["value"] is not None)
    row["value"] += 0.001
    write_json(folder / "results.json", document)


def in_settled(folder: Path) -> None:
    document = read_json(folder / "results.json")
    document["cells"][0]["settled"]["Pneumonia"]["threshold"] = 0.999
    write_json(folder / "results.json", document)


def in_predictions(folder: Path) -> None:
    rows = read_rows(folder / "predictions.parquet", PREDICTIONS)
    rows[0] = rows[0] | {"target": 1 - rows[0]["target"]}
    write_table(folder / "predictions.parquet", PREDICTIONS, rows)


def in_predictions_of_one_cell(folder: Path) -> None:
    rows = read_rows(folder / "predictions.parquet", PREDICTIONS)
    kept = [row for row in rows if row["task"] != "zeroshot"]
    write_table(folder / "predictions.parquet", PREDICTIONS, kept)


def in_comparisons(folder: Path) -> None:
    known = read_json(folder / "statistics.json")
    known["comparisons"][0]["p_holm"] = 0.0001
    write_json(folder / "statistics.json", known)


def in_summary_table(folder: Path) -> None:
    path = folder / "summary.csv"
    write_text(path, path.read_text().replace("auroc", "auprc", 1))


@pytest.mark.parametrize(
    "change",
    [
        *(in_csv, in_csv_interval, in_json, in_settled, in_predictions),
        *(in_predictions_of_one_cell, in_comparisons, in_summary_table),
    ],
)
def test_a_changed_number_is_found_and_named(run: Path, change: Callable[[Path], None]) -> None:
    change(evaluation(run))
    result = report(run)
    assert isinstance(result.exception, TooManyFaults)
    assert result.exception.code == 1 and SET in str(result.exception)
    assert result.stdout == ""


def test_a_wrong_number_is_named_with_its_place(run: Path) -> None:
    in_csv(evaluation(run))
    (line,) = recompute(run).differences
    assert all(word in line for word in ("zeroshot", "run", "auroc", "macro", "value 0.99"))


def test_what_is_missing_or_cannot_be_is_said(run: Path, tmp_path: Path) -> None:
    assert isinstance(report(tmp_path).exception, InputError)
    assert isinstance(report(run, "--shareable").exception, UsageError)
    (evaluation(run) / "samples.parquet").unlink()
    assert isinstance(report(run).exception, InputError)


def rows_of(path: Path) -> Sequence[dict[str, Any]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_encoders_beside_each_other_are_compared_and_computed_again(
    run: Path, weights: Path
) -> None:
    root = run.parents[1]
    evaluate(root, "--run", "run", "--encoder", f"{weights},size=16,resize=16,norm=half")
    (other,) = (root / "runs").glob("encoder-net-*")
    pairs = [
        {(row["encoder"], row["other"]) for row in rows_of(evaluation(each) / "comparisons.csv")}
        for each in (run, other)
    ]
    assert pairs[0] == pairs[1] >= {("run", "net"), ("run", "random"), ("net", "random")}
    assert recompute(run).differences == recompute(other).differences == ()
    shutil.rmtree(other)
    recount = recompute(run)
    assert recount.differences == () and "not here" in recount.as_text()


def test_rows_of_results_are_typed_as_the_schema_says(run: Path) -> None:
    rows = rows_of(evaluation(run) / "results.csv")
    assert tuple(rows[0]) == RESULTS.names
    document = read_json(evaluation(run) / "results.json")
    assert [row["value"] for row in document["rows"]] == [
        float(row["value"]) if row["value"] else None for row in rows
    ]


def written_by_hand(folder: Path, cells: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Write an evaluation as `imitate eval` would, without the training that it needs."""
    document = {
        "dataset": SET,
        "labels": [],
        "encoder": {"name": "run"},
        "cells": [{"cell": cell} for cell in cells],
        "rows": [{name: row.get(name) for name in RESULTS.names} for row in rows],
    }
    write_json(folder / "results.json", document)
    write_text(folder / "results.csv", to_csv(document["rows"]))
    write_table(folder / "predictions.parquet", PREDICTIONS, [])


def test_numbers_of_masks_and_boxes_are_computed_again(built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    common = {"dataset": SET, "encoder": "run", "run_digest": "d", "protocol": "clean"}
    common |= {"pretrain_seed": 3, "fraction": 1.0, "draw": 0, "head_seed": 0}
    films = [{"key": f"k{i:02d}", "subject_id": f"s{i}"} for i in range(20)]
    own = {"label": "nodule", "threshold_source": "fixed"}
    sizes = {"height": 64, "width": 64, "target_pixels": 40, "runs": "", "threshold": 0.5}
    sizes |= {"peak": None}
    drawn = [{"predicted_pixels": 50, "common_pixels": int(rng.integers(0, 40))} for _ in films]
    masks = [
        common | film | sizes | some | own | {"task": "segment", "batch": i // 4}
        for i, (film, some) in enumerate(zip(films, drawn, strict=True))
    ]
    box = {"x": 1.0, "y": 2.0, "w": 10.0, "h": 10.0, "label": "nodule"}
    found = [[box] if rng.random() < 0.7 else [] for _ in films]
    boxes = [
        common
        | film
        | {"task": "detect", "targets": [box], "predicted": own_boxes}
        | {"scores": [0.9] * len(own_boxes)}
        for film, own_boxes in zip(films, found, strict=True)
    ]
    told = common | own | {"task": "segment"}
    numbers = [told | n for n in overlap_rows(Overlaps.of(masks), seed=0)]
    numbers += [common | {"task": "detect"} | n for n in detection_rows(boxes, seed=0)]
    folder = Folders(tmp_path).run("run") / "eval" / SET
    written_by_hand(folder, [common | {"task": task} for task in ("segment", "detect")], numbers)
    write_table(folder / "regions.parquet", REGIONS, masks)
    write_table(folder / "detections.parquet", DETECTIONS, boxes)
    write_statistics([folder], open_testset(ShardSet.open(Folders(built).shards(SET))))
    assert recompute(folder).differences == ()
    assert recompute(folder).numbers == sum(row["value"] is not None for row in numbers)
    masks[3]["common_pixels"] += 1
    write_table(folder / "regions.parquet", REGIONS, masks)
    lines = recompute(folder).differences
    assert lines and all("segment" in line for line in lines)
