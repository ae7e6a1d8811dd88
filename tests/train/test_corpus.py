from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitate.contract import ImitateError
from imitate.train.network.text import TextConfig, TextEncoder, build_text_encoder
from imitate.train.objective.corpus import Corpus, build_corpus, text_of
from imitate.train.objective.loss import Section


def sample(key: str, study: str | None, findings: str, impression: str) -> dict[str, Any]:
    return {
        "key": key,
        "dataset": "d",
        "study_id": study,
        "findings": findings,
        "impression": impression,
    }


SAMPLES = [
    sample("a", "s1", "Clear lungs.", "Normal."),
    sample("b", "s1", "Clear lungs.", "Normal."),
    sample("c", "s2", "", "normal"),
    sample("d", None, "Effusion on ___.", ""),
    sample("e", None, "Effusion on XXXX.", "  "),
    {**sample("f", "s1", "Edema.", "Edema."), "dataset": "other"},
]
ORDINALS = np.array([2, 3, 5, 8, 9, 11])


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    texts = (s[name] for s in SAMPLES for name in ("findings", "impression"))
    return build_text_encoder(TextConfig(model="tiny", pooling="mean"), texts=texts)


def build(encoder: TextEncoder, folder: Path, *sections: Section) -> Corpus:
    return build_corpus(
        ordinals=ORDINALS,
        samples=iter(SAMPLES),
        sections=sections,
        encoder=encoder,
        folder=folder,
    )


def test_each_sample_finds_its_texts(encoder: TextEncoder, tmp_path: Path) -> None:
    corpus = build(encoder, tmp_path, "impression", "findings")
    assert corpus.keys == ("a", "b", "c", "d", "e", "f")
    assert (corpus.row["findings"] >= 0).tolist() == [True, True, False, True, True, True]
    assert (corpus.row["impression"] >= 0).tolist() == [True, True, True, False, False, True]
    for section in ("impression", "findings"):
        for i, document in enumerate(SAMPLES):
            row = corpus.row[section][i]
            if row >= 0:
                expected = encoder.embed([text_of(document, section)])[0]
                np.testing.assert_allclose(corpus.embeddings[row], expected, rtol=1e-4, atol=1e-5)


def test_each_distinct_text_is_embedded_once(encoder: TextEncoder, tmp_path: Path) -> None:
    corpus = build(encoder, tmp_path, "impression", "findings")
    # Clear lungs. | Normal. | normal | Effusion on (mark). | Edema.
    assert len(corpus.embeddings) == 5
    assert (tmp_path / f"{encoder.digest}.npy").is_file()


def test_identical_texts_and_common_studies_have_equal_codes(
    encoder: TextEncoder, tmp_path: Path
) -> None:
    corpus = build(encoder, tmp_path, "impression", "findings")
    same, study = corpus.same["impression"], corpus.study
    assert same[0] == same[1] == same[2] != same[5]
    assert corpus.same["findings"][3] == corpus.same["findings"][4]
    assert study[0] == study[1]
    assert len(set(study.tolist())) == 5  # s1 of another archive, and unknown ones, are their own


def test_the_centre_is_the_mean_over_samples(encoder: TextEncoder, tmp_path: Path) -> None:
    corpus = build(encoder, tmp_path, "impression", "findings")
    texts = [s["impression"] for s in SAMPLES if s["impression"].strip()]
    expected = encoder.embed(texts).mean(0)
    np.testing.assert_allclose(corpus.centre["impression"], expected, rtol=1e-4, atol=1e-5)


def test_the_report_is_impression_then_findings(encoder: TextEncoder, tmp_path: Path) -> None:
    assert text_of(SAMPLES[0], "report") == "Normal. Clear lungs."
    assert text_of(SAMPLES[2], "report") == "normal"
    assert text_of(SAMPLES[5], "report") == "Edema."  # one text that fills both sections
    corpus = build(encoder, tmp_path, "report")
    assert (corpus.row["report"] >= 0).all()


def test_reports_and_sections_keep_caches_of_their_own(
    encoder: TextEncoder, tmp_path: Path
) -> None:
    build(encoder, tmp_path, "impression", "findings")
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    build(encoder, tmp_path, "report")
    build(encoder, tmp_path, "impression", "findings")
    after = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert before.items() < after.items()


def test_ordinals_lead_to_positions(encoder: TextEncoder, tmp_path: Path) -> None:
    corpus = build(encoder, tmp_path, "findings")
    assert corpus.positions(np.array([11, 2, 8])).tolist() == [5, 0, 3]
    for foreign in (0, 4, 99):
        with pytest.raises(ImitateError, match="not of the training split"):
            corpus.positions(np.array([2, foreign]))
