"""LDL^T: counts, growth and backward error of the three ways to factor, and what is done about bad pivots."""

from __future__ import annotations

import pytest
import torch
from ldl_by_columns import ldl_by_columns

from fastrank import testing
from fastrank.reference import UNIT

pytest.importorskip("triton")
from fastrank.kernels.count import tiny
from fastrank.kernels.count.launches import Launches
from fastrank.kernels.device import capability
from fastrank.kernels.inertia import factors as module
from fastrank.kernels.inertia import ldl, ldl_windows

WAYS = ["tiny", "one", "many", "cuda"]
# One element, less than a block, exactly one, one more, a window (a tile), and a bit of the next.
SIZES = {"tiny": [1, 5, 16, 17, 32, 33, 64], "one": [1, 15, 16, 33, 100], "many": [1, 33, 128, 129, 190]}
SIZES["cuda"] = [1, 8, 33, 64, 65, 130, 200]


@pytest.fixture(autouse=True)
def _serving(request):
    """CUDA C++ serves in the ways of that name alone."""
    way = getattr(request.node, "callspec", None) and request.node.callspec.params.get("way")
    request.getfixturevalue("cuda_cpp" if way == "cuda" else "triton_alone")


def run(way, matrices, shifts, monkeypatch):
    """Counts and growth `(b, S)` of W W^T - shift, and the launches and workspace they came from."""
    monkeypatch.setattr(module, "ONE_PROGRAM_UP_TO", 0 if way == "many" else 10**9)
    shifts = shifts.to(matrices[0].device)
    launches = Launches(matrices, shifts.shape[1], keep=way != "tiny")
    if way == "tiny" and not launches._tiny:
        pytest.skip("no matrix of this size is tiny on this architecture")
    workspace = torch.full((launches.size,), torch.nan, dtype=torch.float64, device=shifts.device)
    trace = torch.zeros(len(matrices), dtype=torch.float64, device=shifts.device)
    launches.sum_grams(workspace, trace, None)
    coefficients = torch.stack([torch.zeros_like(shifts), shifts], -1)
    limits = torch.stack([torch.zeros_like(shifts), torch.full_like(shifts, torch.inf)], -1)
    counts, growth, _ = launches.count(workspace, trace, None, coefficients, limits, 0)
    return counts.cpu(), growth.cpu(), launches, workspace.cpu()


def matrix(r, n, seed=0, family="arithmetic"):
    return testing.make(family, r, n, seed=seed)


def between(sigma, i):
    """A shift in the middle between sigma_i^2 and sigma_{i+1}^2, and how many are above it."""
    padded = torch.cat([sigma.square(), torch.zeros(1, dtype=torch.float64)])
    return (padded[i] + padded[i + 1]) / 2, i + 1


