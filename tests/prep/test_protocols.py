"""Protocols: published sizes, targets, leakage, split lists, fractions, and what is told."""

import csv
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import SPLITS, InputError, UsageError
from imitate.prep.protocols.fractions import draw_fraction
from imitate.prep.protocols.protocol import PROTOCOLS, Protocol, load_protocol
from imitate.prep.protocols.retrieval import FINDINGS, five_by_200

ARCHIVES = ("rsna", "chexpert", "covidx", "nih", "siim", "object-cxr")


def ids_of(count: int, form: str = "{:06d}") -> list[str]:
    return [form.format(number) for number in range(count)]


def chexpert_ids(frontal: int, lateral: int, folder: str = "train") -> list[str]:
    """Film ids in which the laterals are spread evenly, three films to a patient."""
    total = frontal + lateral
    ends = [
        "lateral" if n * lateral // total != (n + 1) * lateral // total else "frontal"
        for n in range(total)
    ]
    return [f"{folder}/patient{n // 3:05d}/study1/view{n}_{end}" for n, end in enumerate(ends)]


def archive(dataset: str, protocol: str) -> tuple[list[str], dict[str, str]]:
    """Ids and official split of a complete archive, of the length that is published."""
    counts: dict[str, dict[str, int]] = {
        "rsna": {"train": 26_684},
        "siim": {"train": 12_047},
        "nih": {"train": 86_524, "test": 25_596},
        "covidx": {"train": 30_130 if protocol == "mgca" else 29_986, "test": 400},
        "object-cxr": {"train": 8_000, "validate": 1_000, "test": 1_000},
    }
    if dataset == "covidx" and protocol == "benchx":
        counts["covidx"] = {"train": 67_863, "validate": 8_473, "test": 8_482}
    if dataset == "chexpert":
        train = chexpert_ids(191_027, 32_387)
        valid = chexpert_ids(202, 32, "valid")
        return [*train, *valid], dict.fromkeys(train, "train") | dict.fromkeys(valid, "validate")
    official = {
        f"{split}-{image_id}": split
        for split, count in counts[dataset].items()
        for image_id in ids_of(count)
    }
    own = dataset in ("rsna", "siim")  # they publish no split
    return list(official), {} if own else official


def sizes(splits: dict[str, str]) -> list[int]:
    found = Counter(splits.values())
    return [found[name] for name in SPLITS]


@pytest.mark.parametrize(
    ("dataset", "protocol", "published"),
    [
        ("rsna", "paper", [16_010, 5_337, 5_337]),
        ("rsna", "mgca", [16_010, 5_337, 5_337]),
        ("rsna", "benchx", [18_678, 4_003, 4_003]),
        ("chexpert", "paper", [186_027, 5_000, 202]),
        ("covidx", "paper", [23_988, 5_998, 400]),
        ("covidx", "mgca", [24_104, 6_026, 400]),
        ("covidx", "benchx", [67_862, 8_472, 8_481]),
        ("nih", "paper", [77_872, 8_652, 25_596]),
        ("siim", "paper", [8_433, 1_807, 1_807]),
        ("object-cxr", "paper", [6_400, 1_600, 1_000]),
        ("object-cxr", "mgca", [7_200, 800, 1_000]),
        ("object-cxr", "benchx", [8_000, 1_000, 1_000]),
    ],
)
def test_lists_of_published_length_give_published_sizes(
    dataset: str, protocol: str, published: list[int]
) -> None:
    rules = load_protocol(dataset, protocol)
    ids, official = archive(dataset, protocol)
    labels = {i: {"Pneumonia": float(n % 4 == 0)} for n, i in enumerate(ids)}
    splits = rules.split(ids, subjects={}, official=official, seed=7, labels=labels)
    assert sizes(splits) == published
    assert rules.notes(splits) == rules.known
    facts = rules.facts(splits, complete=True)
    assert facts["published"] == facts["here"] == dict(zip(SPLITS, published, strict=True))
    if dataset not in ("siim", "rsna"):
        tests = {i for i, name in splits.items() if name == "test"}
        assert all(official[i] in ("test", "validate") for i in tests)


@pytest.mark.parametrize("dataset", ARCHIVES)
def test_clean_keeps_official_tests_and_patients_together(dataset: str) -> None:
    ids, official = archive(dataset, "clean")
    subjects = {i: f"{official.get(i, '')}{n // 4}" for n, i in enumerate(ids)}
    rules = load_protocol(dataset, "clean")
    splits = rules.split(ids, subjects=subjects, official=official, seed=0)
    groups: dict[str, set[str]] = {}
    for image_id, split in splits.items():
        groups.setdefault(subjects[image_id], set()).add(split)
    assert all(len(found) == 1 for found in groups.values())
    assert {name for found in groups.values() for name in found} == set(SPLITS)
    tests = {i for i, split in splits.items() if split == "test"}
    if official:
        kept = "test" if dataset in ("nih", "covidx") else "validate"
        assert tests == {i for i, name in official.items() if name == kept}
    other = rules.split(ids[::-1], subjects=subjects, official=official, seed=0)
    assert other == splits
    assert rules.split(ids, subjects=subjects, official=official, seed=1) != splits


