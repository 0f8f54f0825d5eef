"""Inertia: counts of positive eigenvalues from LDL^T factors, and their growth."""

import pytest
import torch

from fastrank import Status, Tolerance, testing
from fastrank.bounds import inertia_bounds, resolve_bounds
from fastrank.reference.gram import gram
from fastrank.reference.inertia import count_ldl_, inertia


def symmetric(eigenvalues, seed=0):
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    r = len(eigenvalues)
    q = testing.planted(torch.ones(r, dtype=torch.float64), r, r, seed=seed, dtype=torch.float64)
    return (q * eigenvalues) @ q.mT


@pytest.mark.parametrize("r", [1, 2, 3, 7, 32, 65])
def test_count_is_the_number_of_positive_eigenvalues(r):
    generator = torch.Generator().manual_seed(r)
    eigenvalues = torch.randn(20, r, generator=generator, dtype=torch.float64)
    matrices = torch.stack([symmetric(row, seed) for seed, row in enumerate(eigenvalues)])
    counts, growth = inertia(matrices)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, (eigenvalues > 0).sum(-1))
    assert (growth >= torch.linalg.matrix_norm(matrices, 2) * (1 - 1e-12)).all()


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]],
        [[0.0, 2.0, 1.0, 0.0], [2.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 3.0], [0.0, 1.0, 3.0, 0.0]],
    ],
)
def test_two_by_two_pivots(matrix):
    """No 1 x 1 pivot exists in the top corner: Bunch-Kaufman pairs."""
    matrix = torch.tensor(matrix, dtype=torch.float64)[None]
    factors, pivots, _ = torch.linalg.ldl_factor_ex(matrix)
    assert (pivots < 0).any()
    counts, growth = count_ldl_(factors, pivots)
    assert counts.tolist() == [int((torch.linalg.eigvalsh(matrix) > 0).sum())]
    assert growth.isfinite().all()


def test_a_two_by_two_block_that_is_not_indefinite_is_not_trusted():
    factors = torch.tensor([[[2.0, 0.0], [1.0, 2.0]]], dtype=torch.float64)
    counts, growth = count_ldl_(factors, torch.tensor([[-2, -2]], dtype=torch.int32))
    assert growth.tolist() == [torch.inf]
    assert counts.tolist() == [1]


def test_empty_matrices_and_batches():
    for shape in [(0, 3, 3), (2, 0, 0), (0, 0, 0)]:
        counts, growth = inertia(torch.zeros(shape, dtype=torch.float64))
        assert counts.tolist() == [0] * shape[0]
        assert growth.tolist() == [0.0] * shape[0]


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
