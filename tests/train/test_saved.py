"""The corpus kept on disk: the same as built anew, and never of other reports."""

import dataclasses
import shutil

import pytest

from imitate.contract import Folders
from imitate.options import FaultBudget
from imitate.shards.manifest import ShardSet
from imitate.shards.reader import ShardReader
from imitate.train.bound import TrainOptions
from imitate.train.network.text import TextConfig, build_text_encoder
from imitate.train.recipes.recipe import load_recipe
from imitate.train.run import train

ANY = TrainOptions(quiet=True, device="cpu", budget=FaultBudget(number=9))


@pytest.fixture
def recipe(tiny_settings, tmp_path):
    """A recipe whose text encoder does not take its words from the reports."""
    encoder = build_text_encoder(TextConfig(model="tiny"), texts=["the lungs are clear edema"])
    encoder.save(tmp_path / "encoder")
    return load_recipe("demo", (*tiny_settings, f"text.model={tmp_path / 'encoder'}"))


@pytest.fixture
def reports(monkeypatch):
    """How many reports were read."""
    count = []
    texts = ShardReader.texts

    def counted(reader, ordinals):
        count.extend(ordinals.tolist())
        return texts(reader, ordinals)

    monkeypatch.setattr(ShardReader, "texts", counted)
    return count


def run(root, recipe, name, options=ANY):
    return train(root, recipe, dataclasses.replace(options, name=name))


def test_the_second_start_reads_no_report_and_gives_the_same(
    tiny_root, recipe, reports, lasting_part
):
    first = run(tiny_root, recipe, "same")
    assert len(reports) == 20 + 2  # two are held out
    expected = lasting_part(first.path)
    shutil.rmtree(first.path)
    assert lasting_part(run(tiny_root, recipe, "same").path) == expected
    assert len(reports) == 20 + 2


def test_other_sections_or_damaged_files_are_read_anew(tiny_root, recipe, reports, tiny_settings):
    run(tiny_root, recipe, "first")
    text = Folders(tiny_root).shards("tiny") / "text"
    for ending in (".safetensors", ".npy", ".corpus.json"):
        reports.clear()
        [path] = text.glob(f"*{ending}")
        data = bytearray(path.read_bytes())
        data[-2] ^= 1
        path.write_bytes(data)
        run(tiny_root, recipe, f"after{ending}")
        assert len(reports) == 20, ending
    reports.clear()
    loss = dataclasses.replace(recipe.loss, terms=("impression",))
    run(tiny_root, dataclasses.replace(recipe, loss=loss), "other")
    assert len(reports) == 20 + 2


def test_a_corpus_with_a_damaged_report_is_not_kept(tiny_root, recipe, reports):
    shards = Folders(tiny_root).shards("tiny")
    opened = ShardSet.open(shards)
    row = int(opened.rows("train")[3])
    path = shards / "shards" / str(opened.column("shard")[row])
    data = bytearray(path.read_bytes())
    data[int(opened.column("offset")[row]) + int(opened.column("json_off")[row]) + 5] ^= 1
    path.write_bytes(data)
    run(tiny_root, recipe, "first")
    assert not list((shards / "text").glob("*.corpus.json"))
