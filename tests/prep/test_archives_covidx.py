"""COVIDx: lists of every version, classes, sources, patients and faults, and the real lists."""

import csv
import gzip
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from imitate.contract import InputError, UsageError
from imitate.files import read_json, read_rows
from imitate.prep.archives.covidx import list_covidx
from imitate.prep.commands import app
from imitate.prep.phantoms.covidx import write_covidx
from imitate.prep.record import Listing
from imitate.schema import MANIFEST, REJECTS

PATIENTS = 60


def prepare(source: Path, root: Path, *more: object) -> Path:
    arguments = ["covidx", source, "--root", root, "--size", 48, "--quiet", *more]
    app([str(argument) for argument in arguments], standalone_mode=False)
    (folder,) = (root / "data" / "prepared").iterdir()
    return folder


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(folder / "manifest.parquet", MANIFEST)}


def lines_of(source: Path, name: str) -> list[list[str]]:
    return [line.split() for line in (source / name).read_text().splitlines()]


def write_lists(folder: Path, train: str, test: str, *, version: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"train{version}.txt").write_text(train)
    (folder / f"test{version}.txt").write_text(test)
    return folder


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"a listing opens no picture")


def verdicts(listing: Listing) -> dict[str | None, str]:
    return {r.source: r.rejection.reason for r in listing.records if r.rejection}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("covidx") / "covidx-cxr2"
    write_covidx(folder, patients=PATIENTS, seed=1, size=64)
    return folder


