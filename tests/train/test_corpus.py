from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imitate.contract import ImitateError
from imitate.train.network.text import TextConfig, TextEncoder, build_text_encoder
from imitate.train.objective.corpus import (
    FIELDS,
    Corpus,
    build_corpus,
    corpus_without_texts,
    embeddings_path,
    fields_of,
    text_of,
)
from imitate.train.objective.loss import Section
from imitate.train.objective.saved import SavedCorpus


def sample(key: str, study: str | None, findings: str, impression: str) -> dict[str, Any]:
    return {
        "key": key,
        "dataset": "d",
        "study_id": study,
        "findings": findings,
        "impression": impression,
        "sections": {"findings": findings, "impression": impression, "indication": f"Ask {key}."},
        "view": "PA",
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
        samples=SAMPLES,
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


def test_any_section_of_the_reports_can_be_read(encoder: TextEncoder, tmp_path: Path) -> None:
    assert text_of(SAMPLES[0], "indication") == "Ask a."
    assert text_of(SAMPLES[0], "technique") == text_of({"sections": ""}, "technique") == ""
    corpus = build(encoder, tmp_path, "findings", "indication", "technique")
    assert (corpus.row["indication"] >= 0).all()
    assert (corpus.row["technique"] < 0).all()
    assert corpus.same["findings"][0] != corpus.same["indication"][1]
    assert set(fields_of(["indication"])) == {*FIELDS, "sections"}
    assert set(fields_of(["report"])) == {*FIELDS, "impression", "findings"}


def test_comparisons_can_be_left_out(encoder: TextEncoder, tmp_path: Path) -> None:
    compared = [sample("a", None, "Clear lungs. Edema has improved.", "No interval change.")]
    masked = build_text_encoder(
        TextConfig(model="tiny", pooling="mean", priors="mask"), texts=["clear lungs"]
    )
    corpus = build_corpus(
        ordinals=ORDINALS[:1],
        samples=compared,
        sections=["impression", "findings"],
        encoder=masked,
        folder=tmp_path,
    )
    assert corpus.row["impression"].tolist() == [-1]
    expected = masked.embed(["Clear lungs."])[0]
    np.testing.assert_allclose(corpus.embeddings[corpus.row["findings"][0]], expected, rtol=1e-5)
    plain = build_text_encoder(TextConfig(model="tiny", pooling="mean"), texts=["clear lungs"])
    assert plain.digest == masked.digest
    sections = ("impression", "findings")
    assert embeddings_path(tmp_path, plain, sections) != embeddings_path(tmp_path, masked, sections)


def test_a_corpus_that_was_kept_is_the_same(encoder: TextEncoder, tmp_path: Path) -> None:
    sections = ("impression", "indication")
    built = build(encoder, tmp_path, *sections)
    saved = SavedCorpus(
        folder=tmp_path,
        digest="d",
        encoder=encoder,
        ordinals=ORDINALS,
        keys=built.keys,
        sections=sections,
    )
    assert saved.load() is None
    saved.save(built)
    kept = saved.load()
    assert kept is not None
    assert kept.keys == built.keys
    for ours, theirs in ((built.facts, kept.facts), (built.row, kept.row), (built.same, kept.same)):
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name])
            assert array.dtype == theirs[name].dtype
    np.testing.assert_array_equal(built.embeddings, kept.embeddings)


def test_a_corpus_without_texts_knows_samples_and_studies() -> None:
    known = [{name: s[name] for name in ("key", "dataset", "study_id", "view")} for s in SAMPLES]
    corpus = corpus_without_texts(ordinals=ORDINALS, samples=known)
    assert corpus.keys == ("a", "b", "c", "d", "e", "f")
    assert corpus.study[0] == corpus.study[1] != corpus.study[2]
    assert corpus.facts["labels"].shape == (6, 0)


def test_ordinals_lead_to_positions(encoder: TextEncoder, tmp_path: Path) -> None:
    corpus = build(encoder, tmp_path, "findings")
    assert corpus.positions(np.array([11, 2, 8])).tolist() == [5, 0, 3]
    for foreign in (0, 4, 99):
        with pytest.raises(ImitateError, match="not of the training split"):
            corpus.positions(np.array([2, foreign]))
