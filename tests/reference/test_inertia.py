"""Inertia: counts of positive eigenvalues from LDL^T factors, and their growth."""

import pytest
import torch
from ldl_by_columns import ldl_by_columns

from fastrank import Status, Tolerance, testing
from fastrank.counting.bounds import inertia_bounds, judge, shifts
from fastrank.counting.growth import residual, unpivoted
from fastrank.counting.singular import resolve_bounds
from fastrank.reference.again import again
from fastrank.reference.grams import Moments, gram
from fastrank.reference.ldl import count_ldl, inertia, unpacked_ldl, unpivoted_inertia
from fastrank.reference.residual import UNIT


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
    assert (growth > 0).all()
    assert (growth <= 10 * torch.linalg.matrix_norm(matrices, "nuc")).all()


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
    pivots = torch.linalg.ldl_factor_ex(matrix).pivots
    assert (pivots < 0).any()
    counts, growth = inertia(matrix)
    assert counts.tolist() == [int((torch.linalg.eigvalsh(matrix) > 0).sum())]
    assert growth.isfinite().all()


def test_a_two_by_two_block_that_is_not_indefinite_is_not_trusted():
    factors = torch.tensor([[[2.0, 0.0], [1.0, 2.0]]], dtype=torch.float64)
    _, growth = count_ldl(*unpacked_ldl(factors, torch.tensor([[-2, -2]], dtype=torch.int32)))
    assert growth.tolist() == [torch.inf]


@pytest.mark.parametrize("r", [1, 2, 3, 8, 33, 70])
def test_unpacked_factors_are_those_of_the_matrix_whatever_was_swapped(r):
    generator = torch.Generator().manual_seed(r)
    a = torch.randn(8, r, r, generator=generator, dtype=torch.float64)
    a = a + a.mT
    a[0] = torch.eye(r, dtype=torch.float64)  # nothing is swapped
    a[1].fill_diagonal_(0.0)  # all pivots are of pairs, or nearly
    lower, d, beside = unpacked_ldl(*torch.linalg.ldl_factor_ex(a)[:2])
    middle = torch.diag_embed(d) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    torch.testing.assert_close(lower @ middle @ lower.mT, a, rtol=0, atol=1e-11)
    assert r < 3 or (beside != 0).any()


@pytest.mark.parametrize("pivots", [[1, 1], [1, 3], [1, 0], [1, -3], [-1, -1]])
def test_swaps_that_leave_no_permutation_are_not_believed(pivots):
    """L = [[1, 1], [0, 0]], of the first, is singular: L D L^T = diag(7, 0) has one positive eigenvalue, D two."""
    factors = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    _, growth = count_ldl(*unpacked_ldl(factors, torch.tensor([pivots], dtype=torch.int32)))
    assert growth.tolist() == [torch.inf]


def test_factors_that_are_not_those_of_the_matrix_are_not_believed(monkeypatch):
    """A library that returns a wrong count, by factors that are off by 1e-9, is found out by the residual."""
    matrix = torch.diag(torch.tensor([1.0, 1e-10, -1.0], dtype=torch.float64))[None]
    wrong = torch.linalg.ldl_factor_ex(matrix - 1e-9 * torch.eye(3, dtype=torch.float64))
    right, growth = inertia(matrix)
    assert right.item() == 2
    assert growth.item() < 3
    monkeypatch.setattr(torch.linalg, "ldl_factor_ex", lambda matrices: wrong)
    count, growth = inertia(matrix)
    assert count.item() == 1
    assert growth.item() * UNIT * 67 > 1e-9


def test_empty_matrices_and_batches():
    for shape in [(0, 3, 3), (2, 0, 0), (0, 0, 0)]:
        counts, growth = inertia(torch.zeros(shape, dtype=torch.float64))
        assert counts.tolist() == [0] * shape[0]
        assert (growth < 1e-100).all()


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


@pytest.mark.parametrize("r", [1, 2, 31, 32, 33, 64, 65, 100])
def test_unpivoted_factors_taken_by_halves_are_those_taken_by_columns(r):
    generator = torch.Generator().manual_seed(r)
    stack = torch.stack([symmetric(torch.randn(r, generator=generator), seed) for seed in range(3)])
    stack[1] = 0
    counts, growth = unpivoted_inertia(stack)
    for i in (0, 2):
        lower, d = ldl_by_columns(stack[i])
        assert counts[i] == (d > 0).sum() == (torch.linalg.eigvalsh(stack[i]) > 0).sum()
        torch.testing.assert_close(growth[i], (d.abs() * lower.square().sum(0)).sum(), rtol=1e-8, atol=0)
    assert not growth[1].isfinite() or growth[1] == 0


def test_factors_without_pivots_may_grow_more_and_delta_covers_it():
    """Singular values from 1 to 1e-5: growth of 16 ||W||_F^2, more than pivoted factors would be believed with."""
    matrix = testing.planted(torch.logspace(0, -5, 512, dtype=torch.float64), 512, 512, seed=11)
    g = gram(matrix[None])
    allowed, strict = unpivoted(torch.tensor([512.0])), residual(512)
    found = shifts(g.moments, Tolerance(), allowed)
    answers = []
    for line in (found.upper, found.lower):
        shifted = g.matrix[0] - line.at(g.trace) * torch.eye(512, dtype=torch.float64)
        lower, d = ldl_by_columns(shifted)
        answers.append(((d > 0).sum()[None], (d.abs() * lower.square().sum(0)).sum()[None]))
        delta = (line.at(g.trace) - 1e-6 * g.trace).abs()
        assert torch.linalg.matrix_norm((lower * d) @ lower.mT - shifted, 2) <= delta
    growth = answers[0][1] / g.trace
    limits, strict = (shifts(g.moments, Tolerance(), x).limit.at(g.trace)[:, None] for x in (allowed, strict))
    assert strict < growth * g.trace < limits
    bounds = judge(g.moments, limits, *answers)
    assert bounds.lower == bounds.upper == testing.true_rank(matrix).lower
    strict = judge(g.moments, strict, *answers)
    assert (strict.lower, strict.upper, strict.status) == (0, 512, Status.FALLBACK)


