"""Bounds: no false proof on any family, dtype, scale, tolerance or counting path, and few answers left open."""

import pytest
import torch

from fastrank import RankBounds, Status, Tolerance, linalg, testing
from fastrank.counting.bounds import (
    inertia_bounds,
    shifts,
)
from fastrank.counting.growth import unpivoted
from fastrank.counting.singular import resolve_bounds, singular_value_bounds
from fastrank.reference.grams import Moments, gram
from fastrank.reference.ldl import inertia

TOLERANCES = [
    Tolerance(),
    Tolerance(0.05),
    Tolerance(1e-3, "spectral"),
    Tolerance(0.01, "absolute"),
    Tolerance(1e-6, "spectral"),
]
SCALES = {
    torch.float16: (1.0,),
    torch.bfloat16: (1.0, 1e30),
    torch.float32: (1.0, 1e-30, 1e30),
    torch.float64: (1.0, 1e-300, 1e300),
}


def judge(cases, resolve=True):
    """Errors summed over the cases, each measured with its own tolerance."""
    errors = []
    for case in cases:
        bounds = linalg.rank_bounds(case.matrix, case.tolerance, resolve=resolve)
        errors.append(testing.count_errors(bounds, testing.true_rank(case.matrix, case.tolerance)))
    return testing.CountErrors(*map(sum, zip(*errors, strict=True)))


@pytest.mark.parametrize("tolerance", TOLERANCES, ids=lambda t: t.suffix)
@pytest.mark.parametrize("dtype", SCALES, ids=str)
def test_no_false_proof(dtype, tolerance, counting):
    """Sizes: one element, one row, a prime, tall, wide: 3240 matrices in all, each counted both ways."""
    shapes = [(1, 1), (1, 9), (5, 5), (29, 11), (24, 57), (64, 64)]
    made = [
        case
        for i, shape in enumerate(shapes)
        for case in testing.cases(*shape, seed=i, dtype=dtype, scales=SCALES[dtype], tolerance=tolerance)
    ]
    assert judge(made, resolve=False).wrong == 0
    errors = judge(made)
    assert errors.wrong == 0
    # What stays open is at most singular values that equal tau: 1 x 1 matrices have such, at 1e-6 geometric ones.
    assert errors.uncertified <= 0.1 * errors.matrices


@pytest.mark.parametrize("family", testing.FAMILIES)
def test_no_false_proof_in_large_matrices(family, counting):
    for shape in [(200, 333), (512, 130)]:
        errors = judge([testing.make(family, *shape, seed=shape[0])])
        assert errors == (1, 0, 0)


def test_no_false_proof_at_512(counting):
    assert judge([testing.make("clustered", 512, 512, dtype=torch.float64, distance=1e-7)]) == (1, 0, 0)


@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
def test_clusters_next_to_tau_are_counted_exactly(distance, relative_to, counting):
    """FP64 keeps the planted counts; FP32's own rounding moves them, and the stored matrix is what counts."""
    for value in (1e-3, 0.04):
        tolerance = Tolerance(value, relative_to)
        for dtype in (torch.float32, torch.float64):
            case = testing.make("clustered", 48, 80, dtype=dtype, tolerance=tolerance, distance=distance)
            bounds = linalg.rank_bounds(case.matrix, tolerance)
            assert (bounds.lower.item(), bounds.upper.item()) == testing.true_rank(case.matrix, tolerance)
            if dtype == torch.float64:
                assert bounds.lower.item() == testing.clustered(48, tolerance, distance)[1]


def test_an_fp32_gram_is_wrong_where_ours_is_right():
    """Negative control: the cluster is hard enough to tell a Gram in FP64 from one in FP32."""
    cases = [testing.make("clustered", 48, 80, seed=s, distance=1e-3) for s in range(10)]
    assert judge(cases) == (10, 0, 0)
    narrow = [torch.linalg.eigvalsh(c.matrix @ c.matrix.T) for c in cases]
    counts = [int((e > 1e-6 * e.sum()).sum()) for e in narrow]
    assert counts != [int(testing.true_rank(c.matrix).lower) for c in cases]


def test_a_singular_value_that_equals_tau_is_left_open(counting):
    """Nobody can tell whether 0.5 is above 0.5 from a rounded decomposition: the interval says so."""
    matrix = testing.planted(torch.tensor([1.0, 0.5, 0.25]), 3, 5, seed=0, dtype=torch.float64)
    for tolerance in (Tolerance(0.5, "absolute"), Tolerance(0.5, "spectral")):
        bounds = linalg.rank_bounds(matrix, tolerance)
        assert (bounds.lower.item(), bounds.upper.item(), bounds.status.item()) == (1, 2, Status.FALLBACK)
        assert not bounds.certified


