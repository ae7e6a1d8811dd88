"""What public encoders are known to have seen, and what `clean` makes of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from imitate.contract import Folders, UsageError
from imitate.eval.chain import Overlap
from imitate.eval.commands import register
from imitate.eval.encoders.exposure import SAYS, exposure_of
from imitate.files import read_json

Make = Callable[..., Path]
ARCHIVES = {"mimic", "openi", "chexpert", "rsna", "covidx", "nih", "siim", "object-cxr"}


@pytest.mark.parametrize(
    ("name", "archive", "seen"),
    [
        ("rad-dino", "nih", "test"),
        ("models--microsoft--RAD-DINO", "rsna", "test"),
        ("rad_dino_maira_2", "siim", "test"),
        ("densenet121-res224-all", "openi", "some"),
        ("MGCA_resnet50", "mimic", "train"),
        ("mgca_resnet50", "rsna", None),
        ("resnet50", "nih", None),
        ("arkade", "mimic", None),  # `kad` is no word in it
        ("prioritized", "mimic", None),
        ("", "nih", None),
    ],
)
def test_encoders_are_known_by_the_words_of_their_name(
    name: str, archive: str, seen: str | None
) -> None:
    found = exposure_of(name, archive)
    assert (found.seen if found else None) == seen


def test_the_data_file_names_archives_and_sources(repository: Path) -> None:
    for entry in yaml.safe_load((repository / "eval" / "exposure.yaml").read_text()):
        assert entry["source"] and entry["names"] and set(entry["seen"]) <= ARCHIVES
        assert set(entry["seen"].values()) <= SAYS.keys()
        # what has seen NIH has seen films of RSNA and SIIM, which come from it
        assert {"rsna", "siim"} <= entry["seen"].keys() or "nih" not in entry["seen"]


def test_only_what_is_known_of_the_test_split_is_refused() -> None:
    for archive, refused in (("nih", True), ("mimic", False)):
        seen = Overlap(training_set="rad-dino", exposure=exposure_of("rad-dino", archive))
        assert "RAD-DINO" in str(seen)
        if refused:
            with pytest.raises(UsageError, match="this test split"):
                seen.check()
        else:
            seen.check()


def evaluate(root: Path, *arguments: str) -> BaseException | None:
    app = typer.Typer()
    register(app)
    words = [*arguments, "--root", str(root), "--quiet", "--task", "linear", "--no-control"]
    return CliRunner().invoke(app, words).exception


def test_an_encoder_that_has_seen_the_test_films_is_refused_but_not_on_phantoms(
    root: Path, make_set: Make, weights: Path
) -> None:
    make_set(root, "rsna")
    known = shutil.copy(weights, weights.with_name("rad-dino.pth"))
    spec = f"{known},size=16,resize=16,norm=half"
    assert isinstance(evaluate(root, "rsna", "--encoder", spec), UsageError)
    assert evaluate(root, "rsna", "--encoder", spec.replace("rad-dino", "net")) is None
    assert evaluate(root, "phantom-rsna", "--encoder", spec) is None


def test_a_run_that_began_with_such_weights_is_refused_too(
    root: Path, make_set: Make, make_run: Make
) -> None:
    make_set(root, "rsna")
    folder = make_run(root, "begun")
    weights = "model: {backbone: {name: resnet50, weights: /somewhere/rad-dino}}\n"
    (folder / "recipe.yaml").write_text(weights)
    assert isinstance(evaluate(root, "rsna", "--run", "begun"), UsageError)
    assert evaluate(root, "rsna", "--run", "run") is None
    path = Folders(root).run("run") / "eval" / "rsna" / "results.json"
    assert read_json(path)["overlap"]["exposure"] is None


def test_pictures_of_one_archive_with_unknown_patients_are_told(
    tmp_path: Path, make_set: Make, make_run: Make
) -> None:
    from imitate.shards.plan import ShardOptions
    from imitate.shards.write import write_shards

    make_set(tmp_path, "films", dataset="nih", first=500, split="train", subjects=False)
    digest = write_shards(tmp_path, "films", ShardOptions(samples=30)).digest
    make_set(tmp_path, "rsna")
    make_run(tmp_path, trained_on={"name": "films", "digest": digest})
    assert evaluate(tmp_path, "rsna") is None
    path = Folders(tmp_path).run("run") / "eval" / "rsna" / "results.json"
    assert "both hold pictures of nih" in read_json(path)["overlap"]["note"]
