"""Top: bounds of lambda_1 that hold, and are narrow, wherever the search is hard and wherever it starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from panels import top_of

from fastrank.reference import UNIT, divided, gram, kato_bound
from fastrank.testing import planted

SIZES = [1, 2, 7, 8, 9, 64, 65, 100]


def orthogonal(r, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64)).Q


def lambda_1(matrix):
    """Of the Gram in the batch's scale, and what rounding may make of it."""
    g = gram((matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)[None])
    sigma = torch.linalg.svdvals(divided(matrix.double(), g.scale))[0].item()
    return sigma**2, UNIT * (max(matrix.shape) + 10 * min(matrix.shape) + 100) * g.trace.item()


def check(matrix, start=None, exact=1e-13):
    """The bounds hold, and are no wider than what is promised of them, apart from rounding."""
    (theta, low, high), x = top_of(matrix, start, exact)
    true, error = lambda_1(matrix)
    assert low - error <= true <= high + error
    assert low <= theta <= true + error
    assert high - low <= true * 1.01e-8 + 1000 * error
    assert np.linalg.norm(x) == pytest.approx(1.0, abs=1e-12)
    return theta, true


HARD = {
    "identity": torch.eye,
    "orthogonal": orthogonal,
    "diagonal": lambda r: torch.diag(torch.arange(1.0, r + 1)),
    "last is first": lambda r: torch.diag(torch.cat([torch.ones(r - 1), torch.tensor([3.0])])),
    "two equal": lambda r: planted(torch.cat([torch.full((min(r, 2),), 2.0), torch.ones(max(r - 2, 0))]), r, r, seed=r),
    "blocks": lambda r: torch.block_diag(torch.ones(r // 2, r // 2), torch.ones(r - r // 2, r - r // 2)),
    "rank one": lambda r: torch.outer(torch.arange(1.0, r + 1), torch.ones(r + 3)),
    "one element": lambda r: torch.zeros(r, r).index_put((torch.tensor(r - 1), torch.tensor(0)), torch.tensor(2.0)),
    "noise": lambda r: torch.randn(r, 2 * r, generator=torch.Generator().manual_seed(r)),
    "slow decay": lambda r: planted(1 - torch.arange(r) / (8.0 * r), r, r + 2, seed=r),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("r", SIZES)
def test_where_the_search_is_hard(name, r):
    check(HARD[name](r))


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7, 1e-8, 1e-9, 1e-11, 1e-14, 0.0])
@pytest.mark.parametrize("equal", [2, 5, 30])
def test_clusters_at_the_top(distance, equal):
    sigma = torch.ones(60, dtype=torch.float64)
    sigma[:equal] = 4.0
    sigma[0] *= 1 + distance
    check(planted(sigma, 60, 70, seed=equal, dtype=torch.float64))


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-9])
def test_a_start_that_is_another_eigenvector_is_refuted(gap):
    """For the search alone it is the answer: its residual is zero."""
    r = 40
    q = orthogonal(r)
    sigma = torch.cat([torch.tensor([1 + gap, 1.0]), torch.linspace(0.9, 0.1, r - 2)]).double()
    matrix = q * sigma @ orthogonal(r, 1).T
    for wrong, exact in ((1, 1e-13), (1, 1e-8), (r - 1, 1e-8)):
        theta, true = check(matrix, q[:, wrong].numpy(), exact)
        if gap > 1e-7:
            assert theta > true * (1 - 1e-8)
    diagonal = torch.diag(torch.tensor([1.0, 5.0, 3.0]))
    for i in range(3):  # exactly: no rounding leads away from it
        theta, true = check(diagonal, np.eye(3)[i])
        assert theta == pytest.approx(true, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, 1e-320, 1e300])
def test_any_warm_start(value):
    for r in (1, 9, 30):
        start = np.full(r, value)
        check(HARD["noise"](r), start)
        start = np.arange(r, dtype=float)
        start[-1] = value
        check(HARD["noise"](r), start)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e30, 3e38])
def test_any_scale_of_fp32(size):
    noise = HARD["noise"](13)
    check(noise / noise.abs().max() * size)


@pytest.mark.parametrize("size", [1e-320, 1e-300, 1e300])
def test_any_scale_of_fp64(size):
    check(HARD["noise"](13).double().clamp(-1, 1) * size)


def test_zero_and_what_is_not_finite():
    assert top_of(torch.zeros(5, 9))[0] == [0, 0, 0]
    for value in (torch.nan, torch.inf):
        matrix = torch.ones(9, 5)
        matrix[8, 4] = value
        assert not np.isfinite(top_of(matrix)[0]).any()


@pytest.mark.parametrize("shape", [(3, 700), (129, 130), (300, 300), (600, 520)], ids=str)
def test_larger_ones(shape):
    check(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


def test_a_proof_of_kato_s_is_that_of_the_twin():
    """Where one singular value is most of the norm, there is no factorisation: the bound is no more than the twin's."""
    matrix = planted(torch.tensor([5.0, 1.0, 0.5, 0.1], dtype=torch.float64), 4, 9, seed=0)
    (theta, _, high), x = top_of(matrix)
    g = gram(matrix[None])
    rho = np.linalg.norm(g.matrix[0].numpy() @ x - theta * x)
    square, error = g.matrix.square().sum().item(), UNIT * (9 + 4 * 4 + 64) * g.trace.item()
    given = (torch.tensor([v], dtype=torch.float64) for v in (theta, rho, square, error))
    assert high == pytest.approx(kato_bound(*given, 4.0).item(), rel=1e-14)
