"""The linear probe: what it learns, what it leaves out, what it does not depend on."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss, roc_auc_score

from imitate.eval.heads.probe import GRID, probe
from imitate.eval.metrics import Part


def part(n: int, seed: int, channels: int = 6) -> Part:
    """Two labels that two of the channels tell, the others noise."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, channels))
    noise = 0.3 * rng.standard_normal((n, 2))
    return Part(features=features, targets=(features[:, :2] + noise > 0.4).astype(float))


def test_probe_separates_what_the_features_tell() -> None:
    test = part(200, 3)
    scored = probe(part(300, 1), part(100, 2), test)
    for label in (0, 1):
        assert roc_auc_score(test.targets[:, label], scored.scores[:, label]) > 0.95
    assert scored.strength in GRID and scored.skipped == {}
    assert all(s.threshold is not None and 0 < s.threshold < 1 for s in scored.settled)


def test_probe_does_not_depend_on_the_scale_of_a_channel() -> None:
    scale, shift = np.array([1e-3, 1, 1, 50, 1, 1]), np.arange(6.0)
    parts = [part(n, seed) for n, seed in ((200, 1), (80, 2), (50, 3))]
    moved = [Part(features=p.features * scale + shift, targets=p.targets) for p in parts]
    assert probe(*moved).scores == pytest.approx(probe(*parts).scores, abs=1e-4)


def test_probe_is_the_same_each_time() -> None:
    parts = [part(n, seed) for n, seed in ((100, 1), (40, 2), (50, 3))]
    assert probe(*parts).scores.tobytes() == probe(*parts).scores.tobytes()


def test_noise_is_held_down_by_validation() -> None:
    rng = np.random.default_rng(0)
    train, validate, test = (
        Part(
            features=rng.standard_normal((n, 40)), targets=(rng.random((n, 1)) < 0.5).astype(float)
        )
        for n in (50, 400, 10)
    )
    assert probe(train, validate, test).strength == GRID[0]


def test_label_of_one_class_is_left_out_with_its_reason() -> None:
    train = part(60, 1)
    targets = np.column_stack([train.targets, np.ones(60), np.full(60, np.nan)])
    others = [
        Part(features=p.features, targets=np.column_stack([p.targets, p.targets]))
        for p in (part(40, 2), part(20, 3))
    ]
    scored = probe(Part(features=train.features, targets=targets), *others)
    assert sorted(scored.skipped) == [2, 3]
    assert "one class" in scored.skipped[2] and "no training label" in scored.skipped[3]
    assert np.isnan(scored.scores[:, 2:]).all() and not np.isnan(scored.scores[:, :2]).any()
    assert [s.threshold for s in scored.settled[2:]] == [None, None]


def test_what_one_label_lacks_changes_nothing_for_another() -> None:
    train, validate, test = part(80, 1), part(40, 2), part(20, 3)
    targets = train.targets.copy()
    targets[::2, 1] = np.nan
    whole = probe(train, validate, test)
    sparse = probe(Part(features=train.features, targets=targets), validate, test)
    assert sparse.strength == whole.strength
    assert (sparse.scores[:, 0] == whole.scores[:, 0]).all()
    assert (sparse.scores[:, 1] != whole.scores[:, 1]).any()


def test_no_validation_gives_a_fixed_strength_and_no_threshold() -> None:
    none = Part(features=np.empty((0, 6)), targets=np.empty((0, 2)))
    scored = probe(part(80, 1), none, part(20, 3))
    assert scored.strength == 1e-2 and [s.threshold for s in scored.settled] == [None, None]


def test_a_channel_without_spread_is_harmless() -> None:
    parts = [part(n, seed) for n, seed in ((100, 1), (40, 2), (50, 3))]
    flat = [
        Part(
            features=np.column_stack([p.features, np.full(len(p.features), 0.1)]), targets=p.targets
        )
        for p in parts
    ]
    assert probe(*flat).scores == pytest.approx(probe(*parts).scores, abs=1e-4)


def classes(n: int, seed: int, kinds: int = 3) -> Part:
    """Classes that one channel each tells, the other channels noise."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, kinds, n)
    features = rng.standard_normal((n, 6))
    features[np.arange(n), own] += 2.0
    return Part(features=features, targets=np.eye(3)[own])


def naive_shares(train: Part, other: Part, strength: float) -> np.ndarray:
    """Softmax regression of standardized features, found by another solver than the probe's."""
    mean, spread = train.features.mean(axis=0), train.features.std(axis=0)
    x_train, x_other = ((p.features - mean) / spread for p in (train, other))

    def loss(flat: np.ndarray) -> float:
        weight, bias = flat[:18].reshape(6, 3), flat[18:]
        share = log_softmax(x_train @ weight + bias, axis=1)
        return float(-strength * (train.targets * share).sum() + (weight**2).sum() / 2)

    flat = minimize(loss, np.zeros(21), method="BFGS", options={"gtol": 1e-6}).x
    return softmax(x_other @ flat[:18].reshape(6, 3) + flat[18:], axis=1)


def test_classes_have_a_softmax_whose_strength_has_the_least_loss_on_validation() -> None:
    train, validate, test = classes(90, 1), classes(60, 2), classes(50, 3)
    scored = probe(train, validate, test, exclusive=True)
    losses = [
        log_loss(validate.targets.argmax(axis=1), naive_shares(train, validate, strength))
        for strength in GRID
    ]
    assert scored.strength == GRID[int(np.argmin(losses))]
    naive = naive_shares(train, test, scored.strength)
    assert scored.scores == pytest.approx(naive, abs=1e-3)
    assert scored.scores.sum(axis=1) == pytest.approx(np.ones(50))
    assert (scored.scores.argmax(axis=1) == test.targets.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize(("kinds", "skipped"), [(2, [2]), (1, [0, 1, 2])])
def test_a_class_without_training_sample_is_left_out(kinds: int, skipped: list[int]) -> None:
    scored = probe(classes(90, 1, kinds), classes(60, 2), classes(50, 3), exclusive=True)
    assert sorted(scored.skipped) == skipped
    assert all("one class" in reason for reason in scored.skipped.values())
    assert np.isnan(scored.scores[:, skipped]).all()
    learned = np.delete(scored.scores, skipped, axis=1)
    assert learned.sum(axis=1) == pytest.approx(np.full(50, float(kinds > 1)))


def test_classes_without_validation_have_the_fixed_strength() -> None:
    none = Part(features=np.empty((0, 6)), targets=np.empty((0, 3)))
    scored = probe(classes(90, 1), none, classes(50, 3), exclusive=True)
    assert scored.strength == 1e-2 and not np.isnan(scored.scores).any()
