"""The factors of one matrix: what is proven of their error is true, exactly, and no smaller rank would do."""

from __future__ import annotations

import math

import pytest
import torch

from fastrank import Tolerance
from fastrank.factors import factor
from fastrank.factors.factor import Factored
from fastrank.factors.rank import by_error, by_tolerance, most
from fastrank.testing import FAMILIES, ExactMatrix, exact_residual_squared, make, planted

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COARSE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""More than rounding factors to a dtype adds to their error, as a share of the norm."""


def check(matrix, factors):
    """The bounds hold in whole numbers, and say little more than the truth."""
    exact = exact_residual_squared(matrix, factors.u, torch.ones(factors.u.shape[1]), factors.v)
    norm = ExactMatrix(matrix).frobenius_squared
    error, relative = ((type(norm)(*x.as_integer_ratio())) for x in (factors.error, factors.relative_error))
    assert exact <= error * error
    assert exact <= relative * relative * norm
    assert factors.u.dtype == factors.v.dtype == matrix.dtype
    if norm:
        true = math.sqrt(float(exact / norm))
        assert factors.relative_error <= true * (1 + 1e-9) + 1e-13
    return exact


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_proven_error_is_true_and_near_the_least_there_is(family, dtype):
    """Eckart and Young: no matrix of rank k is nearer than the tail of the singular values."""
    for rows, cols, k in ((12, 20, 1), (21, 9, 4), (16, 16, 7)):
        matrix = make(family, rows, cols, seed=k, dtype=dtype).matrix
        factors = Factored(matrix).cut(k)
        check(matrix, factors)
        sigma = torch.linalg.svdvals(matrix.double())
        tail, norm = float(sigma[k:].norm()), float(sigma.norm())
        assert tail * (1 - 1e-9) - 1e-14 * norm <= factors.error <= tail * (1 + 1e-6) + COARSE[dtype] * norm


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-42, 1e-30, 1e30, 3e37, 1e300])
def test_of_any_scale(scale):
    dtype = torch.float32 if 1e-45 < scale < 1e38 else torch.float64
    matrix = (make("noisy_low_rank", 12, 30, seed=3).matrix.double() / 0.3 * scale).to(dtype)
    assert matrix.isfinite().all()
    assert matrix.any()
    factors = Factored(matrix).cut(3)
    check(matrix, factors)
    assert factors.relative_error < (1e-2 if scale in (1e-42, 1e-320) else 1e-3)  # those have few digits themselves


def test_flushed_subnormal_numbers_are_read_as_they_are():
    matrix = (make("low_rank", 8, 12, seed=1).matrix * 1e-40).float()
    try:
        torch.set_flush_denormal(True)
        factors = Factored(matrix).cut(2)
    finally:
        torch.set_flush_denormal(False)
    check(matrix, factors)


def test_of_a_zero_matrix():
    for dtype in DTYPES:
        for found in (by_error(torch.zeros(6, 4, dtype=dtype), 0.1), by_tolerance(torch.zeros(6, 4), Tolerance())):
            assert found.k == 1
            assert found.factors is not None
            assert (found.factors.error, found.factors.relative_error) == (0, 0)
            assert not (found.factors.u @ found.factors.v).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("family", ["geometric", "log_uniform", "noisy_low_rank", "one_large", "arithmetic"])
@pytest.mark.parametrize("sketched", [False, True])
def test_no_smaller_rank_is_within_the_error(family, dtype, sketched, monkeypatch):
    """Also where a sketch is tried first, whose factors are worse: that does not cost a rank."""
    if sketched:
        monkeypatch.setattr(factor, "LARGE", 1)
        monkeypatch.setattr(factor, "OVERSAMPLE", 0)
        monkeypatch.setattr(factor, "POWER_ITERS", 0)
    for error in (0.5, 0.1, 1e-3, 1e-6):
        check_least(family, dtype, error)


def check_least(family, dtype, error):
    matrix = make(family, 14, 40, seed=5, dtype=dtype).matrix
    found = by_error(matrix, error)
    exact = ExactMatrix(matrix)
    squares = [float(x * x) for x in exact.singular_values()]
    least = sum(sum(squares[k:]) > error**2 * sum(squares) for k in range(len(squares)))
    if found.factors is None:
        assert max(1, least) > most(14, 40)
        assert found.reason == f"rank {found.k} saves nothing"
        return
    check(matrix, found.factors)
    assert found.factors.relative_error <= error
    assert found.k == max(1, least) == found.factors.u.shape[1]


def test_a_sketch_of_a_large_matrix_is_nearly_as_good(monkeypatch):
    monkeypatch.setattr(factor, "LARGE", 64)
    matrix = make("geometric", 80, 100, seed=1).matrix
    source = Factored(matrix)
    assert [source.sketches(k) for k in (12, 20, 21)] == [True, True, False]
    assert not Factored(matrix[:64]).sketches(1)
    exact, sketched = source.cut(12), source.cut(12, sketched=True)
    check(matrix, sketched)
    assert exact.error <= sketched.error <= 1.01 * exact.error
    monkeypatch.setattr(factor, "POWER_ITERS", 0)
    monkeypatch.setattr(factor, "OVERSAMPLE", 0)
    assert source.cut(12, sketched=True).error > 1.05 * exact.error


@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
def test_a_tolerance_keeps_the_numerical_rank(relative_to):
    for family in ("geometric", "clustered", "low_rank", "kahan"):
        tolerance = Tolerance(1e-3, relative_to)
        matrix = make(family, 12, 60, seed=2, tolerance=tolerance).matrix
        found = by_tolerance(matrix, tolerance)
        rank = ExactMatrix(matrix).rank(tolerance)
        assert found.k == rank
        assert (found.factors is not None) == (rank <= most(12, 60))
        if found.factors is not None:
            check(matrix, found.factors)


def test_what_rounding_adds_takes_a_higher_rank_or_none():
    """In bfloat16 factors are off by a few thousandths of the norm."""
    sigma = torch.logspace(0, -6, 24, dtype=torch.float64)
    matrix = planted(sigma, 24, 90, seed=1).bfloat16()
    for error in (0.1, 3e-2, 1e-2, 6e-3):
        found = by_error(matrix, error)
        assert found.factors is not None
        assert found.factors.relative_error <= error
        check(matrix, found.factors)
        tails = torch.linalg.svdvals(matrix.double()).square().flip(0).cumsum(0).flip(0)
        least = int((tails > error**2 * tails[0]).sum())
        assert least <= found.k <= least + 2
    found = by_error(matrix, 2e-3)
    assert (found.factors, found.reason) == (None, "bfloat16 is too coarse for its factors")


def test_what_is_not_finite_is_kept():
    matrix = torch.eye(6, 9)
    matrix[1, 1] = torch.inf
    for found in (by_error(matrix, 0.5), by_tolerance(matrix, Tolerance())):
        assert found == (None, None, "not finite")


def test_a_finite_matrix_whose_norm_is_beyond_fp64_has_factors():
    matrix = torch.full((6, 9), 1.7e308, dtype=torch.float64)
    found = by_error(matrix, 1e-6)
    assert (found.k, found.reason) == (1, "")
    check(matrix, found.factors)


def test_factors_that_are_written_save_numbers():
    for m in range(1, 30):
        for n in range(1, 30):
            saving = [k for k in range(1, min(m, n) + 1) if k * (m + n) < m * n]
            assert most(m, n) == max(saving, default=0)
