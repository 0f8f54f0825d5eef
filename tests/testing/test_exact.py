"""Exact ranks: of matrices whose singular values are known without any arithmetic, and of tiny ones by brute force."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from fastrank import Tolerance, testing
from fastrank.testing import ExactMatrix, exact_residual_squared

KINDS = ("frobenius", "spectral", "absolute")


def diagonal(*values, dtype=torch.float64):
    return torch.diag(torch.tensor(values, dtype=dtype))


def reflection(*v):
    """|v|^2 I - 2 v v^T: whole numbers, and all singular values are |v|^2."""
    v = torch.tensor(v, dtype=torch.float64)
    return (v @ v) * torch.eye(len(v)) - 2 * torch.outer(v, v)


def hadamard(side):
    h = torch.ones(1, 1)
    while len(h) < side:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_what_equals_tau_is_not_above_it(dtype):
    matrix = ExactMatrix(diagonal(4, 2, 2, 1, 0, dtype=dtype))
    ranks = {v: matrix.rank(Tolerance(v, "absolute")) for v in (0, 1, 2, 4, 0.5, 1.9999, 1e300, 5e-324)}
    assert ranks == {0: 4, 1: 3, 2: 1, 4: 0, 0.5: 4, 1.9999: 3, 1e300: 0, 5e-324: 4}
    ranks = {v: matrix.rank(Tolerance(v, "spectral")) for v in (0, 0.25, 0.5, 1, 0.4999999, 0.5000001, 1e300)}
    assert ranks == {0: 4, 0.25: 3, 0.5: 1, 1: 0, 0.4999999: 3, 0.5000001: 1, 1e300: 0}
    assert [matrix.rank(Tolerance(v)) for v in (0, 0.19, 0.21, 0.39, 0.41, 0.79, 0.81)] == [4, 4, 3, 3, 1, 1, 0]


@pytest.mark.parametrize("scale", [2.0**-1060, 1.0, 2.0**1000])
def test_one_unit_in_the_last_place_decides(scale):
    """Sixteen singular values are 4; of a quarter of their norm, all or none are above."""
    matrix = ExactMatrix(hadamard(16).double() * scale)
    below, above = (float(np.nextafter(0.25, side)) for side in (0, 1))
    assert [matrix.rank(Tolerance(v)) for v in (below, 0.25, above)] == [16, 0, 0]
    below, above = (float(np.nextafter(4 * scale, side)) for side in (0, np.inf))
    assert [matrix.rank(Tolerance(v, "absolute")) for v in (below, 4 * scale, above)] == [16, 0, 0]


def test_whole_singular_values():
    left, right = reflection(1, 2, 0, 1, 1), reflection(1, 1, 1, 0, 0)  # all 7, and all 3
    matrix = ExactMatrix(left @ diagonal(8, 4, 4, 2, 0) @ right)
    assert [matrix.rank(Tolerance(21.0 * v, "absolute")) for v in (0, 1, 2, 3, 4, 7, 8)] == [4, 4, 3, 3, 1, 1, 0]
    assert [matrix.rank(Tolerance(v, "spectral")) for v in (0.25, 0.2499999999999, 0.5, 0.4999999999999)] == [
        3,
        4,
        1,
        3,
    ]
    assert matrix.frobenius_squared == 21**2 * (64 + 16 + 16 + 4)
    assert matrix.rank(Tolerance(0.2)) == 4 - (Fraction(0.2) ** 2 * 100 >= 4)
    assert [x.contains(21 * s) for x, s in zip(matrix.singular_values(), (8, 4, 4, 2, 0), strict=True)] == [True] * 5
    assert matrix.singular_values(200)[0].rel_accuracy_bits() > 190
    assert matrix.stable_rank().contains(100) is False
    assert (matrix.stable_rank() * 64).contains(100)


def test_a_share_of_sigma_1_that_no_fraction_is():
    """Blocks W, W / 2, W / 4 of random numbers: sigma_1 is no fraction; halves of singular values are others'."""
    block = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double()
    matrix = torch.block_diag(block / 4, block, block / 2)
    sigma = torch.linalg.svdvals(matrix)
    exact, top = ExactMatrix(matrix), sigma[0]
    for value in (0.5, 0.25):
        equal = ((sigma / top - value).abs() < 1e-12).sum()
        above = int((sigma / top > value * (1 + 1e-12)).sum())
        assert equal == 1
        assert exact.rank(Tolerance(value, "spectral")) == above
        assert exact.rank(Tolerance(value * (1 - 2.0**-53), "spectral")) == above + 1


@pytest.mark.parametrize("rank", [0, 1, 4, 6])
def test_singular_matrices_of_whole_numbers(rank):
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randint(-9, 10, shape, generator=generator) for shape in ((8, rank), (rank, 6)))
    for matrix in ((left @ right).float(), (left @ right).mT.bfloat16().float()):
        exact = ExactMatrix(matrix)
        assert {exact.rank(Tolerance(0.0, kind)) for kind in KINDS} == {exact.rank(Tolerance(0.0))}
        assert exact.rank(Tolerance(1e-200, "spectral")) == exact.rank(Tolerance(0.0))
    assert ExactMatrix((left @ right).double()).rank(Tolerance(0.0)) == rank