def test_a_lower_bound_of_r_needs_no_other_count():
    """Whether the other one was made, or taken to be r, or has grown beyond belief: the answer is the same."""
    ones = torch.ones(3, dtype=torch.float64)
    moments = Moments(ones, ones, ones.bool(), 7.0, 9.0)
    limits = torch.tensor([[2.0, 1.0]] * 3, dtype=torch.float64)
    lower = torch.tensor([7, 7, 6]), torch.tensor([1.0, 1.5, 1.0], dtype=torch.float64)
    for count, growth in ((7, 0.0), (7, 2.0), (6, 1.0), (7, 3.0), (0, torch.nan)):
        upper = torch.full((3,), count), torch.full((3,), growth, dtype=torch.float64)
        found = judge(moments, limits, upper, lower)
        sound = growth <= 2
        assert found.lower.tolist() == [7, 0, 6 if sound else 0]
        assert found.upper.tolist() == [7, 7, count if sound else 7]
        assert found.status.tolist() == [Status.OK, Status.FALLBACK, Status.OK if sound else Status.FALLBACK]


@pytest.mark.parametrize("r", [1.0, 256.0, 1024.0, 65536.0])
@pytest.mark.parametrize("tolerance", [Tolerance(0.0), Tolerance(), Tolerance(1.0, "absolute")], ids=str)
def test_delta_covers_factors_up_to_the_limit(r, tolerance):
    """(n + 2) u ||W||_F^2 of the Gram's sums, and terms u growth + own u ||G - shift I||_F of the factors."""
    one = torch.ones(1, dtype=torch.float64)
    order = one * r
    of = Moments(one, one, one.bool(), order, order)
    for factors in (residual(r), unpivoted(order)):
        found = shifts(of, tolerance, factors)
        shift = found.lower.at(one)
        delta = shift - tolerance.value**2
        size = 1 + shift * r**0.5
        assert delta >= UNIT * ((r + 2) + factors.own * size + factors.terms * found.limit.at(one))
        assert found.limit.at(one) >= factors.growth


def test_a_second_count_is_asked_for_where_the_first_has_grown_too_much():
    """Six matrices: sound, both grown, a lower bound of r, one that has grown, nothing to count, and no matrix."""
    order, delta = 1000.0, UNIT * (1 + 2.0**-20) * (576 + 1000 / 128 + 64)
    ones = torch.ones(6, dtype=torch.float64)
    moments = Moments(ones.index_fill(0, torch.tensor([5]), 0.0), ones, ones.bool(), order, order)
    nan = torch.nan
    rows = [[0.1, 0.2, 0.3, 0.4]] * 4 + [[nan, nan, nan, nan], [0.1, 0.2, 0.3, 0.4]]
    places, limits = torch.tensor(rows, dtype=torch.float64), torch.full((6, 4), 8.0, dtype=torch.float64)
    counts = torch.tensor([[9, 9, 9, 9], [9, 9, 9, 9], [7, 1000, 0, 1000], [7, 1000, 9, 9], [9] * 4, [9] * 4])
    growth = [[8.0, 0.0, 8.0, 8.0], [9.0, 1e9, nan, 9.0], [9.0, 8.0, 7.0, 9.0], [1.0, 9.0, 0.0, 0.0]]
    growth = torch.tensor([*growth, [9.0] * 4, [9.0] * 4], dtype=torch.float64)
    found, allowed = again(moments, places, limits, counts, growth, 1)
    more = [[nan] * 4, [28.0, 504.0, 504.0, 28.0], [nan, nan, nan, 28.0], [28.0, 28.0, nan, nan], [nan] * 4, [nan] * 4]
    more = torch.tensor(more, dtype=torch.float64)
    torch.testing.assert_close(allowed, limits + more.nan_to_num(0.0), rtol=1e-15, atol=0)
    way = torch.tensor([-1.0, 1.0, -1.0, -1.0], dtype=torch.float64)  # the last two are no tolerance's
    torch.testing.assert_close(found - places, way * more * delta, rtol=1e-4, atol=0, equal_nan=True)
    for i in (0, 1):  # a count that was not made says nothing else
        growth[2:4, 0], counts[2:4, 0] = [torch.tensor([1e3, nan]), 0.0][i], 1000
        assert torch.equal(again(moments, places, limits, counts, growth, 1)[1], allowed)


def test_a_moved_shift_covers_what_the_new_limit_allows():
    """The shift of a second count is the one that the new limit would have given in the first place."""
    order = torch.tensor([700.0, 4096.0], dtype=torch.float64)
    ones = torch.ones_like(order)
    moments = Moments(ones, ones, ones.bool(), order, order)
    factors = unpivoted(order)
    first = shifts(moments, Tolerance(), factors)
    limit = first.limit.at(ones)
    grown = 5.0 * limit
    places = torch.stack([first.upper.at(ones), first.lower.at(ones)], -1)
    moved, allowed = again(moments, places, *(torch.stack([x, x], -1) for x in (limit, 0 * order, grown)), 1)
    expected = shifts(moments, Tolerance(), factors._replace(growth=factors.growth + 19.0 * limit / (1 + 1e-6 * order)))
    torch.testing.assert_close(allowed, torch.stack([20.0 * limit] * 2, -1), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        moved, torch.stack([expected.upper.at(ones), expected.lower.at(ones)], -1), rtol=1e-12, atol=0
    )
