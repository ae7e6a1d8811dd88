"""The linear probe: what it learns, what it leaves out, what it does not depend on."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

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
