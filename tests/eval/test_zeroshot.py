"""Zero-shot scores where the answer is known, and the prompt files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imitate.contract import Folders
from imitate.eval.metrics import Part
from imitate.eval.prompts.pairs import Pair, prompt_files, prompts_for, read_prompts
from imitate.eval.protocols.setting import read_setting
from imitate.eval.tasks.zeroshot import (
    SHOWN,
    ZeroShot,
    embed_pairs,
    pair_scores,
    shown_films,
    zeroshot,
)
from imitate.eval.testset import open_testset
from imitate.prep.archives.chexpert import LABELS as CHEXPERT
from imitate.prep.archives.covidx import labels_of
from imitate.prep.archives.nih import LABELS as NIH
from imitate.prep.archives.object_cxr import LABEL as OBJECT
from imitate.prep.archives.siim import LABEL as PNEUMOTHORAX
from imitate.prep.download.covidx_lists import WORDS
from imitate.prep.phantoms.drawing.film import KINDS
from imitate.prep.phantoms.drawing.wording import LABELS, NORMAL_IMPRESSIONS, labels_in
from imitate.shards.manifest import ShardSet

OPENI = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    *("Hernia", "normal"),
)

AXES = {"edema": [1.0, 0.0, 0.0], "swelling": [0.6, 0.8, 0.0], "no edema": [0.0, 0.0, 2.0]}
EDEMA = Pair(label="Edema", positive=("edema", "swelling"), negative=("no edema",), source="test")


def toy(texts: Sequence[str]) -> np.ndarray:
    return np.array([AXES[text] for text in texts])


def test_ensemble_is_the_normalized_mean_of_normalized_prompts() -> None:
    positive, negative = embed_pairs(toy, [EDEMA])
    mean = np.array([0.8, 0.4, 0.0])
    assert positive == pytest.approx((mean / np.linalg.norm(mean))[None])
    assert negative == pytest.approx(np.array([[0.0, 0.0, 1.0]]))


def test_score_is_the_softmax_share_of_the_positive_prompt() -> None:
    images = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    positive, negative = embed_pairs(toy, [EDEMA])
    scores = pair_scores(images, positive, negative)
    for image, score in zip(images, scores[:, 0], strict=True):
        up, down = np.exp(image @ positive[0]), np.exp(image @ negative[0])
        assert score == pytest.approx(up / (up + down))
    assert scores[0, 0] > 0.5 > scores[1, 0]


def test_zeroshot_finds_the_threshold_on_validation() -> None:
    images = np.array([[3.0, 0, 0], [2.0, 0, 0], [0, 0, 5.0], [0, 0, 1.0]])
    targets = np.array([[1.0], [1.0], [0.0], [0.0]])
    part = Part(features=images, targets=targets)
    scored = zeroshot(toy, [EDEMA], part, part)
    (threshold,) = (settled.threshold for settled in scored.settled)
    assert threshold == pytest.approx(scored.scores[:2, 0].min())
    assert (scored.scores[:2] > scored.scores[2:]).all()


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("mimic", LABELS),
        ("openi", OPENI),
        ("rsna", ["Pneumonia"]),
        ("nih", NIH),
        ("siim", [PNEUMOTHORAX]),
        ("covidx", sorted({*WORDS[3], *labels_of("negative")})),
        ("chexpert", CHEXPERT),
        ("object-cxr", [OBJECT]),
        ("phantom-mimic", [*KINDS, "No Finding"]),
        ("phantom-rsna", ["Pneumonia"]),
    ],
)
def test_prompts_cover_the_labels_of_their_archive(name: str, labels: Sequence[str]) -> None:
    assert sorted(read_prompts(name)) == sorted(labels)


@pytest.mark.parametrize("name", prompt_files())
def test_prompts_differ_between_sides_and_are_sentences(name: str) -> None:
    for pair in read_prompts(name).values():
        assert not set(pair.positive) & set(pair.negative)
        for text in pair.positive + pair.negative:
            assert text.endswith(".") and text[0].isupper() and text == text.strip()


@pytest.mark.parametrize("name", ["phantom-mimic", "phantom-rsna"])
def test_phantom_prompts_are_what_phantom_reports_say(name: str) -> None:
    normal = set(NORMAL_IMPRESSIONS)
    for label, pair in read_prompts(name).items():
        stated = pair.negative if label == "No Finding" else pair.positive
        clear = pair.positive if label == "No Finding" else pair.negative
        assert set(clear) <= normal
        for text in stated:
            assert any(value in (1.0, -1.0) for value in labels_in(text).values()), text
            assert label == "No Finding" or label in labels_in(text)


@pytest.mark.real
def test_openi_prompts_cover_the_gold_labels(shared_data: Path) -> None:
    with (shared_data / "openi" / "openi_gld_std14.csv").open() as handle:
        columns = handle.readline().strip().split(",")
    assert sorted(read_prompts("openi")) == sorted(columns[1:])


def test_prompts_of_the_set_come_before_those_of_its_archive() -> None:
    assert prompts_for(["phantom-rsna", "rsna"], ["Pneumonia"])[0].source.endswith(
        "phantom-rsna.yaml"
    )
    assert prompts_for(["rsna-paper", "rsna"], ["Pneumonia"])[0].source == "prompts/rsna.yaml"


def test_a_label_without_prompts_gets_the_plain_templates() -> None:
    (pair,) = prompts_for(["elsewhere"], ["Pleural_Other"])
    assert (pair.positive, pair.negative) == (("pleural other",), ("no pleural other",))
    assert pair.source == "template"


def test_the_published_protocol_has_the_plain_templates(built: Path) -> None:
    tests = open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))
    states = {}
    for protocol in ("clean", "paper"):
        setting = read_setting(protocol, "zeroshot", "rsna")
        assert setting is not None
        _, pairs = ZeroShot().state(tests, setting)  # type: ignore[misc, attr-defined]
        states[protocol] = {pair["label"]: pair for pair in pairs}
    assert states["clean"]["Pneumonia"]["source"] == "prompts/phantom-rsna.yaml"
    assert states["paper"]["Pneumonia"]["positive"] == ("pneumonia",)
    assert {pair["source"] for pair in states["paper"].values()} == {"template"}


def test_films_to_show_are_the_highest_cases_and_others_of_the_commonest_labels() -> None:
    rng = np.random.default_rng(2)
    target_NL = (rng.random((60, 6)) < np.linspace(0.1, 0.8, 6)).astype(np.float64)
    target_NL[:, 5] = np.nan  # nobody said
    score_NL = rng.random((60, 6))
    shown = list(shown_films(target_NL, score_NL))
    assert len({film for film, _ in shown}) == len(shown) == 2 * SHOWN
    assert [label for _, label in shown] == [4, 4, 3, 3, 2, 2, 1, 1]
    for place, (film, label) in enumerate(shown):
        target = 1 - place % 2
        before = {other for other, _ in shown[:place]}
        rivals = [
            score_NL[n, label]
            for n in range(60)
            if target_NL[n, label] == target
            if n not in before
        ]
        assert target_NL[film, label] == target and score_NL[film, label] == max(rivals)
    assert list(shown_films(np.zeros((1, 1)), np.ones((1, 1)))) == [(0, 0)]