def test_phantom_is_laid_out_and_confounded_as_the_real_one(tree: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = lines_of(tree, f"{split}.txt")
        assert {len(row) for row in rows} == {4}
        assert {row[1] for row in rows} == {path.name for path in (tree / split).iterdir()}
    test = Counter((row[2], row[3]) for row in lines_of(tree, "test.txt"))
    assert test.keys() == {("negative", "rsna"), ("positive", "ricord")}
    patients = [{row[0] for row in lines_of(tree, f"{split}.txt")} for split in ("train", "test")]
    assert not patients[0] & patients[1]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_covidx(tmp_path / name, patients=5, seed=seed, size=32, classes=3)
    contents = [
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*.*")}
        for n in "abc"
    ]
    assert contents[0] == contents[1] != contents[2]
    assert {"train_COVIDx9A.txt", "test_COVIDx9A.txt"} < contents[0].keys()


def test_labels_patients_and_origins(tree: Path, tmp_path: Path) -> None:
    folder = prepare(tree, tmp_path)
    rows = manifest(folder)
    told = {
        row[1].rpartition(".")[0]: (split, *row)
        for split in ("train", "test")
        for row in lines_of(tree, f"{split}.txt")
    }
    assert rows.keys() == told.keys()
    for image_id, row in rows.items():
        split, patient, file, word, origin = told[image_id]
        assert row["labels"] == {"COVID-19": float(word == "positive")}
        assert row["metadata"] == {"origin": origin}
        assert (row["subject_id"], row["source"]) == (patient, f"{split}/{file}")
        assert (row["split"] == "test") == (split == "test")
    assert {row["split"] for row in rows.values()} == {"train", "validate", "test"}
    assert read_rows(folder / "rejects.parquet", REJECTS) == []
    card = read_json(folder / "card.json")
    assert set(card["shared_subjects"].values()) == {0}
    assert card["archive"]["lists"] == ["train.txt", "test.txt"]
    assert card["archive"]["sources"]["test"]["negative"].keys() == {"rsna"}
    assert any("which source a picture is from" in note for note in card["notes"])
    assert any("carry a picture's id as patient" in note for note in card["notes"])


def test_three_classes(tmp_path: Path) -> None:
    write_covidx(tmp_path / "lists", patients=20, seed=3, size=32, classes=3)
    folder = prepare(tmp_path / "lists", tmp_path, "--classes", 3)
    words = {
        row[1].rpartition(".")[0]: row[2]
        for split in ("train", "test")
        for row in lines_of(tmp_path / "lists", f"{split}_COVIDx9A.txt")
    }
    rows = manifest(folder)
    assert rows.keys() == words.keys()
    for image_id, row in rows.items():
        assert row["labels"].keys() == {"normal", "pneumonia", "COVID-19"}
        assert [name for name, value in row["labels"].items() if value] == [words[image_id]]


def test_the_other_kind_of_list_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.txt, train\.txt: see --classes"):
        list_covidx(tree, protocol="clean", classes=3, seed=0)
    with pytest.raises(InputError, match="negative, positive"):
        list_covidx(tmp_path, protocol="clean", classes=2, seed=0)
    with pytest.raises(UsageError, match="--classes 4"):
        list_covidx(tree, protocol="clean", classes=4, seed=0)
    with pytest.raises(UsageError, match="clean, paper"):
        list_covidx(tree, protocol="other", classes=2, seed=0)


def test_the_newest_lists_of_the_right_kind_are_taken(tmp_path: Path) -> None:
    one = "p {0}-a.png {1} rsna\nq {0}-b.png {1} cohen\nr {0}-c.png {1} cohen\n"
    for version in ("_COVIDx5", "_COVIDx7B", "_COVIDx9B", "_COVIDx10A", "_COVIDx_CXR-3B", ""):
        word = "pneumonia" if version in ("_COVIDx5", "_COVIDx10A") else "negative"
        name = version or "kaggle"
        train, test = one.format(name, word), one.format(f"{name}-test", word)
        write_lists(tmp_path, train, test, version=version)

    def lists(classes: int) -> list[str]:
        listing = list_covidx(tmp_path, protocol="clean", classes=classes, seed=0)
        return [name.removeprefix("train") for name in listing.facts["lists"][:1]]

    assert lists(3) == ["_COVIDx10A.txt"]
    for newest in ("", "_COVIDx_CXR-3B", "_COVIDx9B", "_COVIDx7B"):
        assert lists(2) == [f"{newest}.txt"]
        for split in ("train", "test"):
            (tmp_path / f"{split}{newest}.txt").unlink()


def test_blanks_in_names_and_rows_without_a_source(tmp_path: Path) -> None:
    train = (
        "COVID 106 COVID(106).png COVID-19 sirm\n"
        "7 an old film (2).JPG normal\n"
        "8 x.png pneumonia rnsa\n"
        "\n"
        "COVID 9 COVID(9).png covid-19 SIRM\n"
    )
    source = write_lists(tmp_path / "a", train, "t t.jpeg normal\n", version="_COVIDx7A")
    touch(source, "train/COVID(106).png", "train/an old film (2).JPG", "train/x.png", "test/t.jpeg")
    listing = list_covidx(source, protocol="clean", classes=3, seed=0)
    kept = {
        r.image_id: (r.subject_id, r.metadata.get("origin"))
        for r in listing.records
        if r.rejection is None
    }
    assert kept == {
        "COVID(106)": ("COVID 106", "sirm"),
        "an old film (2)": ("7", None),
        "x": ("8", "rsna"),
        "t": ("t", None),
    }
    assert verdicts(listing) == {"train/COVID(9).png": "file_missing"}


def test_every_file_and_every_row_has_a_verdict(tmp_path: Path) -> None:
    train = (
        "1 one.png negative rsna\n"
        "2 same.png positive ricord\n"
        "3 same.jpg negative cohen\n"
        "4 twice.png negative cohen\n"
        "5 gone.png positive ricord\n"
        "6 misplaced.png positive ricord\n"
    )
    test = "7 t.png negative rsna\n4 twice.png negative cohen\n1 u.png positive ricord\n"
    source = write_lists(tmp_path / "a", train, test)
    touch(source, *(f"train/{name}" for name in ("one.png", "same.png", "same.jpg", "twice.png")))
    touch(source, *(f"test/{name}" for name in ("misplaced.png", "t.png", "twice.png", "u.png")))
    touch(source, "test/one.png", "train/stranger.jpeg")
    listing = list_covidx(source, protocol="clean", classes=2, seed=0)
    assert verdicts(listing) == {
        "train/gone.png": "file_missing",
        "train/one.png": "not_in_protocol",  # its patient is in the test list
        "train/twice.png": "duplicate_name",
        "test/one.png": "file_not_listed",
        "train/stranger.jpeg": "file_not_listed",
    }
    kept = {r.image_id: r.source for r in listing.records if r.rejection is None}
    assert kept == {
        "same.png": "train/same.png",  # the ending tells two pictures apart
        "same.jpg": "train/same.jpg",
        "twice": "test/twice.png",
        "misplaced": "test/misplaced.png",
        "t": "test/t.png",
        "u": "test/u.png",
    }
    assert any(note.startswith("1 patients are in two lists, such as 1") for note in listing.notes)


def test_damaged_lists_are_named(tmp_path: Path) -> None:
    good = "t t.png negative rsna\n"
    for line in ("one.png negative rsna", "1 one.png maybe rsna", "1 one.gif negative rsna"):
        source = write_lists(tmp_path / "a", f"{good}{line}\n", good)
        with pytest.raises(InputError, match=r"patient file class source.*train\.txt, line 2"):
            list_covidx(source, protocol="clean", classes=2, seed=0)
    (source / "train.txt").unlink()
    (source / "train.txt.gz").write_bytes(gzip.compress(good.encode())[:-9])
    with pytest.raises(InputError, match=r"damaged.*train\.txt\.gz"):
        list_covidx(source, protocol="clean", classes=2, seed=0)


def real_rows(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [line.split(" ") for line in text.splitlines()]


@pytest.mark.real
@pytest.mark.parametrize(
    ("version", "classes", "counts"),
    [
        ("9B", 2, {"positive": 16_490, "negative": 13_992}),
        ("9A", 3, {"COVID-19": 16_490, "normal": 8_085, "pneumonia": 5_555}),
        ("7B", 2, None),
        ("7A", 3, None),
    ],
)
def test_real_lists(
    shared_data: Path, tmp_path: Path, version: str, classes: int, counts: dict[str, int] | None
) -> None:
    folder = shared_data / "labels" / "covidx"
    files = [folder / f"train_COVIDx{version}.txt.gz", folder / f"test_COVIDx{version}.txt"]
    for path in files:
        shutil.copy(path, tmp_path)
    listing = list_covidx(tmp_path, protocol="clean", classes=classes, seed=0)
    ours = {
        name: sum(map(Counter, listing.facts["sources"][name].values()), Counter())
        for name in ("train", "test")
    }
    assert len(listing.records) == sum(len(real_rows(path)) for path in files)
    assert sum(ours["train"].values()) == len(real_rows(files[0]))
    for word, published in (counts or {}).items():
        here = sum(listing.facts["sources"]["train"][word].values())
        assert published - 25 < here <= published
    if version == "9B":
        sources = listing.facts["sources"]
        assert sources["test"] == {"negative": {"rsna": 200}, "positive": {"ricord": 200}}
        assert "rsna" not in sources["train"]["positive"] and "rnsa" not in ours["train"]
        assert any(
            "negative from rsna (200); positive from ricord (200)" in n for n in listing.notes
        )
    assert len({record.key for record in listing.records}) == len(listing.records)


@pytest.mark.real
def test_real_pictures(shared_data: Path, tmp_path: Path) -> None:
    """COVID-19 from the hospitals' pictures, the others from the NIH twins of RSNA's ids."""
    source = tmp_path / "covidx"
    lists = shared_data / "labels" / "covidx"
    shutil.copytree(shared_data / "covidx" / "images", source / "train")
    (source / "test").mkdir()
    for name in ("train_COVIDx7B.txt.gz", "test_COVIDx7B.txt"):
        shutil.copy(lists / name, source)
    rows = {
        "train": real_rows(lists / "train_COVIDx7B.txt.gz"),
        "test": real_rows(lists / "test_COVIDx7B.txt"),
    }
    words = {row[-3]: (split, row[-2]) for split in rows for row in rows[split]}
    with (shared_data / "labels" / "rsna" / "nih_to_rsna.csv").open(newline="") as handle:
        twins = {f"{r['rsna_patient_id']}.png": r["nih_image"] for r in csv.DictReader(handle)}
    for file in twins.keys() & words.keys():
        shutil.copy(shared_data / "nih" / "images" / twins[file], source / words[file][0] / file)
    there = {path.name: path for path in source.rglob("*.*g") if path.parent != source}
    folder = prepare(source, tmp_path, "--max-failures", "100%")
    found = manifest(folder)
    by_word = defaultdict(set)
    for row in found.values():
        file = row["source"].rpartition("/")[2]
        split, word = words[file]
        by_word[word].add(file)
        assert row["labels"] == {"COVID-19": float(word == "positive")}
        assert (row["split"] == "test") == (split == "test")
    assert len(by_word["negative"]) > 10 and len(by_word["positive"]) > 10
    left = {
        row["source"].rpartition("/")[2]: row["reason"]
        for row in read_rows(folder / "rejects.parquet", REJECTS)
    }
    assert {f for f in there if f not in words} == {
        f for f, r in left.items() if r == "file_not_listed"
    }
    assert {left[f] for f in words if f not in there} == {"file_missing"}
    assert len(found) + len(left) == len(words.keys() | there.keys())