@pytest.mark.parametrize("value", [0.0, 1e-200, 0.45, 1.0 + 1e-9, 2.0, 1e200, 1.7e308])
@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_tolerances_of_any_size(value, relative_to, scale, counting):
    tolerance = Tolerance(value, relative_to)
    matrix = testing.make("arithmetic", 6, 9, dtype=torch.float64, scale=scale).matrix
    bounds = linalg.rank_bounds(torch.stack([matrix, torch.zeros_like(matrix)]), tolerance)
    truth = testing.true_rank(matrix, tolerance)
    assert not truth.ambiguous
    assert bounds.lower.tolist() == bounds.upper.tolist() == [truth.lower.item(), 0]


def test_subnormal_matrices(counting):
    """Steps of the smallest number there is: diag(5, 3, 1) of them has rank 2 above 0.3 of the first."""
    for dtype in (torch.float32, torch.float64):
        step = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
        matrix = torch.diag(torch.tensor([5.0, 3.0, 1.0], dtype=dtype) * step)
        bounds = linalg.rank_bounds(matrix, Tolerance(0.3, "spectral"))
        assert (bounds.lower.item(), bounds.upper.item()) == (2, 2)


def test_a_tau_below_the_grams_resolution_goes_to_singular_values(counting):
    """sigma_3 = 1e-10 squares to 1e-20, lost in an FP64 Gram; its own FP64 decomposition sees it."""
    sigma = torch.tensor([1.0, 0.5, 1e-10], dtype=torch.float64)
    matrix = testing.planted(sigma, 3, 4, seed=0, dtype=torch.float64)
    for value, rank in ((1e-11, 3), (1e-9, 2)):
        tolerance = Tolerance(value, "spectral")
        open_ = linalg.rank_bounds(matrix, tolerance, resolve=False)
        assert (open_.lower.item(), open_.upper.item(), open_.status.item()) == (2, 3, Status.OK)
        bounds = linalg.rank_bounds(matrix, tolerance)
        assert (bounds.lower.item(), bounds.upper.item(), bounds.status.item()) == (rank, rank, Status.FALLBACK)


def test_both_proofs_agree_with_the_truth_on_one_stack():
    stack = torch.stack([c.matrix for c in testing.cases(20, 31, dtype=torch.float64, scales=(1.0,))])
    g = gram(stack)
    eigenvalues = torch.linalg.eigvalsh(g.matrix)
    for tolerance in TOLERANCES:
        truth = testing.true_rank(stack, tolerance)
        answers = [singular_value_bounds(stack, tolerance)]
        top = (eigenvalues[:, -1] * (1 - 1e-9), eigenvalues[:, -1] * (1 + 1e-5))
        answers += inertia_bounds(g, [tolerance], inertia, top)
        for bounds in answers:
            assert testing.count_errors(bounds, truth).wrong == 0
        lower = torch.stack([b.lower for b in answers]).amax(0)
        assert (lower <= torch.stack([b.upper for b in answers]).amin(0)).all()


def test_several_tolerances_share_one_gram():
    stack = torch.stack([testing.make("geometric", 20, 31, seed=s).matrix for s in range(3)])
    tolerances = [Tolerance(v) for v in (1e-3, 0.04, 0.05)]
    together = inertia_bounds(gram(stack), tolerances, inertia)
    for bounds, tolerance in zip(together, tolerances, strict=True):
        for a, b in zip(bounds, linalg.rank_bounds(stack, tolerance), strict=True):
            assert torch.equal(a, b)


def test_an_interval_of_sigma_1_gives_an_interval_of_the_rank():
    """lambda_1 known only to a factor of 4: a singular value between the two taus stays open."""
    matrix = torch.diag(torch.tensor([1.0, 0.15, 0.05], dtype=torch.float64))[None]
    g = gram(matrix)
    top = torch.linalg.eigvalsh(g.matrix)[:, -1]
    bounds = inertia_bounds(g, [Tolerance(0.1, "spectral")], inertia, (top, 4 * top))[0]
    assert (bounds.lower.item(), bounds.upper.item()) == (1, 2)


def test_resolving_keeps_what_is_settled_and_never_touches_its_argument():
    stack = torch.stack([torch.eye(3), torch.eye(3), torch.full((3, 3), torch.nan)])
    bounds = RankBounds(torch.tensor([3, 1, -1]), torch.tensor([3, 3, -1]), torch.tensor([0, 0, 1], dtype=torch.int8))
    resolved = resolve_bounds(bounds, stack, Tolerance())
    assert resolved.lower.tolist() == resolved.upper.tolist() == [3, 3, -1]
    assert resolved.status.tolist() == [Status.OK, Status.FALLBACK, Status.NONFINITE]
    assert bounds.lower.tolist() == [3, 1, -1]


def test_shifts_of_the_largest_matrices_are_finite():
    """At an order that takes 32 GiB, and with a tolerance that is beyond every singular value."""
    order = torch.tensor([65536.0], dtype=torch.float64)
    one = torch.ones_like(order)
    moments = Moments(one * 1e90, one, one.bool(), order, order)
    for value in (1e150, 1.7e308):
        found = shifts(moments, Tolerance(value, "absolute"), unpivoted(order))
        assert all(line.at(moments.trace).isfinite() for line in found)
        assert found.lower.at(moments.trace) > found.upper.at(moments.trace) > moments.trace
