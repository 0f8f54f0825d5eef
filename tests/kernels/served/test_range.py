"""The ends of the range, by the kernels: subnormal and huge numbers in every dtype."""

from __future__ import annotations

import pytest
import torch

from fastrank import Tolerance, linalg, testing

pytest.importorskip("triton")
from fastrank.kernels.count.gram import gram_kernel
from fastrank.kernels.sketch.sketches import Sketches
from fastrank.kernels.sketch.table import View

pytestmark = pytest.mark.usefixtures("served")

# Triton 3.9's interpreter takes subnormal numbers of BF16 for others, or for zero: what it says of them is not what a
# compiled kernel says. The day it does not, this shows.
INTERPRETED = type(gram_kernel).__name__ == "InterpretedFunction"
BF16 = pytest.param(torch.bfloat16, marks=pytest.mark.xfail(INTERPRETED, reason="Triton's interpreter", strict=True))
DTYPES = [torch.float16, BF16, torch.float32, torch.float64]


def smallest(dtype):
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def diagonal(dtype, unit, device):
    """Singular values 5, 3 and 1 of the unit, in each form that a call may have."""
    matrix = (torch.diag(torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)) * unit).to(dtype).to(device)
    return matrix, torch.stack([matrix, matrix]), [matrix, torch.cat([matrix, torch.zeros_like(matrix)])]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subnormal_matrices(dtype, device):
    for form in diagonal(dtype, smallest(dtype), device):
        for resolve in (False, True):
            for value, rank in ((0.3, 2), (0.1, 3)):
                bounds = linalg.rank_bounds(form, Tolerance(value), resolve=resolve)
                assert (bounds.lower == rank).all()
                assert (bounds.upper == rank).all()
        assert (linalg.matrix_rank(form, rtol=0.3) == 2).all()
        assert (linalg.matrix_rank(form) == 3).all()


def test_error_bounds(device):
    """Two of three singular values are kept: the last, one unit, is the error."""
    units = (smallest(torch.float32), torch.finfo(torch.float32).max / 8)
    matrices = [diagonal(torch.float32, unit, device)[0] for unit in units]
    for unit, matrix, *factors, error in zip(
        units, matrices, *linalg.svd_lowrank(matrices, 2, power_iters=1), strict=True
    ):
        assert testing.factor_error(matrix, *factors)[1] <= error <= 1.5 * unit


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_tolerances_and_ranks_at_either_end(dtype, device):
    """Thresholds that no narrower dtype holds; singular values beyond the dtype, of which torch's rank is 0."""
    small = torch.diag(torch.tensor([1.0, 1e-3], dtype=dtype, device=device))
    for atol in (1e-60, 5e-324):
        assert linalg.matrix_rank(torch.cat([small, small.new_zeros(2, 3000)], 1), atol=atol) == 2
        bounds = linalg.rank_bounds(small, Tolerance(atol, "absolute"))
        assert (bounds.lower, bounds.upper) == (2, 2)
    large = torch.full((20, 30), torch.finfo(dtype).max, dtype=dtype, device=device)
    assert linalg.matrix_rank(large) == linalg.matrix_rank(large, rtol=1 - 1e-15) == 1
    assert linalg.matrix_rank(large, atol=torch.inf) == linalg.matrix_rank(large, rtol=torch.inf) == 0
    bounds = linalg.rank_bounds(large, Tolerance(1.7e308, "absolute"))
    assert bounds.lower == bounds.upper == (1 if dtype == torch.float64 else 0)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # the interpreter's maximum
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_sketch_proves_nothing_of_what_is_not_finite(bad, device, short_strips):
    """At the first step no column is kept; the bounds of sigma_1^2 are 0 and one that is not finite."""
    matrix = testing.make("low_rank", 20, 30).matrix.to(device)
    tolerances = torch.tensor([[0, 1e-6], [1, 1e-6], [2, 1e-6], [2, 1e300]], dtype=torch.float64)
    step, skip = torch.zeros((), dtype=torch.int64, device=device), torch.zeros(1, device=device)
    sketches = Sketches([View(0, 20, 30, 30, 1, 0)], [torch.float32], [16], [False], tolerances, step, skip, 0)
    for spoil in (True, False, False, True):
        given = matrix.clone()
        given[19, 29] = bad if spoil else 0
        sketches.multiply(sketches.passes[0], torch.tensor([given.data_ptr()], device=device))
        sketches.conclude()
        sketches.rotate()
        step += 1
        norm, low, high, *ranks = sketches.proof[0].tolist()
        if spoil:
            assert ranks == [-1.0] * 8
            assert not low > 0
            assert not high < torch.inf
            assert not norm < torch.inf
