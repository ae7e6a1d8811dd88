"""Recall@K: equal to a naive double loop, ties and repeated texts included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.train.validation import retrieval
from imitate.train.validation.retrieval import RANKS, recalls


def naive(scores, same, k):
    """Recall of the exact pair and of the same text, query by query, candidate by candidate."""
    pair, text = [], []
    for query, row in enumerate(scores):
        above = sum(other > row[query] for other in row)
        level = sum(other == row[query] for other in row)
        # among candidates that score as high, each place is as likely
        pair.append(np.mean([place < k for place in range(above, above + level)]))
        best = max(score for score, code in zip(row, same, strict=True) if code == same[query])
        before = sum(
            score >= best for score, code in zip(row, same, strict=True) if code != same[query]
        )
        text.append(before < k)
    return np.mean(pair), np.mean(text)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), texts=st.integers(1, 12), coarse=st.booleans(), seed=st.integers(0, 9))
def test_recalls_are_those_of_a_double_loop(n, texts, coarse, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(-1, 2, (n, 2)) if coarse else rng.normal(size=(n, 4))
    text = rng.integers(-1, 2, (texts, 2)) if coarse else rng.normal(size=(texts, 4))
    row = rng.integers(0, texts, n)
    same = row // 2  # two texts may count as the same
    found = recalls(
        torch.tensor(image, dtype=torch.float32),
        torch.tensor(text, dtype=torch.float32),
        text_N=torch.tensor(row),
        same_N=torch.tensor(same),
    )
    scores = image.astype(np.float32) @ text.astype(np.float32).T
    sides = {"image_to_text": scores[:, row], "text_to_image": scores.T[row]}
    for direction, table in sides.items():
        for k in RANKS:
            pair, text_too = naive(table.tolist(), same.tolist(), k)
            assert found[f"{direction}/pair/r@{k}"] == pytest.approx(pair)
            assert found[f"{direction}/same/r@{k}"] == pytest.approx(text_too)


def test_a_text_that_all_share_is_found_by_chance_alone():
    image = torch.nn.functional.normalize(torch.rand(20, 4), dim=1)
    same = torch.zeros(20, dtype=torch.long)
    found = recalls(image, torch.ones(1, 4) / 2, text_N=same, same_N=same)
    assert found["image_to_text/pair/r@1"] == pytest.approx(1 / 20)
    assert found["image_to_text/pair/r@10"] == pytest.approx(10 / 20)
    assert found["image_to_text/same/r@1"] == 1


def test_chunks_change_nothing(monkeypatch):
    image, text = torch.rand(50, 8), torch.rand(50, 8)
    codes = torch.arange(50)
    whole = recalls(image, text, text_N=codes, same_N=codes)
    monkeypatch.setattr(retrieval, "CHUNK", 7)
    assert recalls(image, text, text_N=codes, same_N=codes) == pytest.approx(whole)