def test_all_small_matrices_by_brute_force():
    """2 x 2 of whole numbers: sigma^2 = (t +- sqrt(t^2 - 4 d)) / 2, of which fractions tell what is above what."""
    for entries in product((-2, 0, 1), repeat=4):
        a, b, c, d = entries
        trace, det = sum(x * x for x in entries), (a * d - b * c) ** 2
        matrix, root = ExactMatrix(torch.tensor([[a, b], [c, d]]).float()), trace**2 - 4 * det

        def above(square, trace=trace, root=root):
            rest = 2 * square - trace  # sigma^2 > square is +- sqrt(root) > rest
            return (rest < 0 or root > rest**2) + (rest < 0 and root < rest**2)

        for value in (0.0, 0.5, 0.7, 1.0, 2.0, 3.0):
            square = Fraction(value) ** 2
            assert matrix.rank(Tolerance(value, "absolute")) == above(square), (entries, value)
            assert matrix.rank(Tolerance(value)) == (above(square * trace) if square < 1 else 0), (entries, value)
            # The smaller one is above if t - s > v^2 (t + s), where s = sqrt(root).
            smaller = square < 1 and trace**2 * (1 - square) ** 2 > root * (1 + square) ** 2
            expected = (trace > 0 and square < 1) + (trace > 0 and smaller)
            assert matrix.rank(Tolerance(value, "spectral")) == expected, (entries, value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_subnormal_numbers_where_threads_flush_them(dtype):
    step = {torch.float16: 2.0**-24, torch.float32: 2.0**-149, torch.float64: 5e-324}[dtype]
    matrix = diagonal(5 * step, 3 * step, step, dtype=dtype)
    torch.set_flush_denormal(True)
    try:
        exact = ExactMatrix(matrix)
        assert [exact.rank(Tolerance(v, "spectral")) for v in (0.3, 0.6, 0.61)] == [
            2,
            2 - (Fraction(0.6) >= Fraction(3, 5)),
            1,
        ]
    finally:
        torch.set_flush_denormal(False)


def test_the_whole_range_of_fp64_in_one_matrix():
    matrix = torch.tensor([[5e-324, 1.7e308], [0, 3.0]], dtype=torch.float64)
    assert ExactMatrix(matrix).rank(Tolerance(0.0)) == 2
    assert ExactMatrix(matrix).rank() == 1
    smallest = ExactMatrix(matrix).singular_values()[1]
    assert float(smallest * 2**2094) == pytest.approx(3 / 1.7e308 * 2.0**1020)


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_fp64_where_that_is_sure(kind):
    for i, case in enumerate(testing.cases(9, 14, seed=3, scales=(1.0,), tolerance=Tolerance(0.04, kind))):
        for matrix in (case.matrix, case.matrix.mT):
            truth = testing.true_rank(matrix, case.tolerance)
            assert truth.lower <= ExactMatrix(matrix).rank(case.tolerance) <= truth.upper, i
        wide = case.matrix.double()
        balls = ExactMatrix(wide).singular_values()
        sigma = testing.true_singular_values(wide)
        assert [float(ball) for ball in balls] == pytest.approx(sigma.tolist(), abs=1e-14)


def test_empty_and_zero_matrices():
    for matrix in (torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(2, 3)):
        for tolerance in (Tolerance(), Tolerance(0.0), *(Tolerance(v, k) for v in (0.0, 0.5) for k in KINDS)):
            assert ExactMatrix(matrix).rank(tolerance) == 0
        assert float(ExactMatrix(matrix).stable_rank()) == 0
        assert [float(x) for x in ExactMatrix(matrix).singular_values()] == [0.0] * min(matrix.shape)


def test_the_residual_of_factors():
    matrix = diagonal(4, 2, 1).float()
    u, s, vh = torch.linalg.svd(matrix)
    assert exact_residual_squared(matrix, u, s, vh) == 0
    assert exact_residual_squared(matrix, u[:, :1], s[:1], vh[:1]) == 5
    tiny = exact_residual_squared(matrix * 2.0**-140, u[:, :2], s[:2] * 2.0**-140, vh[:2])
    assert tiny * 4**140 == 1
    s[2] += 2.0**-20
    assert exact_residual_squared(matrix, u, s, vh) * 4**20 == 1


def test_bad_arguments_and_a_missing_package_are_named(monkeypatch):
    for bad, said in (
        (torch.ones(2), r"A: expected a matrix, not a tensor of shape \(2,\)"),
        (torch.ones(2, 2, 2), r"\(2, 2, 2\)"),
        (torch.tensor([[torch.nan]]), "A: holds NaN or Inf"),
    ):
        with pytest.raises(ValueError, match=said):
            ExactMatrix(bad)
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ImportError, match=r"python-flint: pip install 'fastrank\[dev\]'"):
        ExactMatrix(torch.ones(2, 2))
