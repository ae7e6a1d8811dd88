"""Bootstrap intervals: what is drawn, what it depends on, how often it covers the truth."""

import numpy as np
import pytest

from imitate.eval.intervals import Units, bootstrap, interval, resamples
from imitate.eval.metrics import METRICS, Settled, measure

BARE = [Settled(), Settled()]  # areas need nothing settled


def problem(n: int, seed: int, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = (rng.random((n, 2)) < 0.4).astype(float)
    return target, target * shift + rng.standard_normal((n, 2))


def test_units_are_subjects_where_they_are_known() -> None:
    units = Units.of(["b", "a", "b", "c"])
    assert (units.kind, units.count) == ("subjects", 3)
    assert units.index.tolist() == [1, 0, 1, 2]
    assert units.method() == "bootstrap-subjects-1000"
    assert units.among(np.array([True, False, True, False])) == 1
    unknown = Units.of(["a", None, "a"])
    assert (unknown.kind, unknown.count) == ("images", 3)
    assert unknown.among(np.ones(3, dtype=bool)) is None


def test_a_subject_comes_with_all_its_pictures_or_not_at_all() -> None:
    units = Units.of(["a", "b", "a", "c", "b"])
    for weight_BN in resamples(units, seed=0, replicates=50):
        assert (weight_BN[:, 0] == weight_BN[:, 2]).all()
        assert (weight_BN[:, 1] == weight_BN[:, 4]).all()
        assert (weight_BN[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_draws_are_uniform() -> None:
    units = Units.of([str(i) for i in range(5)])
    total = sum(weight.sum(axis=0) for weight in resamples(units, seed=3, replicates=4000))
    assert total == pytest.approx(np.full(5, 4000), rel=0.05)


def test_draws_do_not_depend_on_how_many_are_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    units = Units.of([str(i) for i in range(7)])
    together = np.concatenate(list(resamples(units, seed=1, replicates=30)))
    monkeypatch.setattr("imitate.eval.intervals.CHUNK", 1)
    apart = np.concatenate(list(resamples(units, seed=1, replicates=30)))
    assert (together == apart).all()
    other = np.concatenate(list(resamples(units, seed=2, replicates=30)))
    assert (together != other).any()


def test_bootstrap_equals_a_loop_over_repeated_samples() -> None:
    target, score = problem(40, seed=0)
    target[3, 0] = np.nan
    units = Units.of([str(i // 2) for i in range(40)])
    cuts = [Settled(threshold=0.5, limit=0.8, slope=1.0), Settled()]
    values = bootstrap(target, score, cuts, units, seed=4, replicates=20)
    weights = np.concatenate(list(resamples(units, seed=4, replicates=20)))
    for replicate, weight in enumerate(weights):
        rows = np.repeat(np.arange(40), weight.astype(int))
        for label, settled in enumerate(cuts):
            known = rows[~np.isnan(target[rows, label])]
            naive = measure(
                target[known, label],
                score[known, label],
                np.ones((1, len(known))),
                settled,
            )
            for m, name in enumerate(METRICS):
                assert values[replicate, label, m] == pytest.approx(naive[name][0], nan_ok=True)


def test_interval_leaves_undefined_replicates_out() -> None:
    low, high = interval(np.append(np.linspace(0, 1, 1001), np.nan)) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.025, 0.975))
    assert interval(np.full(10, np.nan)) is None


def test_interval_of_subjects_is_wider_than_of_their_repeated_pictures() -> None:
    target, score = (np.repeat(a, 8, axis=0) for a in problem(30, seed=1))
    subjects = [str(i // 8) for i in range(240)]
    widths = []
    for units in (Units.of(subjects), Units.of([None] * 240)):
        values = bootstrap(target, score, BARE, units, seed=0, replicates=200)
        low, high = interval(values[:, 0, 0]) or (0.0, 0.0)
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # AUROC of two normal distributions one apart: Phi(1 / sqrt 2)
    truth, covered, worlds = 0.7602499, 0, 150
    units = Units.of([str(i) for i in range(120)])
    for world in range(worlds):
        target, score = problem(120, seed=world)
        values = bootstrap(target[:, :1], score[:, :1], BARE[:1], units, seed=world, replicates=200)
        low, high = interval(values[:, 0, 0]) or (0.0, 0.0)
        covered += low <= truth <= high
    assert 0.88 <= covered / worlds <= 0.99


def test_intervals_cover_the_truth_when_patients_have_several_films() -> None:
    # films of a patient are alike: 40 patients of 3 films with one target and shared noise each
    truth, covered, narrow, worlds = 0.7602499, 0, 0, 150
    subjects = [str(i // 3) for i in range(120)]
    for world in range(worlds):
        rng = np.random.default_rng(world)
        target = np.repeat((rng.random(40) < 0.4).astype(float), 3)
        shared, own = np.repeat(rng.standard_normal(40), 3), rng.standard_normal(120)
        score = target + np.sqrt(0.8) * shared + np.sqrt(0.2) * own
        for units in (Units.of(subjects), Units.of([None] * 120)):
            known = target[:, None], score[:, None]
            values = bootstrap(*known, BARE[:1], units, seed=world, replicates=200)
            low, high = interval(values[:, 0, 0]) or (0.0, 0.0)
            covered += units.kind == "subjects" and low <= truth <= high
            narrow += units.kind == "images" and low <= truth <= high
    assert 0.85 <= covered / worlds <= 0.99
    assert narrow / worlds < 0.8  # films counted as if they were strangers


def test_the_macro_interval_covers_the_truth() -> None:
    truth, covered, worlds = 0.7602499, 0, 100
    units = Units.of([str(i) for i in range(120)])
    for world in range(worlds):
        target, score = problem(120, seed=1000 + world)
        values = bootstrap(target, score, BARE, units, seed=world, replicates=200)
        low, high = interval(values[:, :, 0].mean(axis=1)) or (0.0, 0.0)
        covered += low <= truth <= high
    assert 0.87 <= covered / worlds <= 0.99
