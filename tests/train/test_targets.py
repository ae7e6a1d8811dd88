import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.train.objective.targets import (
    Kernel,
    correlation,
    mended_targets,
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
