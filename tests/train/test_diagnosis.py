"""The diagnosis of the prior against loops over pairs, and on targets whose answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imitate.train.objective.diagnosis import Observed, diagnose
from imitate.train.objective.targets import mended_targets, source_targets


def seen(targets, same, labels=None):
    targets = np.asarray(targets, dtype=np.float64)
    return Observed(targets=targets, same=np.asarray(same), labels=labels or [{}] * len(targets))


def test_one_hot_targets_have_nothing_off_the_positives():
    found = diagnose([seen(np.eye(4), [0, 1, 2, 3])])
    assert (found.row_sum, found.off_share) == (1.0, 0.0)
    assert found.kl_uniform is None
    assert found.label_ratio is None
    assert found.sentence("impression") == (
        "prior of impression: rows sum to 1.00-1.00, 0% of the mass off the positives"
    )


def test_an_even_spread_is_zero_nats_from_uniform():
    targets = 0.5 * np.eye(5) + 0.125 * (1 - np.eye(5))
    found = diagnose([seen(targets, range(5))])
    assert found.off_share == pytest.approx(0.5)
    assert found.kl_uniform == pytest.approx(0, abs=1e-12)


def test_all_on_one_pair_is_the_logarithm_of_the_choices():
    targets = np.eye(4) + np.roll(np.eye(4), 1, axis=1)
    assert diagnose([seen(targets, range(4))]).kl_uniform == pytest.approx(math.log(3))


def test_labels_weigh_sharing_against_conflicting_pairs():
    edema, both, clear, unsure = {"E": 1.0}, {"E": 1.0, "F": 1.0}, {"E": 0.0}, {"E": -1.0}
    targets = np.eye(4)
    targets[0, 1] = targets[1, 0] = 0.6  # share E
    targets[0, 2] = targets[2, 0] = 0.1  # finding against none
    targets[1, 2] = targets[2, 1] = 0.3
    targets[0, 3] = 9.0  # uncertain counts in neither
    found = diagnose([seen(targets, range(4), [edema, both, clear, unsure])])
    assert found.label_ratio == pytest.approx(0.6 / 0.2)
    assert "pairs that share a label weigh 3.0x conflicting ones" in found.sentence("findings")


def test_the_label_no_finding_is_none():
    targets = np.full((3, 3), 0.2) + np.eye(3)
    targets[0, 1] = targets[1, 0] = 0.1
    labels = [{"E": 1.0}, {"No Finding": 1.0}, {"No Finding": 0.0, "E": 1.0}]
    assert diagnose([seen(targets, range(3), labels)]).label_ratio == pytest.approx(0.2 / 0.15)


def test_identical_texts_are_positives():
    targets = np.full((4, 4), 0.25)
    found = diagnose([seen(targets, [7, 7, 8, 9])])
    assert found.off_share == pytest.approx((0.5 + 0.5 + 0.75 + 0.75) / 4)


def naive(batches):
    sums, shares, kls, sharing, conflicting = [], [], [], [], []
    for batch in batches:
        n = len(batch.targets)
        for i in range(n):
            row = batch.targets[i]
            off = [j for j in range(n) if batch.same[i] != batch.same[j]]
            mass = sum(row[j] for j in off)
            sums.append(sum(row))
            shares.append(mass / sum(row))
            if mass > 0:
                parts = [row[j] / mass for j in off if row[j] > 0]
                kls.append(sum(p * math.log(p * len(off)) for p in parts))
            for j in off:
                one, other = batch.labels[i], batch.labels[j]
                if any(one.get(k) == 1 and other.get(k) == 1 for k in one):
                    sharing.append(row[j])
                ill = [1 in each.values() for each in (one, other)]
                well = [bool(e) and all(v == 0 for v in e.values()) for e in (one, other)]
                if (ill[0] and well[1]) or (ill[1] and well[0]):
                    conflicting.append(row[j])
    ratio = None
    if sharing and conflicting and sum(conflicting) > 0:
        ratio = np.mean(sharing) / np.mean(conflicting)
    return np.mean(sums), np.mean(shares), np.mean(kls) if kls else None, ratio


@st.composite
def observed(draw):
    n = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    targets = rng.random((n, n)) * (rng.random((n, n)) < 0.6) + np.eye(n)
    label = st.dictionaries(st.sampled_from("ABC"), st.sampled_from([1.0, 0.0, -1.0]))
    labels = draw(st.lists(label, min_size=n, max_size=n))
    return seen(targets, rng.integers(0, 4, n), labels)


@given(st.lists(observed(), min_size=1, max_size=3))
def test_it_agrees_with_loops_over_pairs(batches):
    found = diagnose(batches)
    sums, share, kl, ratio = naive(batches)
    assert found.row_sum == pytest.approx(sums)
    assert found.off_share == pytest.approx(share, abs=1e-12)
    assert found.kl_uniform == (None if kl is None else pytest.approx(kl, abs=1e-9))
    assert found.label_ratio == (None if ratio is None else pytest.approx(ratio))


def test_the_mended_prior_is_sharper_than_the_published_one():
    """What method.md A.6 measured on real reports: centring brings contrast back."""
    rng = np.random.default_rng(0)
    text = torch.tensor(5 * rng.random((1, 64)) + rng.normal(size=(32, 64)), dtype=torch.float32)
    same = torch.arange(32)
    mended = mended_targets(text, same, centre_E=text.mean(dim=0), alpha=0.2)
    source = source_targets(text, temperature=0.2, kernel="exp", ratio=0.2)
    ours, theirs = (diagnose([seen(t.numpy(), same.numpy())]) for t in (mended, source))
    assert (ours.row_sum_min, ours.row_sum_max) == pytest.approx((1, 1), abs=1e-6)
    assert ours.off_share == pytest.approx(0.2, abs=1e-6)
    assert theirs.row_sum > 1.1
    assert ours.kl_uniform > 5 * theirs.kl_uniform
