"""The page on another modality, as it stands: drawn pathology tiles from a table to an evaluation.

The tiles are phantoms: nuclei are discs, mitoses are dark strokes, the words are ours.
"""

import csv
import json
import re

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from imitate.cli import app
from imitate.train.logbook import read_metrics
from imitate.train.network.folder import load_model

SIDE = 48
SPLITS = ("train",) * 5 + ("validate",) + ("test",) * 2
SMALL = (
    "model.image.size=32",
    "model.image.resize=40",
    "model.tokens.grid=4",
    "optim.epochs=10",
    "optim.warmup_steps=5",
)


def draw_tile(rng, *, dense, mitosis):
    tile = rng.normal((220, 180, 235), 6, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    for _ in range(30 if dense else 4):
        at = rng.integers(4, SIDE - 4, 2).tolist()
        cv2.circle(tile, at, int(rng.integers(2, 4)), (140, 70, 110), -1)
    for _ in range(5 if mitosis else 0):
        x, y = rng.integers(6, SIDE - 6, 2).tolist()
        cv2.line(tile, (x - 4, y - 4), (x + 4, y + 4), (40, 0, 30), 4)
    return tile


def write_tiles(folder, count=160):
    """Write tiles and their table; two tiles a patient."""
    (folder / "tiles").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        dense, mitosis = bool(i % 2), bool(i // 2 % 2)
        cv2.imwrite(str(folder / f"tiles/t{i}.png"), draw_tile(rng, dense=dense, mitosis=mitosis))
        seen = "Densely packed nuclei." if dense else "Few nuclei in a pale stroma."
        more = "Mitosis in several places." if mitosis else "Mitosis is not seen."
        concluded = "Mitosis, high grade." if mitosis else "No mitosis, low grade."
        rows.append(
            {
                "image": f"tiles/t{i}.png",
                "subject_id": f"p{i // 2}",
                "split": SPLITS[i // 2 % len(SPLITS)],
                "report": f"OBSERVATIONS: {seen} {more}\n\nDIAGNOSIS: {concluded}",
                "label_mitosis": int(mitosis),
            }
        )
    with (folder / "tiles.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def imitate(tmp_path):
    """Run a command of the tool below a folder of its own."""

    def run(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--root", str(tmp_path), "--quiet"])
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_tiles_go_from_a_table_to_an_evaluation(repository, tmp_path, imitate):
    page = (repository / "docs" / "tutorials" / "other-modality.md").read_text()
    [recipe] = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "tiles.yaml").write_text(recipe)
    write_tiles(tmp_path / "slides")
    alone = ("--workers", "1")
    imitate("prep", "table", f"{tmp_path}/slides/tiles.csv", "--name", "tiles", *alone)
    imitate("shard", "tiles", *alone)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    imitate("train", f"{tmp_path}/tiles.yaml", "--data", "tiles", "--device", "cpu", *settings)
    [run] = (tmp_path / "runs").iterdir()
    rows = read_metrics(run / "metrics.jsonl")
    assert {"loss/diagnosis", "loss/observations"} < set(rows[0])
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert set(json.loads((run / "card.json").read_text())["prior"]) == {
        "diagnosis",
        "observations",
    }
    model = load_model(run / "model").model
    assert model.config.embedding == "diagnosis"
    assert set(model.heads) == {"diagnosis", "observations"}
    imitate("eval", "tiles", "--run", run.name, "--device", "cpu", *alone)
    results = json.loads((run / "eval" / "tiles" / "results.json").read_text())
    auroc = {
        row["task"]: row["value"]
        for row in results["rows"]
        if row["encoder"] == run.name and row["metric"] == "auroc" and row["label"] == "mitosis"
    }
    assert set(auroc) == {"zeroshot", "linear"}
    assert auroc["linear"] > 0.7