def test_clean_leaves_out_training_pictures_of_tested_patients() -> None:
    official = {"a": "train", "b": "train", "c": "test", "d": "train"}
    subjects = {"a": "one", "b": "two", "c": "one"}
    splits = load_protocol("nih", "clean").split(
        list(official), subjects=subjects, official=official, seed=0
    )
    assert splits.keys() == {"b", "c", "d"}
    assert splits["c"] == "test"


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 80), dataset=st.sampled_from(ARCHIVES), seed=st.integers(0, 3))
def test_small_archives_of_any_size_are_split(count: int, dataset: str, seed: int) -> None:
    for name in ("clean", "paper", "mgca"):
        if (dataset, name) == ("nih", "mgca"):
            continue
        ids = ids_of(count, "train/patient{:02d}/study1/view1_frontal")
        splits = load_protocol(dataset, name).split(ids, subjects={}, official={}, seed=seed)
        assert set(splits) == set(ids)
        assert count < 30 or all(n for n in sizes(splits)[:2])


def test_published_draws_depend_on_no_seed_of_ours() -> None:
    ids = ids_of(500)
    for name in ("paper", "mgca"):
        draw = load_protocol("rsna", name).split
        assert draw(ids, subjects={}, official={}, seed=0) == draw(
            ids[::-1], subjects={}, official={}, seed=9
        )


