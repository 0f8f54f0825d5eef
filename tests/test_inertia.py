"""Inertia: counts of positive eigenvalues from LDL^T (CPU) and unpivoted LU (CUDA) factors, and their growth."""

import numpy as np
import pytest
import torch

from fastrank import Status, Tolerance, testing
from fastrank.bounds import GROWTH_LIMIT, inertia_bounds, resolve_bounds
from fastrank.reference.gram import gram
from fastrank.reference.inertia import count_ldl, count_lu, inertia


def unpivoted_lu(matrices):
    """What `torch.linalg.lu_factor(pivot=False)` returns on CUDA: L below the diagonal, U on and above it."""
    factors = matrices.numpy().copy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for j in range(factors.shape[-1]):
            factors[:, j + 1 :, j] /= factors[:, j, j, None]
            factors[:, j + 1 :, j + 1 :] -= factors[:, j + 1 :, j, None] * factors[:, j, None, j + 1 :]
    return torch.from_numpy(factors)


def lu_inertia(matrices):
    return count_lu(unpivoted_lu(matrices))


def symmetric(eigenvalues, seed=0):
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    r = len(eigenvalues)
    q = testing.planted(torch.ones(r, dtype=torch.float64), r, r, seed=seed, dtype=torch.float64)
    return (q * eigenvalues) @ q.mT


@pytest.mark.parametrize("count", [inertia, lu_inertia])
@pytest.mark.parametrize("r", [1, 2, 3, 7, 32, 65])
def test_count_is_the_number_of_positive_eigenvalues(count, r):
    generator = torch.Generator().manual_seed(r)
    eigenvalues = torch.randn(20, r, generator=generator, dtype=torch.float64)
    matrices = torch.stack([symmetric(row, seed) for seed, row in enumerate(eigenvalues)])
    counts, growth = count(matrices)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, (eigenvalues > 0).sum(-1))
    assert (growth >= torch.linalg.matrix_norm(matrices, 2) * (1 - 1e-12)).all()


def test_growth_bounds_the_product_of_the_absolute_factors():
    matrices = torch.stack([symmetric(torch.linspace(-1, 2, 9), seed) for seed in range(20)])
    factors = unpivoted_lu(matrices)
    lower = factors.tril(-1) + torch.eye(9).double()
    product = lower.abs() @ torch.diag_embed(factors.diagonal(dim1=-2, dim2=-1).abs()) @ lower.abs().mT
    assert (count_lu(factors)[1] >= torch.linalg.matrix_norm(product, 2) * (1 - 1e-12)).all()


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]],
        [[0.0, 2.0, 1.0, 0.0], [2.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 3.0], [0.0, 1.0, 3.0, 0.0]],
    ],
)
def test_two_by_two_pivots(matrix):
    """No 1 x 1 pivot exists in the top corner: Bunch-Kaufman pairs, unpivoted LU must say that it cannot be trusted."""
    matrix = torch.tensor(matrix, dtype=torch.float64)[None]
    factors, pivots, _ = torch.linalg.ldl_factor_ex(matrix)
    assert (pivots < 0).any()
    counts, growth = count_ldl(factors, pivots)
    assert counts.tolist() == [int((torch.linalg.eigvalsh(matrix) > 0).sum())]
    assert growth.isfinite().all()
    assert lu_inertia(matrix)[1].tolist() == [torch.inf]


def test_a_two_by_two_block_that_is_not_indefinite_is_not_trusted():
    factors = torch.tensor([[[2.0, 0.0], [1.0, 2.0]]], dtype=torch.float64)
    counts, growth = count_ldl(factors, torch.tensor([[-2, -2]], dtype=torch.int32))
    assert growth.tolist() == [torch.inf]
    assert counts.tolist() == [1]


@pytest.mark.parametrize("count", [inertia, lu_inertia])
def test_empty_matrices_and_batches(count):
    for shape in [(0, 3, 3), (2, 0, 0), (0, 0, 0)]:
        counts, growth = count(torch.zeros(shape, dtype=torch.float64))
        assert counts.tolist() == [0] * shape[0]
        assert growth.tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unpivoted_lu_proves_no_false_count(distance, dtype):
    """The CUDA path on every family and on clusters next to tau, by the LU above."""
    wrong = certified = total = 0
    for seed, (rows, cols) in enumerate([(1, 4), (8, 8), (30, 21), (48, 70)]):
        for family in testing.FAMILIES:
            case = testing.make(family, rows, cols, seed=seed, dtype=dtype, distance=distance)
            stack = (case.matrix if rows <= cols else case.matrix.mT)[None]
            bounds = inertia_bounds(gram(stack), [Tolerance()], lu_inertia)[0]
            errors = testing.count_errors(bounds, testing.true_rank(stack))
            wrong, certified, total = wrong + errors.wrong, certified + bounds.certified.sum().item(), total + 1
    assert wrong == 0
    assert certified >= 0.75 * total


def test_a_zero_matrix_has_rank_zero_by_unpivoted_lu_too():
    bounds = inertia_bounds(gram(torch.zeros(2, 3, 4)), [Tolerance(0.0)], lu_inertia)[0]
    assert bounds.certified.all()
    assert bounds.upper.tolist() == [0, 0]


def test_factors_that_grew_are_not_believed_but_resolved():
    """tau is the norm of the first row: the first pivot is next to nothing, and without pivoting the rest explodes."""
    stack = testing.make("arithmetic", 6, 9, dtype=torch.float64).matrix[None]
    tolerance = Tolerance(stack[0, 0].norm().item(), "absolute")
    g = gram(stack)
    trusted = inertia_bounds(g, [tolerance], inertia)[0]
    bounds = inertia_bounds(g, [tolerance], lu_inertia)[0]
    assert lu_inertia(g.matrix - g.matrix[0, 0, 0] * (1 + 1e-13) * torch.eye(6))[1] > GROWTH_LIMIT * 7 * g.trace
    assert (bounds.status.item(), bounds.lower.item(), bounds.upper.item()) == (Status.FALLBACK, 0, 6)
    resolved = resolve_bounds(bounds, stack, tolerance)
    assert resolved.status.item() == Status.FALLBACK
    assert (resolved.lower.item(), resolved.upper.item()) == testing.true_rank(stack[0], tolerance)
    # Bunch-Kaufman pivots around it.
    assert (trusted.status.item(), trusted.lower.item()) == (Status.OK, resolved.lower.item())


def test_only_the_matrix_that_grew_falls_back():
    stack = torch.stack([testing.make("low_rank", 6, 9, seed=s, dtype=torch.float64).matrix for s in range(3)])

    def grown(matrices):
        counts, growth = inertia(matrices)
        growth[1] = torch.inf
        counts[1] = 5
        return counts, growth

    bounds = inertia_bounds(gram(stack), [Tolerance()], grown)[0]
    assert bounds.status.tolist() == [Status.OK, Status.FALLBACK, Status.OK]
    resolved = resolve_bounds(bounds, stack, Tolerance())
    assert resolved.status.tolist() == [Status.OK, Status.FALLBACK, Status.OK]
    assert resolved.lower.tolist() == resolved.upper.tolist() == [2, 2, 2]