@pytest.mark.parametrize("way", WAYS)
def test_counts_and_growth_of_every_size_in_one_batch(way, device, monkeypatch):
    cases = [matrix(r, r + 3 * i, seed=i).matrix for i, r in enumerate(SIZES[way])]
    sigmas = [testing.true_singular_values(c) for c in cases]
    picks = [[between(s, len(s) // 2), between(s, len(s) - 1)] for s in sigmas]
    shifts = torch.tensor([[float(shift) for shift, _ in pair] for pair in picks], dtype=torch.float64)
    counts, growth, *_ = run(way, [c.to(device) for c in cases], shifts, monkeypatch)
    assert counts.tolist() == [[count for _, count in pair] for pair in picks]
    for case, row, grown in zip(cases, shifts, growth, strict=True):
        for shift, measured in zip(row, grown, strict=True):
            lower, d = ldl_by_columns(case.double() @ case.double().mT - shift * torch.eye(len(case)).double())
            expected = (d.abs() * lower.square().sum(0)).sum()
            assert measured >= expected * (1 - 1e-4)
            # Where L is large, what `divide` may be off by comes on top.
            assert measured <= expected * (1 + 1e-4) or expected > 100 * case.norm() ** 2


@pytest.mark.parametrize("way", ["one", "many", "cuda"])
@pytest.mark.parametrize("family", ["arithmetic", "geometric", "noisy_low_rank", "clustered", "kahan"])
def test_factors_are_those_of_a_matrix_nearby(way, family, device, monkeypatch):
    """The stated backward error, on shifts that put pivots near zero: through the middle of the leading blocks."""
    r = 134  # a window, and a bit of the next
    w = matrix(r, r, family=family).matrix
    exact = w.double() @ w.double().mT
    leading = torch.linalg.eigvalsh(exact[:20, :20])
    shifts = torch.stack([leading[3] * (1 + 1e-6), exact.trace() * 1e-6, exact[0, 0] * (1 + 1e-9)])[None]
    _, growth, launches, workspace = run(way, [w.to(device)], shifts, monkeypatch)
    order = launches.shapes[0].order
    gram, factors = workspace[: order**2].view(order, order), workspace[launches._gram + launches._partial :]
    for i, shift in enumerate(shifts[0]):
        stored = factors[i * order**2 : (i + 1) * order**2].view(order, order)[:r, :r]
        d, lower = stored.diagonal(), stored.tril(-1) + torch.eye(r, dtype=torch.float64)
        a = gram[:r, :r].tril() + gram[:r, :r].tril(-1).mT - shift * torch.eye(r, dtype=torch.float64)
        residual = torch.linalg.matrix_norm(a - (lower * d) @ lower.mT, 2)
        size = exact.trace() + r * shift
        assert residual <= (r + 64) * UNIT * (size + growth[0, i]), (residual, growth[0, i])


def test_one_product_with_the_inverse_would_not_do():
    """Negative control of `divide`: one product is worse than substitution where L^-1 is large, two are not."""
    generator = torch.Generator().manual_seed(0)
    lower = torch.eye(16, dtype=torch.float64)
    lower += torch.randn(16, 16, generator=generator, dtype=torch.float64).mul(4).tril(-1)
    inverse = torch.linalg.solve_triangular(lower, torch.eye(16, dtype=torch.float64), upper=False)
    t = torch.randn(8, 16, generator=generator, dtype=torch.float64) @ lower.mT
    once = t @ inverse.mT
    twice = once + (t - once @ lower.mT) @ inverse.mT
    allowed = 64 * UNIT * (twice.abs() @ lower.abs().mT)
    assert ((once @ lower.mT - t).abs() > allowed).any()
    assert ((twice @ lower.mT - t).abs() <= allowed).all()


@pytest.mark.parametrize("way", WAYS)
def test_pivots_at_zero(way, device, monkeypatch):
    """Exact zeros: harmless where the column is zero too (a diagonal matrix), growth beyond belief where it is not."""
    diagonal = torch.diag(torch.tensor([2.0, 1.0, 0.5, 3.0]))
    full = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])  # W W^T has 1 in the corner, 1 beside it
    shifts = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    counts, growth, *_ = run(way, [diagonal.to(device), full.to(device)], shifts, monkeypatch)
    assert counts[0, 0] in (2, 3)  # 4 and 9 are above 1, 0.25 is below, 1 itself may be either
    assert growth[0, 0] <= 20
    assert growth[1, 0] > 1e10


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_done_for_a_shift_that_is_not_a_number(way, device, monkeypatch):
    w = matrix(20, 30).matrix.to(device)
    shifts = torch.tensor([[torch.nan, 1e-3], [1e-3, 1e-3]], dtype=torch.float64)
    bad = w.clone()
    bad[3, 4] = torch.nan
    counts, growth, *_ = run(way, [w, bad], shifts, monkeypatch)
    alone, grown, *_ = run(way, [w], shifts[:1], monkeypatch)
    assert counts[1].tolist() == [0, 0]
    assert growth[1].tolist() == [0.0, 0.0]
    assert counts[0].tolist() == alone[0].tolist() == [0, alone[0, 1].item()]
    assert growth[0].tolist() == grown[0].tolist()


@pytest.mark.parametrize("way", WAYS)
def test_a_zero_matrix_has_nothing_above_any_shift(way, device, monkeypatch):
    shifts = torch.tensor([[0.0, -1.0, 5.0, 1e-9]], dtype=torch.float64)
    counts, growth, *_ = run(way, [torch.zeros(10, 12, device=device)], shifts, monkeypatch)
    assert counts.tolist() == [[0, 0, 0, 0]]
    assert growth.isfinite().all()


@pytest.mark.parametrize("way", WAYS[1:])
def test_two_runs_give_the_same_bits(way, device, monkeypatch):
    cases = [matrix(r, 90, seed=r).matrix.to(device) for r in (30, 70)]
    shifts = torch.full((2, 2), 0.01, dtype=torch.float64)
    first, second = (run(way, cases, shifts, monkeypatch) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_configurations_hold_what_they_are_given():
    for at in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)):
        assert (
            ldl_windows.WINDOW % max(ldl.config(at).b, ldl.config(at).block_row, ldl_windows.update_config(at).b) == 0
        )
        assert [tiny.config(rows, at).block for rows in (1, 16, 17, 32)] == [16, 16, 32, 32]
        assert tiny.config(65, at) is None
    assert ldl.growth_parts(4096, capability(torch.device("cpu"))) == 64


def test_costs():
    assert ldl.ldl_cost([30], 2) == (4 * 900 * 3, 2 * 9000)
    assert tiny.tiny_cost([(30, 50)], 4, 2) == (6000, 30 * 30 * 50 + 2 * 9000)
