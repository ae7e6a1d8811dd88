"""Evaluation from end to end: a prepared set and a tiny run in, tables and predictions out."""

import csv
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)
from typer.testing import CliRunner, Result

from imitate.contract import Exit, Folders, ImitateError, TooManyFaults, UsageError
from imitate.eval.commands import register
from imitate.eval.metrics import METRICS
from imitate.files import read_json, read_rows
from imitate.schema import PREDICTIONS, RESULTS
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards

Make = Callable[..., Path]
SET = "phantom-rsna"
CUT = ("accuracy", "f1", "sensitivity@90", "specificity@90")


def run(root: Path, *arguments: object, dataset: str = SET) -> Result:
    """Run the command in this process."""
    app = typer.Typer()
    register(app)
    words = [dataset, "--root", str(root), "--quiet", *map(str, arguments)]
    return CliRunner().invoke(app, words)


def done(root: Path, *arguments: object, dataset: str = SET) -> str:
    result = run(root, *arguments, dataset=dataset)
    if result.exception:
        raise result.exception
    return result.stdout


def failure(result: Result) -> ImitateError:
    assert isinstance(result.exception, ImitateError), result.exception
    return result.exception


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def results(root: Path, name: str = "run", dataset: str = SET) -> list[dict[str, str]]:
    with (Folders(root).run(name) / "eval" / dataset / "results.csv").open() as handle:
        return list(csv.DictReader(handle))


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two rows are of one cell."""
    numbers = ("fraction", "draw", "head_seed")
    return all(row[n] == other[n] for n in ("encoder", "task")) and all(
        float(row[n]) == float(other[n]) for n in numbers
    )


def calibration_error(target: np.ndarray, value: np.ndarray) -> float:
    places = [min(int(15 * v), 14) for v in value]
    bins = [[i for i, p in enumerate(places) if p == k] for k in range(15)]
    return sum(abs(sum(value[i] - target[i] for i in b)) for b in bins) / len(value)


def test_every_number_follows_from_the_predictions(root: Path) -> None:
    done(root, "--fraction", 0.3, "--fraction", 1)
    folder = Folders(root).run("run") / "eval" / SET
    predictions = read_rows(folder / "predictions.parquet", PREDICTIONS)
    document = read_json(folder / "results.json")
    rows = results(root)
    assert tuple(rows[0]) == RESULTS.names
    means: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["label"] == "macro" or not row["value"]:
            continue
        part = [p for p in predictions if same(p, row) and p["label"] == row["label"]]
        target, score = (np.array([p[name] for p in part]) for name in ("target", "score"))
        (cell,) = (c for c in document["cells"] if same(c["cell"], row))
        settled = cell["settled"][row["label"]]
        said = (score >= settled["threshold"]).astype(float)
        alarm = (score >= settled["limit"]).astype(float)
        value = 1 / (1 + (1 / score - 1) ** settled["slope"])
        expected = {
            "auroc": lambda t=target, s=score: roc_auc_score(t, s),
            "auprc": lambda t=target, s=score: average_precision_score(t, s),
            "accuracy": lambda t=target, s=said: accuracy_score(t, s),
            "f1": lambda t=target, s=said: f1_score(t, s),
            "sensitivity@90": lambda t=target, s=alarm: recall_score(t, s),
            "specificity@90": lambda t=target, s=alarm: recall_score(1 - t, 1 - s),
            "brier": lambda t=target, v=value: brier_score_loss(t, v),
            "ece": lambda t=target, v=value: calibration_error(t, v),
        }[row["metric"]]()
        assert float(row["value"]) == pytest.approx(expected, abs=1e-12)
        if row["metric"] != "ece":
            assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
        assert (int(row["n"]), int(row["n_pos"])) == (len(part), target.sum())
        assert int(row["n_subjects"]) == len({p["subject_id"] for p in part})
        assert (row["threshold_source"] == "validate") == (row["metric"] in CUT)
        place = tuple(row[n] for n in ("encoder", "task", "fraction", "metric"))
        means.setdefault(place, []).append(expected)
    macro = [row for row in rows if row["label"] == "macro"]
    assert len(macro) == len(means) == (2 * 3 + 2) * len(METRICS)
    for row in macro:
        place = tuple(row[n] for n in ("encoder", "task", "fraction", "metric"))
        assert float(row["value"]) == pytest.approx(np.mean(means[place]), abs=1e-12)


def test_every_test_sample_is_predicted_once(root: Path) -> None:
    done(root)
    folder = Folders(root).run("run") / "eval" / SET
    predictions = read_rows(folder / "predictions.parquet", PREDICTIONS)
    shards = ShardSet.open(Folders(root).shards(SET))
    keys, labels, views = (shards.column(name) for name in ("key", "labels", "view"))
    for encoder in ("run", "random"):
        for label, task in (("Pneumonia", "linear"), ("Edema", "zeroshot")):
            found = [
                (p["key"], p["target"])
                for p in predictions
                if (p["encoder"], p["task"], p["label"]) == (encoder, task, label)
            ]
            assert found == [
                (keys[i], labels[i][label])
                for i in shards.rows("test")
                if views[i] == "PA" and labels[i].get(label) in (0, 1)
            ]


def test_a_label_without_positives_is_listed_empty_and_not_in_macro(root: Path) -> None:
    done(root, "--no-control")
    hernia = [row for row in results(root) if row["label"] == "Hernia"]
    assert {(row["value"], row["ci_low"], row["ci_high"], row["n_pos"]) for row in hernia} == {
        ("", "", "", "0")
    }
    assert len(hernia) == 2 * len(METRICS)


def test_the_encoder_finds_what_the_films_show(root: Path) -> None:
    done(root, "--task", "linear", "--no-control")
    rows = [r for r in results(root) if (r["metric"], r["label"]) == ("auroc", "Pneumonia")]
    assert float(rows[0]["value"]) > 0.9


def test_controls_are_untrained_and_told_apart_by_their_seed(root: Path) -> None:
    done(root, "--seeds", 2, "--task", "zeroshot")
    rows = [r for r in results(root) if (r["metric"], r["label"]) == ("auroc", "macro")]
    assert [(r["encoder"], r["pretrain_seed"], r["head_seed"]) for r in rows] == [
        ("run", "3", "0"),
        ("random", "0", "0"),
        ("random", "1", "1"),
    ]
    assert len({r["run_digest"] for r in rows}) == len({r["value"] for r in rows}) == 3


def test_draws_below_one_are_repeated(root: Path) -> None:
    done(root, "--task", "linear", "--fraction", 0.2, "--fraction", 1, "--draws", 3, "--no-control")
    rows = [r for r in results(root) if (r["metric"], r["label"]) == ("auroc", "Pneumonia")]
    places = [(float(r["fraction"]), int(r["draw"])) for r in rows]
    assert places == [(0.2, 0), (0.2, 1), (0.2, 2), (1.0, 0)]


def test_again_is_quick_and_changes_no_byte(root: Path) -> None:
    first = done(root)
    folder = Folders(root).run("run") / "eval" / SET
    before, cells = tree(folder), {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/*/*")}
    assert done(root) == first
    assert tree(folder) == before
    assert {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/*/*")} == cells


def test_results_do_not_depend_on_place_workers_or_interruption(
    root: Path, tmp_path_factory: pytest.TempPathFactory, make_set: Make, make_run: Make
) -> None:
    done(root)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    make_run(elsewhere, when="another time")
    make_set(elsewhere)
    shard(elsewhere, SET)
    done(elsewhere, "--workers", 3, "--task", "zeroshot")
    folder, other = (Folders(r).run("run") / "eval" / SET for r in (root, elsewhere))
    # as a killed process leaves it: some cells, some features, no table, a half-written file
    (other / "results.csv").unlink()
    next(other.glob("cells/*/*/own-zeroshot*.json")).unlink()
    next(other.glob("features/*/own-embeddings.npy")).write_bytes(b"torn")
    (next(other.glob("cells/*/zeroshot-*")) / ".partial-1-x").write_bytes(b"half")
    done(elsewhere)
    assert tree(other) == tree(folder)


def test_no_resume_starts_anew(root: Path) -> None:
    done(root, "--no-control")
    folder = Folders(root).run("run") / "eval" / SET
    before = tree(folder)
    (folder / "cells" / "stale").write_text("")
    done(root, "--no-control", "--no-resume")
    assert tree(folder) == before


def test_another_model_under_the_same_name_replaces_what_is_out_of_date(
    root: Path, make_run: Make
) -> None:
    done(root, "--task", "zeroshot", "--no-control")
    before = results(root)
    make_run(root, seed=4)
    done(root, "--task", "linear", "--no-control")
    after = results(root)
    assert {row["task"] for row in after} == {"linear"}
    assert {row["pretrain_seed"] for row in after} == {"4"}
    assert after[0]["run_digest"] != before[0]["run_digest"]
    features = (Folders(root).run("run") / "eval" / SET / "features").glob("*/*.npy")
    assert [path.name for path in features] == ["own-features.npy"]


def test_results_of_several_commands_stand_together(root: Path) -> None:
    done(root, "--task", "zeroshot", "--no-control")
    done(root, "--task", "linear", "--no-control")
    assert {row["task"] for row in results(root)} == {"zeroshot", "linear"}


def test_without_subjects_intervals_are_over_images(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    make_set(tmp_path, subjects=False)
    make_run(tmp_path)
    done(tmp_path, "--task", "zeroshot", "--no-control")
    rows = results(tmp_path)
    assert {(row["ci_method"], row["n_subjects"]) for row in rows if row["metric"] != "ece"} == {
        ("bootstrap-images-1000", "")
    }


def test_json_is_one_document_with_the_rows(root: Path) -> None:
    document = json.loads(done(root, "--no-control", "--json"))
    assert document["dataset"] == SET and document["phantom"] is True
    assert [set(row) for row in document["rows"]] == [set(RESULTS.names)] * len(document["rows"])
    assert Path(document["paths"][0]) == Folders(root).run("run") / "eval" / SET


def test_table_says_phantom_and_shows_an_interval(root: Path) -> None:
    text = done(root, "--no-control")
    assert "PHANTOM" in text.splitlines()[0]
    value = next(r for r in results(root) if (r["metric"], r["label"]) == ("auroc", "macro"))
    numbers = [f"{float(value[n]):.3f}" for n in ("value", "ci_low", "ci_high")]
    assert f"{numbers[0]} [{numbers[1]}, {numbers[2]}]" in text


def test_weights_from_elsewhere_have_a_folder_of_their_own(root: Path, weights: Path) -> None:
    spec = f"{weights},size=16,resize=16,norm=half"
    text = done(root, "--encoder", spec, "--fraction", 0.5)
    (folder,) = (root / "runs").glob("encoder-net-????????")
    rows = results(root, folder.name)
    assert {(row["encoder"], row["task"]) for row in rows} == {
        ("net", "linear"),
        ("random", "linear"),
        ("no-pixels", "linear"),
    }
    assert {row["pretrain_seed"] for row in rows if row["encoder"] == "net"} == {""}
    assert str(folder) in text and not (Folders(root).run("run") / "eval").exists()
    error = failure(run(root, "--encoder", spec, "--task", "zeroshot"))
    assert error.code == Exit.USAGE and "text" in str(error)


def test_a_run_and_weights_stand_in_one_document(root: Path, weights: Path) -> None:
    spec = f"{weights},size=16,resize=16,norm=half"
    document = json.loads(
        done(root, "--run", "run", "--encoder", spec, "--task", "linear", "--no-control", "--json")
    )
    assert document["encoders"] == ["run", "net"]
    assert {row["encoder"] for row in document["rows"]} == {"run", "net"}


def test_newest_finished_run_is_taken(root: Path, make_run: Make) -> None:
    make_run(root, "newer", when="2")
    unfinished = make_run(root, "unfinished", when="3")
    card = read_json(unfinished / "card.json") | {"finished": False}
    (unfinished / "card.json").write_text(json.dumps(card))
    done(root, "--task", "zeroshot", "--no-control")
    assert results(root, "newer")
    assert not (Folders(root).run("run") / "eval").exists()
    done(root, "--task", "zeroshot", "--no-control", "--run", "run")
    assert results(root, "run")
    assert "unfinished" in str(failure(run(root, "--run", "unfinished")))


@pytest.mark.parametrize(
    ("arguments", "dataset", "code", "says"),
    [
        ((), "nothing", Exit.INPUT, "prepared are phantom-rsna; imitate prep --help"),
        (("--run", "nobody"), SET, Exit.INPUT, "nobody"),
        (("--task", "guess"), SET, Exit.USAGE, "zeroshot, linear,"),
        (("--fraction", "0"), SET, Exit.USAGE, "--fraction"),
        (("--fraction", "1.5"), SET, Exit.USAGE, "--fraction"),
        (("--max-failures", "few"), SET, Exit.USAGE, "--max-failures"),
        (("--device", "abacus"), SET, Exit.USAGE, "abacus"),
        (("--encoder", "nowhere.pth,size=8"), SET, Exit.INPUT, "nowhere.pth"),
        ((), "../x", Exit.USAGE, "name"),
    ],
)
def test_what_cannot_be_gets_one_clear_message(
    root: Path, arguments: tuple[str, ...], dataset: str, code: Exit, says: str
) -> None:
    error = failure(run(root, *arguments, dataset=dataset))
    assert error.code == code and says in str(error)


def test_without_a_run_the_message_names_both_ways_on(tmp_path: Path, make_set: Make) -> None:
    error = failure(run(make_set(tmp_path)))
    assert "imitate train" in str(error) and "--encoder" in str(error)


def test_a_set_without_labels_cannot_be_evaluated(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    make_run(tmp_path)
    make_set(tmp_path, "bare", labels={})
    make_set(tmp_path, "positive", labels={"Edema": 1.0})
    for name in ("bare", "positive"):
        error = failure(run(tmp_path, dataset=name))
        assert error.code == Exit.USAGE and name in str(error)


def damage(root: Path, key: str) -> None:
    """Turn over a byte in the middle of a sample's PNG inside its shard."""
    shards = ShardSet.open(Folders(root).shards(SET))
    at = shards.column("key").index(key)
    offset, png, length = (int(shards.column(n)[at]) for n in ("offset", "png_off", "png_len"))
    path = shards.folder / "shards" / shards.column("shard")[at]
    data = bytearray(path.read_bytes())
    data[offset + png + length // 2] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_sample_is_left_out_named_and_counted(root: Path) -> None:
    done(root, "--task", "zeroshot", "--no-control")
    folder = Folders(root).run("run") / "eval" / SET
    before = {
        (p["key"], p["label"]): p["score"]
        for p in read_rows(folder / "predictions.parquet", PREDICTIONS)
    }
    key = min(before)[0]
    damage(root, key)
    result = run(root, "--task", "zeroshot", "--no-control", "--no-resume")
    assert isinstance(result.exception, TooManyFaults)
    assert read_json(folder / "results.json")["damaged"] == [key]
    after = {
        (p["key"], p["label"]): p["score"]
        for p in read_rows(folder / "predictions.parquet", PREDICTIONS)
    }
    assert after == {place: score for place, score in before.items() if place[0] != key}
    text = done(root, "--task", "zeroshot", "--no-control", "--max-failures", 1)
    assert "1 damaged" in text
    damage(root, key)  # the byte is turned back
    done(root, "--task", "zeroshot", "--no-control")
    assert read_json(folder / "results.json")["damaged"] == []


def test_two_processes_do_not_work_in_one_folder(root: Path) -> None:
    folder = Folders(root).run("run") / "eval" / SET
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "another process" in str(failure(run(root)))
    done(root, "--task", "zeroshot", "--no-control")


def test_a_run_cannot_be_called_as_the_control(root: Path, make_run: Make) -> None:
    make_run(root, "random")
    assert failure(run(root, "--run", "random")).code == Exit.USAGE


def test_a_damaged_card_or_model_is_named(root: Path) -> None:
    folder = Folders(root).run("run")
    (folder / "model" / "config.json").write_text('{"model_type": "imitate"}')
    assert "model" in str(failure(run(root)))
    (folder / "card.json").write_text('{"finished": true}')
    error = failure(run(root))
    assert error.code == Exit.INPUT and "card.json" in str(error)


def shard(root: Path, name: str) -> dict[str, str]:
    digest = write_shards(root, name, ShardOptions(samples=30)).digest
    assert digest
    return {"name": name, "digest": digest}


def test_test_samples_seen_in_training_are_refused(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    make_set(tmp_path)
    tested = ShardSet.open(write_shards(tmp_path, SET, ShardOptions(samples=30)).path)
    patient = tested.column("subject_id")[tested.rows("test")[0]]
    make_set(tmp_path, "pictures", dataset="other", split="train")
    make_set(tmp_path, "relative", dataset="nih", first=500, split="train", subject_id=patient)
    make_set(tmp_path, "stranger", dataset="other", first=500, split="train", subject_id=patient)
    for name in ("pictures", "relative", "stranger", SET):
        make_run(tmp_path, f"on-{name}", trained_on=shard(tmp_path, name))
    for name, says in (("pictures", "0 subjects, 61 pictures"), ("relative", "1 subjects, 0")):
        error = failure(run(tmp_path, "--run", f"on-{name}"))
        assert isinstance(error, UsageError) and says in str(error)
    for name in ("stranger", SET):
        done(tmp_path, "--run", f"on-{name}", "--task", "zeroshot", "--no-control")
        seen = read_json(Folders(tmp_path).run(f"on-{name}") / "eval" / SET / "results.json")
        assert (seen["overlap"]["subjects"], seen["overlap"]["pictures"]) == (0, 0)


def test_credentialed_data_makes_private_files(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    make_run(tmp_path)
    make_set(tmp_path, access="credentialed")
    before = os.umask(0o022)
    try:
        done(tmp_path, "--task", "zeroshot", "--no-control")
    finally:
        os.umask(before)
    folder = Folders(tmp_path).run("run") / "eval" / SET
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600}
