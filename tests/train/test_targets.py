import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import ConfigError
from imitate.train.objective.targets import (
    Kernel,
    PriorConfig,
    blended,
    correlation,
    divergence,
    evened,
    mended_targets,
    mixed_prior,
    shared_text,
    smooth,
    source_targets,
)

KERNELS: tuple[Kernel, ...] = ("exp", "gau", "lap", "sigmoid")


def pearson(a: list[float], b: list[float]) -> float:
    """Pearson correlation from its definition; 0 for a row without variation."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread_a = sum((x - mean_a) ** 2 for x in a)
    spread_b = sum((y - mean_b) ** 2 for y in b)
    return covariance / math.sqrt(spread_a * spread_b) if spread_a * spread_b > 1e-12 else 0.0


def naive_mended(text: torch.Tensor, same: list[int], centre: torch.Tensor, alpha: float) -> list:
    rows = (text - centre).tolist()
    n = len(rows)
    out = []
    for i in range(n):
        partners = [j for j in range(n) if same[j] == same[i]]
        p = [1 / len(partners) if j in partners else 0.0 for j in range(n)]
        q = [0.0 if j in partners else max(0.0, pearson(rows[i], rows[j])) for j in range(n)]
        if sum(q) == 0:
            out.append(p)
        else:
            out.append([(1 - alpha) * p[j] + alpha * q[j] / sum(q) for j in range(n)])
    return out


def naive_kernel(r: float, kernel: Kernel, ratio: float) -> float:
    return {
        "exp": 1 - math.exp(-ratio * r),
        "gau": math.exp(-(r**2) / 2) / math.sqrt(2 * math.pi),
        "lap": 0.5 * math.exp(-r),
        "sigmoid": 1 / (1 + math.exp(-r)),
    }[kernel]


def naive_source(text: torch.Tensor, temperature: float, kernel: Kernel, ratio: float) -> list:
    rows = text.tolist()
    n = len(rows)
    out = []
    for i in range(n):
        related = [0.0 if i == j else max(0.0, pearson(rows[i], rows[j])) for j in range(n)]
        smoothed = [temperature * naive_kernel(r, kernel, ratio) for r in related]
        out.append([(1.0 if i == j else 0.0) + smoothed[j] for j in range(n)])
    return out


def texts(n: int = 9, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, width, generator=generator, dtype=torch.double) + 1


def test_correlation_is_pearsons() -> None:
    x = texts()
    torch.testing.assert_close(correlation(x), torch.from_numpy(np.corrcoef(x.numpy())))
    centre = x.mean(0)
    centred = torch.from_numpy(np.corrcoef((x - centre).numpy()))
    torch.testing.assert_close(correlation(x, centre), centred)


def test_correlation_is_float32_whatever_the_model_is() -> None:
    assert correlation(texts().bfloat16()).dtype == torch.float32


def test_rows_without_variation_correlate_with_nothing() -> None:
    x = texts(4)
    x[1] = 0.1  # constant: numpy would say NaN
    centre = x[2].clone()  # constant once centred
    related = correlation(x.float(), centre.float())
    assert torch.isfinite(related).all()
    assert torch.equal(related[2], torch.zeros(4))
    assert torch.equal(correlation(x.float())[1], torch.zeros(4))


def test_identical_texts_share_the_mass() -> None:
    shares = shared_text(torch.tensor([3, 5, 3, 3]))
    third = 1 / 3
    expected = [[third, 0, third, third], [0, 1, 0, 0], *[[third, 0, third, third]] * 2]
    torch.testing.assert_close(shares, torch.tensor(expected))


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("same", [list(range(9)), [0, 1, 0, 2, 3, 4, 4, 4, 5], [0] * 9])
def test_mended_targets_equal_a_double_loop(alpha: float, same: list[int]) -> None:
    x = texts()
    centre = x.mean(0)
    ours = mended_targets(x, torch.tensor(same), centre_E=centre, alpha=alpha)
    expected = torch.tensor(naive_mended(x, same, centre, alpha), dtype=torch.double)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.floats(0, 1), st.integers(0, 2**31))
def test_every_row_sums_to_one_and_nothing_is_negative(
    same: list[int], alpha: float, seed: int
) -> None:
    x = torch.randn(len(same), 4, generator=torch.Generator().manual_seed(seed))
    targets = mended_targets(x, torch.tensor(same), centre_E=None, alpha=alpha)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(same)))
    assert (targets >= 0).all()


def test_a_row_unlike_all_others_keeps_its_whole_mass() -> None:
    base = torch.tensor([1.0, -1.0, 0.5, -0.5])
    targets = mended_targets(
        torch.stack([base, -base, -2 * base]), torch.arange(3), centre_E=None, alpha=0.2
    )
    torch.testing.assert_close(targets[0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(targets[1], torch.tensor([0, 0.8, 0.2]))


def test_targets_follow_the_order_of_the_batch() -> None:
    x, same = texts(), torch.tensor([0, 1, 0, 2, 3, 4, 4, 4, 5])
    order = torch.tensor([4, 2, 8, 0, 1, 7, 3, 6, 5])
    moved = mended_targets(x[order], same[order], centre_E=None, alpha=0.2)
    plain = mended_targets(x, same, centre_E=None, alpha=0.2)
    torch.testing.assert_close(moved, plain[order][:, order])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("temperature", "ratio"), [(0.07, 0.2), (0.2, 1.5)])
def test_source_targets_equal_a_double_loop(
    kernel: Kernel, temperature: float, ratio: float
) -> None:
    x = texts()
    x[3] = 0.25  # without variation
    ours = source_targets(x, temperature=temperature, kernel=kernel, ratio=ratio)
    expected = torch.tensor(naive_source(x, temperature, kernel, ratio), dtype=torch.double)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kernel", "at_0", "at_1"),
    [("exp", 0, 0.1813), ("gau", 0.3989, 0.2420), ("lap", 0.5, 0.1839), ("sigmoid", 0.5, 0.7311)],
)
def test_kernels_have_the_published_values(kernel: Kernel, at_0: float, at_1: float) -> None:
    values = smooth(torch.tensor([0.0, 1.0]), kernel=kernel, ratio=0.2)
    torch.testing.assert_close(values, torch.tensor([at_0, at_1]), atol=5e-5, rtol=0)


def naive_mixed(parts: list, same: list[int]) -> list:
    """Row by row: each part normalised outside the positives, then their shares, then the row."""
    n = len(same)
    out = []
    for i in range(n):
        row = [0.0] * n
        for share, weights in parts:
            open_pairs = [j for j in range(n) if same[j] != same[i]]
            mass = sum(weights[i][j] for j in open_pairs)
            for j in open_pairs:
                row[j] += share * weights[i][j] / mass if mass else 0.0
        mass = sum(row)
        out.append([value / mass if mass else 0.0 for value in row])
    return out


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.floats(0.1, 1), min_size=1, max_size=3),
    st.integers(0, 2**31),
)
def test_a_mixed_prior_equals_a_double_loop(
    same: list[int], shares: list[float], seed: int
) -> None:
    n, generator = len(same), torch.Generator().manual_seed(seed)
    weights = [
        torch.rand(n, n, generator=generator, dtype=torch.double)
        * (torch.rand(n, n, generator=generator) < 0.4)
        for _ in shares
    ]
    codes = torch.tensor(same)
    positive = codes[:, None] == codes[None, :]
    ours = mixed_prior(list(zip(shares, weights, strict=True)), positive)
    naive = naive_mixed([(s, w.tolist()) for s, w in zip(shares, weights, strict=True)], same)
    torch.testing.assert_close(ours, torch.tensor(naive, dtype=torch.double))
    even = evened(ours, positive)
    torch.testing.assert_close(even.sum(1), ours.sum(1))
    for row, mass, there in zip(
        even.tolist(), ours.sum(1).tolist(), positive.tolist(), strict=True
    ):
        rest = there.count(False)
        expected = [0.0 if p else mass / rest for p in there]
        assert row == pytest.approx(expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_uniform_prior_of_the_source_has_its_mass(kernel: Kernel) -> None:
    x = texts()
    known = {"temperature": 0.07, "kernel": kernel, "ratio": 0.2}
    plain, even = source_targets(x, **known), source_targets(x, **known, even=True)
    torch.testing.assert_close(even.sum(1), plain.sum(1))
    torch.testing.assert_close(even.diag(), plain.diag())
    for i, row in enumerate(even):
        others = torch.cat([row[:i], row[i + 1 :]])
        torch.testing.assert_close(others, others[:1].expand(8))


def test_a_mass_that_is_learned_has_a_gradient_of_its_own() -> None:
    same = torch.tensor([0, 1, 1, 2])
    shared = shared_text(same).double()
    prior = mixed_prior([(1.0, torch.rand(4, 4, dtype=torch.double))], shared > 0)
    prior[3] = 0  # nothing is known of this one
    weight = torch.rand(4, 4, dtype=torch.double)

    def value(logit: torch.Tensor) -> torch.Tensor:
        return (blended(shared, prior, torch.sigmoid(logit)) * weight).sum()

    logit = torch.tensor(-1.0, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(value, (logit,))
    torch.testing.assert_close(blended(shared, prior, 0.7)[3], shared[3])
    torch.testing.assert_close(blended(shared, prior, 0.7).sum(1), torch.ones(4).double())


@pytest.mark.parametrize("worse", [-1.0, 0.0, 0.5, 3.0])
def test_the_pull_has_its_minimum_where_it_says(worse: float) -> None:
    """The best mass has the logit of the middle less the gap of the cross-entropies / pull."""
    middle, pull = 0.2, 2.0
    logit = math.log(middle / (1 - middle)) - worse / pull
    alpha = torch.sigmoid(torch.tensor(logit, dtype=torch.double)).requires_grad_()
    (alpha * worse + pull * divergence(alpha, middle)).backward()
    assert alpha.grad is not None and alpha.grad.item() == pytest.approx(0, abs=1e-9)
    p = alpha.item()
    naive = p * math.log(p / middle) + (1 - p) * math.log((1 - p) / (1 - middle))
    assert divergence(alpha, middle).item() == pytest.approx(naive)


def test_the_mass_follows_its_schedule() -> None:
    config = PriorConfig(alpha=0.4, adapt="scheduled", final=0.1, epochs=3)
    found = [config.scheduled(epoch) for epoch in range(5)]
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.1])
    assert PriorConfig(final=0.9).scheduled(9) == 0.2


def test_priors_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        PriorConfig(knowledge=0.8, metadata=0.3, alpha=1.0, adapt="learned", final=2, pull=0)
    assert len(caught.value.problems) == 4
