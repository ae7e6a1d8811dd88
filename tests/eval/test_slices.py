"""What is told of films beside their pixels: slices of a test split, and the control of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from imitate.contract import Folders
from imitate.eval.commands import register
from imitate.eval.encoders.metadata import told_columns
from imitate.eval.metrics import Settled
from imitate.eval.statistics.answers import Answers
from imitate.eval.statistics.samples import Told, told_of
from imitate.eval.statistics.slices import slice_rows
from imitate.files import read_json, read_rows, write_table
from imitate.schema import MANIFEST, SAMPLES

Make = Callable[..., Path]
N = 80


@pytest.fixture
def answers() -> Answers:
    rng = np.random.default_rng(0)
    target = (rng.random((N, 2)) < 0.5).astype(float)
    target[: N // 2, 1] = 0  # the second label is never present in one half
    score = 1 / (1 + np.exp(-target - rng.standard_normal((N, 2))))
    samples = [(f"k{i:02d}", f"s{i // 2}") for i in range(N)]
    return Answers.of(["Edema", "Mass"], samples, target, score, [Settled()] * 2)


def told(**columns: Callable[[int], Any]) -> dict[str, Told]:
    """What is told of each film, by its number."""
    return {f"k{i:02d}": Told(**{n: of(i) for n, of in columns.items()}) for i in range(N)}


def halves(i: int) -> str:
    return "F" if i < N // 2 else "M"


def test_a_slice_is_measured_on_its_films_alone(answers: Answers) -> None:
    rows = slice_rows(answers, told(sex=halves), {"task": "linear"}, seed=0)
    for name, at in (("F", slice(0, N // 2)), ("M", slice(N // 2, N))):
        found = {r["label"]: r for r in rows if r["slice"] == name}
        area = roc_auc_score(answers.targets[at, 0], answers.scores[at, 0])
        assert found["Edema"]["value"] == pytest.approx(area)
        assert (found["Edema"]["n"], found["Edema"]["n_subjects"]) == (N // 2, N // 4)
        assert found["Edema"]["ci_low"] < found["Edema"]["value"] < found["Edema"]["ci_high"]
        assert (found["Edema"]["property"], found["Edema"]["task"]) == ("sex", "linear")


def test_the_macro_of_a_slice_is_over_labels_that_all_slices_measure(answers: Answers) -> None:
    rows = slice_rows(answers, told(sex=halves), {}, seed=0)
    labels = {s: {r["label"] for r in rows if r["slice"] == s} for s in ("F", "M")}
    assert labels == {"F": {"Edema", "macro"}, "M": {"Edema", "Mass", "macro"}}
    for name in ("F", "M"):
        found = {r["label"]: r["value"] for r in rows if r["slice"] == name}
        assert found["macro"] == pytest.approx(found["Edema"])


def test_what_is_unknown_or_the_same_for_all_makes_no_slice(answers: Answers) -> None:
    assert slice_rows(answers, {}, {}, seed=0) == []
    assert slice_rows(answers, told(view=lambda i: "PA"), {}, seed=0) == []
    rare = told(view=lambda i: "AP" if i < 3 else "PA", sex=lambda i: None)
    assert {r["slice"] for r in slice_rows(answers, rare, {}, seed=0)} == {"PA"}


@pytest.mark.parametrize(
    ("age", "group"),
    [
        *((0.0, "0-17"), (17.9, "0-17"), (18.0, "18-39"), (59.0, "40-59"), (80.0, "80 and over")),
        *((None, None), (-1.0, None)),
    ],
)
def test_ages_fall_into_groups(age: float | None, group: str | None) -> None:
    assert Told(age=age).age_group == group


def test_columns_without_pixels_hold_all_that_is_told() -> None:
    films = [
        Told(view="AP", sex="F", age=40.0, origin="here", height=100, width=50),
        Told(view="PA", sex=None, age=None, origin="here", height=100, width=100),
    ]
    columns = told_columns(films)
    assert np.isfinite(columns).all()
    # AP, PA; no sex, F; here; age, no age; log height, log width, their difference
    expected = [
        [1, 0, 0, 1, 1, 40, 0, np.log(100), np.log(50), np.log(2)],
        [0, 1, 1, 0, 1, 0, 1, np.log(100), np.log(100), 0],
    ]
    assert columns == pytest.approx(np.array(expected))


def tell(root: Path, name: str, of: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what the manifest of a prepared set tells of every film."""
    path = Folders(root).prepared(name) / "manifest.parquet"
    write_table(path, MANIFEST, [row | of(row) for row in read_rows(path, MANIFEST)])


def portable_when_ill(row: dict[str, Any]) -> dict[str, Any]:
    number = int(row["image_id"].rpartition("-")[2])
    ill = row["labels"]["Edema"] == 1
    age = {"age": f"{20 + number % 60}"} if number % 4 else {}
    return {"view": "AP" if ill else "PA", "metadata": {"sex": "FM"[number % 2], **age}}


def test_a_label_that_the_view_gives_away_is_found_without_pixels(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    make_run(make_set(tmp_path))
    tell(tmp_path, "phantom-rsna", portable_when_ill)
    app = typer.Typer()
    register(app)
    words = ["phantom-rsna", "--root", str(tmp_path), "--quiet", "--task", "linear"]
    result = CliRunner().invoke(app, words)
    assert result.exception is None, result.exception
    folder = Folders(tmp_path).run("run") / "eval" / "phantom-rsna"
    rows = read_json(folder / "results.json")["rows"]
    found = {
        (r["encoder"], r["label"]): r["value"]
        for r in rows
        if r["metric"] == "auroc" and r["value"] is not None
    }
    assert found["no-pixels", "Edema"] == 1
    assert found["no-pixels", "Pneumonia"] < 0.8 < found["run", "Pneumonia"]
    assert "no-pixels" in result.stdout and "sex F" in result.stdout
    samples = told_of(read_rows(folder / "samples.parquet", SAMPLES))
    keys = {row["key"] for row in read_rows(folder / "samples.parquet", SAMPLES)}
    assert len(samples) == len(keys) and {one.view for one in samples.values()} == {"AP", "PA"}
    slices = read_json(folder / "statistics.json")["slices"]
    assert {row["property"] for row in slices} >= {"sex", "age"}
    assert {row["encoder"] for row in slices} == {"run"}