def labelled(ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Labels of which every tenth film has exactly one of the five findings."""
    return {
        image_id: {FINDINGS[n // 10 % 5]: 1.0, "No Finding": 1.0}
        if n % 10 == 0
        else {"Edema": -1.0, "Pneumonia": 1.0}
        for n, image_id in enumerate(ids)
    }


def test_mgca_trains_on_most_of_its_chexpert_validation() -> None:
    """The published code restated with row numbers, as a data frame keeps them."""
    ids = chexpert_ids(20_000, 3_400)
    labels = labelled(ids)
    valid = chexpert_ids(20, 3, "valid")
    rules = load_protocol("chexpert", "mgca")
    given_ = {"subjects": {}, "official": dict.fromkeys(valid, "validate"), "seed": 0}
    splits = rules.split([*ids, *valid], labels=labels, **given_)
    repeated = rules.repeated([*ids, *valid], labels=labels, **given_)

    apart = five_by_200(ids, labels)
    frame = [(row, image_id) for row, image_id in enumerate(ids) if image_id not in apart]
    np.random.seed(0)
    size = round(5_000 * len(ids) / 223_414)
    chosen = np.random.choice(len(frame), size=size, replace=False)
    validation = {frame[position][1] for position in chosen}
    train = {image_id for row, image_id in frame if row not in set(chosen.tolist())}

    frontal = {image_id for image_id in ids if image_id.endswith("_frontal")}
    found = {name: {i for i, s in splits.items() if s == name} for name in SPLITS}
    assert found["validate"] == validation & frontal
    assert found["train"] == (train - validation) & frontal
    assert found["test"] == {i for i in valid if i.endswith("_frontal")}
    assert repeated == train & validation & frontal
    assert len(repeated) > 0.9 * len(found["validate"])


def test_five_by_200_takes_films_of_one_finding_alone() -> None:
    ids = chexpert_ids(20_000, 2_000)
    labels = labelled(ids)
    found = five_by_200(ids, labels)
    assert Counter(found.values()) == dict.fromkeys(FINDINGS, 200)
    for image_id, finding in found.items():
        assert image_id.endswith("_frontal")
        assert labels[image_id][finding] == 1
    assert five_by_200(ids[:100], labels).keys() == {
        i for i in ids[:100:10] if i.endswith("_frontal")
    }


def test_mgca_splits_rows_of_siim_not_pictures() -> None:
    rows = [image_id for n, image_id in enumerate(ids_of(2_000)) for _ in range(1 + (n % 10 == 0))]
    rules = load_protocol("siim", "mgca")
    splits = rules.split(rows, subjects={}, official={}, seed=0)
    repeated = rules.repeated(rows, subjects={}, official={}, seed=0)
    assert splits.keys() == set(rows)
    twice = {image_id for image_id, count in Counter(rows).items() if count == 2}
    assert repeated
    assert repeated <= twice
    assert all(splits[image_id] != "train" for image_id in repeated)
    unique = ids_of(12_047)
    assert sizes(rules.split(unique, subjects={}, official={}, seed=0)) == [8_432, 1_808, 1_807]


def test_targets_of_a_protocol() -> None:
    told = {"Atelectasis": -1.0, "Cardiomegaly": -1.0, "Edema": 1.0, "Fracture": 1.0}
    assert load_protocol("chexpert", "clean").targets(told) == told
    for name in ("paper", "mgca"):
        assert load_protocol("chexpert", name).targets(told) == {
            "Atelectasis": 1.0,
            "Cardiomegaly": 0.0,
            "Consolidation": 0.0,
            "Edema": 1.0,
            "Pleural Effusion": 0.0,
        }
    assert load_protocol("rsna", "mgca").targets({"Pneumonia": 0.0}) == {"Pneumonia": 0.0}


def write_lists(folder: Path, **lists: Sequence[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, names in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in names))
    return folder


@pytest.mark.parametrize(
    ("dataset", "counts"), [("nih", (78_468, 11_219, 22_433)), ("siim", (9_303, 1_372, 1_372))]
)
def test_published_lists(tmp_path: Path, dataset: str, counts: tuple[int, int, int]) -> None:
    ids = ids_of(sum(counts))
    first, second = counts[0], counts[0] + counts[1]
    parts = {"train": ids[:first], "val": ids[first:second], "test": ids[second:]}
    lists = write_lists(
        tmp_path, **{name: [f"{i}.png" for i in part] for name, part in parts.items()}
    )
    rules = load_protocol(dataset, "benchx", lists=lists)
    splits = rules.split(ids[1:], subjects={}, official={}, seed=0)
    assert sizes(splits) == [counts[0] - 1, *counts[1:]]
    assert all(splits[i] == "validate" for i in parts["val"])
    assert f"{counts[0] - 1:,} pictures, 1 fewer than the {counts[0]:,}" in rules.notes(splits)[0]
    assert rules.facts(splits, complete=False)["lists"] is True


def test_lists_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"NIH_Chest_Xray of github\.com/yangzhou12/BenchX"):
        load_protocol("nih", "benchx")
    for name in ("clean", "paper"):
        with pytest.raises(UsageError, match="--split-lists has no meaning"):
            load_protocol("nih", name, lists=tmp_path)
    rules = load_protocol("nih", "benchx", lists=tmp_path)
    for lists, message in (
        ({"train": ["a"], "val": ["b"]}, r"split list not found.*test\.txt"),
        ({"test": ["a"]}, "in two split lists"),
        ({"test": ["c"]}, "name none of these pictures"),
    ):
        write_lists(tmp_path, **lists)
        with pytest.raises(InputError, match=message):
            rules.split(["x"], subjects={}, official={}, seed=0)
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a list of names"):
        rules.split(["a"], subjects={}, official={}, seed=0)


def test_what_a_protocol_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="'mgca' is not one of clean, paper, benchx for nih"):
        load_protocol("nih", "mgca")
    with pytest.raises(UsageError, match="'x' is not one of"):
        load_protocol("rsna", "x")
    with pytest.raises(InputError, match=r"own validate split \(val\.txt of COVIDx CXR-4\)"):
        load_protocol("covidx", "benchx").split(
            ["a", "b"], subjects={}, official={"a": "train", "b": "test"}, seed=0
        )


def test_shorter_lists_are_told_by_how_much() -> None:
    rules = load_protocol("rsna", "paper")
    splits = rules.split(ids_of(26_000), subjects={}, official={}, seed=0)
    note = rules.notes(splits)[0]
    assert "train has 15,599 pictures, 411 fewer than the 16,010 published" in note
    assert "26,000 pictures, 684 fewer than the 26,684 of the complete rsna" in note


def protocols() -> Iterator[Protocol]:
    for dataset in ARCHIVES:
        for name in PROTOCOLS:
            try:
                yield load_protocol(dataset, name)
            except (UsageError, InputError):
                continue


def test_every_protocol_says_where_it_comes_from() -> None:
    found = list(protocols())
    assert len(found) == 6 + 6 + 5 + 3  # NIH and SIIM under benchx need lists, and mgca has no NIH
    assert all(rules.source and rules.fractions for rules in found)
    assert len({rules.digest for rules in found}) == len(PROTOCOLS)


def test_the_docs_have_the_published_sizes(repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / "reference" / "protocols.md").read_text()
    told = {x for x in text.splitlines() if x.split(" | ")[0].removeprefix("| ") in ARCHIVES}
    rows = set()
    for dataset in ARCHIVES:
        for name in PROTOCOLS[1:]:
            lists = tmp_path if (dataset, name) in {("nih", "benchx"), ("siim", "benchx")} else None
            if (dataset, name) not in {("nih", "mgca"), ("chexpert", "benchx")}:
                known = load_protocol(dataset, name, lists=lists).sizes
                counts = " | ".join(f"{known[split]:,}" for split in SPLITS)
                rows.add(f"| {dataset} | {name} | {counts} |")
    assert rows == told


@pytest.mark.parametrize(
    ("dataset", "protocol", "train", "counts"),
    [
        ("rsna", "paper", 16_010, (160, 1_601)),
        ("rsna", "mgca", 16_010, (160, 1_601)),
        ("chexpert", "paper", 186_027, (1_860, 18_602)),
        ("covidx", "paper", 23_988, (239, 2_398)),
        ("covidx", "mgca", 23_988, (240, 2_399)),
        ("nih", "paper", 77_872, (778, 7_787)),
        ("siim", "paper", 8_433, (84, 843)),
        ("siim", "mgca", 3_738, (37, 373)),  # of those that segmentation balances
        ("object-cxr", "paper", 6_400, (64, 640)),
    ],
)
def test_fractions_have_their_published_counts(
    dataset: str, protocol: str, train: int, counts: tuple[int, int]
) -> None:
    rules, ids = load_protocol(dataset, protocol), ids_of(train)
    drawn = [draw_fraction(rules, ids, fraction, subjects={}) for fraction in (0.01, 0.1)]
    assert tuple(len(part) for part in drawn) == counts
    np.random.seed(42)
    naive = np.random.choice(train, counts[0], replace=False)
    assert drawn[0] == [ids[position] for position in sorted(naive)]
    again = draw_fraction(rules, ids, 0.01, subjects={}, draw=1)
    assert len(again) == counts[0]
    assert again != drawn[0]
    assert draw_fraction(rules, ids, 1, subjects={}) == ids


@pytest.mark.parametrize(
    ("dataset", "train", "counts"),
    [("rsna", 18_678, (186, 1_867)), ("object-cxr", 8_000, (80, 800))],
)
def test_benchx_fractions_keep_the_classes(
    dataset: str, train: int, counts: tuple[int, int]
) -> None:
    rules, ids = load_protocol(dataset, "benchx"), ids_of(train)
    classes = {image_id: str(n % 4 == 0) for n, image_id in enumerate(ids)}
    for fraction, count in zip((0.01, 0.1), counts, strict=True):
        drawn = draw_fraction(rules, ids, fraction, subjects={}, classes=classes)
        assert len(drawn) == count
        assert abs(sum(classes[i] == "True" for i in drawn) - count / 4) <= 1


@settings(max_examples=50, deadline=None)
@given(
    patients=st.lists(st.integers(0, 30), min_size=1, max_size=120),
    fraction=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    draw=st.integers(0, 3),
)
def test_clean_fractions_take_whole_patients(
    patients: list[int], fraction: float, draw: int
) -> None:
    rules = load_protocol("rsna", "clean")
    subjects = {f"{n:03d}": str(patient) for n, patient in enumerate(patients)}
    ids = list(subjects)
    drawn = draw_fraction(rules, ids, fraction, subjects=subjects, draw=draw)
    taken = {subjects[image_id] for image_id in drawn}
    assert drawn == [image_id for image_id in ids if subjects[image_id] in taken]
    assert len(taken) == max(1, round(fraction * len(set(patients))))
    less = draw_fraction(rules, ids, fraction / 2, subjects=subjects, draw=draw)
    assert set(less) <= set(drawn)


def test_a_fraction_is_a_share() -> None:
    for wrong in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="fraction"):
            draw_fraction(load_protocol("rsna", "clean"), ["a"], wrong, subjects={})


@pytest.mark.real
def test_real_lists_are_a_little_short_and_say_so(shared_data: Path) -> None:
    with gzip.open(shared_data / "labels" / "rsna" / "stage_2_train_labels.csv.gz", "rt") as handle:
        rsna = sorted({row["patientId"] for row in csv.DictReader(handle)})
    rules = load_protocol("rsna", "paper")
    note = rules.notes(rules.split(rsna, subjects={}, official={}, seed=0))[0]
    short = 26_684 - len(rsna)
    assert 0 < short < 100
    assert f"{len(rsna):,} pictures, {short} fewer than the 26,684 of the complete rsna" in note

    official: dict[str, str] = {}
    folder = shared_data / "labels" / "covidx"
    for split, name in (("train", "train_COVIDx9A.txt.gz"), ("test", "test_COVIDx9A.txt")):
        data = (folder / name).read_bytes()
        text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
        official |= {line.split()[1]: split for line in text.splitlines()}
    rules = load_protocol("covidx", "mgca")
    splits = rules.split(list(official), subjects={}, official=official, seed=0)
    note = rules.notes(splits)[0]
    assert sizes(splits)[2] == 400
    assert f"{30_530 - len(official)} fewer than the 30,530 of the complete covidx" in note
