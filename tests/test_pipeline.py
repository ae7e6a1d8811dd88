"""The whole product as a user meets it: commands in a shell, phantom archives, real processes."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imitate.contract import Folders
from imitate.files import read_rows
from imitate.prep.phantoms.mimic import write_mimic
from imitate.prep.phantoms.rsna import write_rsna
from imitate.schema import MANIFEST, PREDICTIONS, REJECTS, RESULTS

TINY = [
    *("--set", "optim.epochs=2", "--set", "data.batch=16", "--set", "model.norm_group=8"),
    *("--set", "model.image.size=32", "--set", "model.image.resize=40"),
]


def imitate(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; assert its exit code and that it has manners."""
    command = [sys.executable, "-m", "imitate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def document(*arguments: object) -> dict[str, object]:
    """Run a command with --json and return the one document it prints."""
    value = json.loads(imitate(*arguments, "--json").stdout)
    assert isinstance(value, dict)
    return value


def tree(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Bytes of every file below a folder whose bytes are part of the contract."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


TIMED = ("card.json", "dataset.json", "log.txt", "metrics.jsonl", "curves.png")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    write_mimic(folder / "mimic", studies=60, seed=1, size=64)
    write_rsna(folder / "rsna", patients=120, seed=1, size=64)
    return folder


@pytest.fixture(scope="module")
def built(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root on which every stage has run once."""
    root = tmp_path_factory.mktemp("root")
    for command in stages(archives, root):
        imitate(*command)
    return root


def stages(archives: Path, root: Path) -> list[list[object]]:
    small = ["--root", root, "--size", 40, "--quiet"]
    return [
        ["prep", "mimic", archives / "mimic", "--name", "phantom-mimic", *small],
        ["prep", "rsna", archives / "rsna", "--name", "phantom-rsna", *small],
        ["shard", "--root", root, "--shard-samples", 16, "--quiet"],
        ["train", "demo", "--name", "run", "--root", root, *TINY, "--quiet"],
        ["eval", "phantom-rsna", "--root", root, "--quiet"],
    ]


def test_every_stage_leaves_what_the_contract_names(built: Path) -> None:
    folders = Folders(built)
    for name in ("phantom-mimic", "phantom-rsna"):
        prepared = folders.prepared(name)
        rows = read_rows(prepared / "manifest.parquet", MANIFEST)
        assert rows and all((prepared / row["image"]).is_file() for row in rows)
        assert [row["key"] for row in rows] == sorted({row["key"] for row in rows})
        assert read_rows(prepared / "rejects.parquet", REJECTS)
        assert (folders.shards(name) / "dataset.json").is_file()
    run = folders.run("run")
    for name in ("recipe.yaml", "card.json", "metrics.jsonl", "curves.png", "log.txt"):
        assert (run / name).is_file(), name
    assert (run / "model" / "config.json").is_file()
    assert (run / "model" / "model.safetensors").is_file()


def test_results_can_be_recomputed_from_the_predictions(built: Path) -> None:
    from sklearn.metrics import roc_auc_score

    folder = Folders(built).run("run") / "eval" / "phantom-rsna"
    predictions = read_rows(folder / "predictions.parquet", PREDICTIONS)
    with (folder / "results.csv").open() as handle:
        results = list(csv.DictReader(handle))
    assert tuple(results[0]) == RESULTS.names
    assert {row["encoder"] for row in results} == {"run", "random", "no-pixels"}
    checked = 0
    for row in results:
        if row["metric"] == "auroc" and row["label"] == "Pneumonia":
            same = ("encoder", "task", "label")
            part = [p for p in predictions if all(p[name] == row[name] for name in same)]
            assert len(part) == int(row["n"]) == len({p["key"] for p in part})
            value = roc_auc_score([p["target"] for p in part], [p["score"] for p in part])
            assert float(row["value"]) == pytest.approx(value, abs=1e-12)
            assert float(row["ci_low"]) <= value <= float(row["ci_high"])
            checked += 1
    assert checked == 5


def test_the_same_command_again_says_done_and_changes_nothing(built: Path, archives: Path) -> None:
    before = tree(built)
    for command in stages(archives, built):
        imitate(*command)
    assert tree(built) == before


def test_json_documents_have_the_fields_of_the_contract(built: Path, archives: Path) -> None:
    prep, _, shard, train, _ = stages(archives, built)
    fields = {"dataset", "in", "out", "rejected", "path", "seconds"}
    made = document(*prep)
    assert fields <= set(made)
    assert made["in"] == made["out"] + sum(made["rejected"].values())  # type: ignore[attr-defined, operator]
    one = document(*shard[:1], "phantom-rsna", *shard[1:])
    assert {"dataset", "samples", "shards", "bytes", "digest", "path", "seconds"} <= set(one)
    assert {"run", "steps", "samples", "loss", "seconds"} <= set(document(*train))


def test_report_text_is_in_no_log(built: Path) -> None:
    rows = read_rows(Folders(built).prepared("phantom-mimic") / "manifest.parquet", MANIFEST)
    texts = {row["findings"] for row in rows} | {row["impression"] for row in rows}
    for log in built.rglob("log.txt"):
        assert [text for text in texts if text and text in log.read_text()] == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["prep", "mimic", "{tmp}/nowhere"], 3, "nowhere"),
        (["prep", "mimic", "{tmp}/empty"], 3, "empty"),
        (["prep", "mimic", "{archives}/mimic", "--fit", "sideways"], 2, "sideways"),
        (["prep", "mimic", "{archives}/mimic", "--size", "huge"], 2, "--size"),
        (["prep", "mimic", "{archives}/mimic", "--norm", "mimic", "--bits", "16"], 2, "16"),
        (["prep", "rsna", "{archives}/rsna", "--protocol", "none"], 2, "clean"),
        (["shard", "nothing"], 3, "nothing"),
        (["verify", "{tmp}/nowhere"], 3, "nowhere"),
        (["train", "nothing"], 2, "demo"),
        (["train", "demo"], 3, "imitate"),
        (["train", "demo", "--set", "optim.ephocs=1"], 2, "optim.epochs"),
        (["eval", "rsna"], 3, "imitate prep rsna SRC"),
        (["config", "check", "{tmp}/nowhere.yaml"], 3, "nowhere"),
    ],
)
def test_what_cannot_be_gets_one_clear_message(
    archives: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [a.format(tmp=tmp_path, archives=archives) for a in arguments]
    root = [] if filled[0] in ("verify", "config") else ["--root", tmp_path / "root"]
    done = imitate(*filled, *root, check=code)
    assert says in done.stderr
    assert done.stdout == ""
    assert tree(tmp_path / "root") == {}, "something half-written was left"


def test_a_missing_column_is_named_with_its_file(archives: Path, tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", patients=12, seed=2, size=64)
    labels = tmp_path / "rsna" / "stage_2_train_labels.csv"
    labels.write_text(labels.read_text().replace("patientId", "patient", 1))
    done = imitate("prep", "rsna", tmp_path / "rsna", "--root", tmp_path / "root", check=3)
    assert "patientId" in done.stderr and labels.name in done.stderr
    assert tree(tmp_path / "root") == {}


def test_a_truncated_shard_is_named_and_nothing_is_trained(archives: Path, tmp_path: Path) -> None:
    prep, _, shard, train, _ = stages(archives, tmp_path)
    imitate(*prep)
    imitate(*shard)
    folder = Folders(tmp_path).shards("phantom-mimic")
    victim = max(folder.glob("shards/train-*.tar"))
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    assert victim.name in imitate("verify", folder, check=3).stdout
    assert victim.name in imitate(*train, check=None).stderr
    imitate(*shard)  # the shard is damaged, so it is made again
    imitate("verify", folder)


def killed_then_finished(command: list[object], draw: random.Random, *, kills: int) -> None:
    """Start a command, SIGKILL it at random moments, then let it finish."""
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "imitate", *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(draw.uniform(1.0, 7.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    imitate(*command)


def test_killed_evaluation_ends_with_the_same_bytes(
    built: Path, archives: Path, tmp_path: Path
) -> None:
    folder = Folders(built).run("run") / "eval" / "phantom-rsna"
    before = tree(folder, but=TIMED)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    killed_then_finished(stages(archives, built)[-1], random.Random(5), kills=3)
    assert tree(folder, but=TIMED) == before


@pytest.mark.slow
def test_every_stage_killed_many_times_ends_with_the_same_bytes(
    built: Path, archives: Path, tmp_path: Path
) -> None:
    draw = random.Random(7)
    for command in stages(archives, tmp_path):
        killed_then_finished(command, draw, kills=6)
    assert tree(tmp_path, but=TIMED) == tree(built, but=TIMED)


def test_shards_elsewhere_give_the_same_run_and_the_same_results(
    built: Path, tmp_path: Path
) -> None:
    there = {
        name: f"file://{Folders(built).shards(name)}" for name in ("phantom-mimic", "phantom-rsna")
    }
    here = ["--root", tmp_path, "--cache-bytes", 10**9, "--quiet"]
    imitate("train", "demo", "--name", "run", "--data", there["phantom-mimic"], *TINY, *here)
    imitate("eval", there["phantom-rsna"], *here)
    both = [Folders(root).run("run") for root in (built, tmp_path)]
    for name in ("model/model.safetensors", "eval/phantom-rsna/predictions.parquet"):
        first, second = ((run / name).read_bytes() for run in both)
        assert first == second, name
    overlaps = [
        json.loads((run / "eval" / "phantom-rsna" / "results.json").read_bytes())["overlap"]
        for run in both
    ]
    assert overlaps[0] == overlaps[1] and overlaps[1]["subjects"] is not None
    missing = imitate("train", "demo", "--data", there["phantom-mimic"] + "x", *here, check=3)
    assert "is not there" in missing.stderr
    imitate("train", "demo", "--data", "pipe://cat", *here, check=2)
