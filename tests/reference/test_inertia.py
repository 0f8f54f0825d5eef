"""Inertia: counts of positive eigenvalues from LDL^T factors, and their growth."""

import pytest
import torch

from fastrank import Status, Tolerance, testing
from fastrank.counting.bounds import (
    PIVOTED_GROWTH,
    UNIT,
    inertia_bounds,
    judge,
    resolve_bounds,
    shifts,
    unpivoted_growth,
)
from fastrank.reference.grams import Moments, gram
from fastrank.reference.ldl import count_ldl_, inertia


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


def unpivoted(matrix):
    """L and d of an LDL^T without pivoting, column by column."""
    a, r = matrix.clone(), len(matrix)
    lower, d = torch.eye(r, dtype=torch.float64), torch.empty(r, dtype=torch.float64)
    for j in range(r):
        d[j] = a[j, j]
        lower[j + 1 :, j] = a[j + 1 :, j] / d[j]
        a[j + 1 :, j + 1 :] -= torch.outer(lower[j + 1 :, j], a[j + 1 :, j])
    return lower, d


def test_factors_without_pivots_may_grow_more_and_delta_covers_it():
    """Singular values from 1 to 1e-5: growth of 16 ||W||_F^2, more than pivoted factors would be believed with."""
    matrix = testing.planted(torch.logspace(0, -5, 512, dtype=torch.float64), 512, 512, seed=11)
    g = gram(matrix[None])
    found = shifts(g.moments, Tolerance(), unpivoted_growth(torch.tensor([512.0])))
    answers = []
    for line in (found.upper, found.lower):
        shifted = g.matrix[0] - line.at(g.trace) * torch.eye(512, dtype=torch.float64)
        lower, d = unpivoted(shifted)
        answers.append(((d > 0).sum()[None], (d.abs() * lower.square().sum(0)).sum()[None]))
        delta = (line.at(g.trace) - 1e-6 * g.trace).abs()
        assert torch.linalg.matrix_norm((lower * d) @ lower.mT - shifted, 2) <= delta
    growth = answers[0][1] / g.trace
    assert PIVOTED_GROWTH < growth < unpivoted_growth(torch.tensor(512.0))
    bounds = judge(g.moments, found, *answers)
    assert bounds.lower == bounds.upper == testing.true_rank(matrix).lower
    strict = judge(g.moments, shifts(g.moments, Tolerance(), PIVOTED_GROWTH), *answers)
    assert (strict.lower, strict.upper, strict.status) == (0, 512, Status.FALLBACK)


@pytest.mark.parametrize("r", [1.0, 256.0, 1024.0, 65536.0])
@pytest.mark.parametrize("tolerance", [Tolerance(0.0), Tolerance(), Tolerance(1.0, "absolute")], ids=str)
def test_delta_covers_factors_up_to_the_limit(r, tolerance):
    """(n + 2) u ||W||_F^2 of the Gram's sums, and (r + 64) u (||G - shift I||_F + growth) of the factors."""
    one = torch.ones(1, dtype=torch.float64)
    order = one * r
    of = Moments(one, one, one.bool(), order, order)
    for growth in (PIVOTED_GROWTH, unpivoted_growth(order)):
        found = shifts(of, tolerance, growth)
        shift = found.lower.at(one)
        delta = shift - tolerance.value**2
        size = 1 + shift * r**0.5
        assert delta >= UNIT * ((r + 2) + (r + 64) * (size + found.limit.at(one)))
        assert found.limit.at(one) >= growth
