"""linalg: metrics against FP64 singular values, and the inputs that break other libraries."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch

import fastrank
from fastrank import RankBounds, Status, Tolerance, linalg, metrics, testing

METRICS = {
    linalg.spectral_norm: lambda s: s.amax(-1),
    linalg.stable_rank: lambda s: (s / s.amax(-1, keepdim=True)).square().sum(-1),
    linalg.effective_rank: metrics.effective_rank,
    linalg.energy_rank: partial(metrics.energy_rank, energy=0.99),
    linalg.nuclear_norm: metrics.nuclear_norm,
    linalg.participation_ratio: metrics.participation_ratio,
}
NORMS = (linalg.spectral_norm, linalg.nuclear_norm)
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda f: f.__name__)


def values(answer):
    """The tensors of an answer, end to end."""
    return [
        v for x in (answer if isinstance(answer, tuple) else (answer,)) for v in (x if isinstance(x, list) else [x])
    ]


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_metrics_are_those_of_the_singular_values(metric, dtype):
    scales = {torch.float16: (1.0,), torch.float64: (1.0, 1e-300, 1e300)}.get(dtype, (1.0, 1e-30, 1e30))
    for i, shape in enumerate([(1, 1), (1, 7), (6, 6), (31, 12), (24, 50)]):
        for case in testing.cases(*shape, seed=i, dtype=dtype, scales=scales):
            sigma = testing.true_singular_values(case.matrix)
            expected = METRICS[metric](sigma) if case.family != "zero" else torch.zeros(()).double()
            # sqrt of an FP64 Gram's rounding, 1e-8 sigma_1 a value, is all that the smallest values can be off by.
            rtol = 1e-12 if metric in (linalg.spectral_norm, linalg.stable_rank) else 1e-5
            torch.testing.assert_close(metric(case.matrix), expected, rtol=rtol, atol=0)


@every_metric
def test_one_answer_for_batches_singles_transposes_and_lists(metric):
    # The smallest values of a squared matrix are its rounding, which differs from form to form.
    rtol = 1e-12 if metric in (linalg.spectral_norm, linalg.stable_rank) else 1e-7
    A = torch.stack([testing.make("log_uniform", 9, 5, seed=s).matrix for s in range(6)])
    single = torch.stack([metric(m) for m in A])
    torch.testing.assert_close(metric(A), single, rtol=rtol, atol=0)
    torch.testing.assert_close(metric(A.view(2, 3, 9, 5)), single.view(2, 3), rtol=rtol, atol=0)
    torch.testing.assert_close(metric(A.mT), single, rtol=rtol, atol=0)
    torch.testing.assert_close(metric(list(A)), single, rtol=rtol, atol=0)
    mixed = [A[0], A[1].T.double(), A[2].half(), A[3]]
    torch.testing.assert_close(metric(mixed), torch.stack([metric(m) for m in mixed]), rtol=rtol, atol=0)


@every_metric
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3), (2, 3, 0), (0, 3, 3), (0, 0, 0), (2, 0, 4, 3)])
def test_empty_matrices_measure_zero(metric, shape):
    A = torch.zeros(shape)
    assert torch.equal(metric(A), torch.zeros(shape[:-2], dtype=torch.float64))
    assert metric([]).shape == (0,)


@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
def test_nothing_has_no_rank_in_any_tolerance(relative_to, counting):
    for nothing in ([], torch.empty(0, 3, 4), torch.empty(2, 0, 4)):
        found = linalg.rank_bounds(nothing, Tolerance(0.1, relative_to))
        assert found.lower.tolist() == found.upper.tolist() == [0] * len(nothing)


def test_empty_matrices_have_rank_zero(counting):
    for shape in [(0, 3), (3, 0), (2, 0, 3), (0, 3, 3), (0, 0, 0)]:
        bounds = linalg.rank_bounds(torch.zeros(shape))
        assert all(torch.equal(x, torch.zeros(shape[:-2], dtype=x.dtype)) for x in bounds)
        assert bounds.certified.all()
    assert linalg.rank_bounds([]).lower.shape == (0,)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_matrix_that_is_not_finite_is_reported_and_its_neighbours_unharmed(bad, dtype, counting):
    """Bit by bit as without it. The NaN matrices also hold 0 * Inf and Inf - Inf once they are squared."""
    A = torch.stack([testing.make("arithmetic", 7, 9, seed=s, dtype=dtype).matrix for s in range(3)])
    broken = A.clone()
    broken[1, 2, 3] = bad
    broken[1, 4] = 0
    functions = [*METRICS, linalg.rank_bounds, lambda x: linalg.svd_lowrank(x, 2)]
    for function in functions:
        for matrices in ((A, broken), (list(A), list(broken))):
            for whole, beside in zip(*(values(function(m)) for m in matrices), strict=True):
                if whole.shape[:1] == (3,):
                    assert torch.equal(whole[[0, 2]], beside[[0, 2]])
        if function in METRICS:
            assert function(broken)[1].isnan()
            assert function(broken[1]).isnan()
    bounds = linalg.rank_bounds(broken)
    assert bounds.lower.tolist() == bounds.upper.tolist() == [7, -1, 7]
    assert bounds.status.tolist() == [Status.OK, Status.NONFINITE, Status.OK]
    assert bounds.certified.tolist() == [True, False, True]
    ragged = linalg.svd_lowrank(list(broken), 2)
    assert [bool(u.isnan().all()) for u in ragged.U] == [False, True, False]


@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
def test_a_zero_matrix_has_rank_zero_at_any_tolerance(relative_to, counting):
    for value in (0.0, 1e-3, 5.0):
        for dtype in (torch.float16, torch.float32, torch.float64):
            bounds = linalg.rank_bounds(torch.zeros(2, 3, 4, dtype=dtype), Tolerance(value, relative_to))
            assert bounds.lower.tolist() == bounds.upper.tolist() == [0, 0]
            assert bounds.status.tolist() == [Status.OK, Status.OK]


@pytest.mark.parametrize(("dtype", "scales"), [(torch.float32, (1e-30, 1e30)), (torch.float64, (1e-300, 1e300))])
def test_scale_does_not_matter(dtype, scales, counting):
    A = testing.make("geometric", 8, 11, dtype=torch.float64).matrix
    functions = [linalg.rank_bounds, linalg.stable_rank, linalg.effective_rank, linalg.participation_ratio]
    for function in [*functions, linalg.energy_rank]:
        plain = values(function(A.to(dtype)))
        for scale in scales:
            for a, b in zip(plain, values(function((A * scale).to(dtype))), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def test_the_edge_of_fp64_overflows_in_norms_only():
    A = torch.eye(6, dtype=torch.float64) * 1e308
    assert linalg.rank_bounds(A).lower == linalg.rank_bounds(A).upper == 6
    assert linalg.spectral_norm(A) == 1e308
    assert linalg.stable_rank(A) == pytest.approx(6)
    assert linalg.effective_rank(A) == pytest.approx(6)
    assert linalg.nuclear_norm(A) == torch.inf


def test_rank_bounds_takes_ragged_lists_and_numpy(counting):
    matrices = [testing.make("low_rank", *s, seed=i).matrix for i, s in enumerate([(4, 9), (9, 4), (8, 8), (12, 40)])]
    bounds = linalg.rank_bounds(matrices)
    assert isinstance(bounds, RankBounds)
    assert bounds.lower.tolist() == bounds.upper.tolist() == [1, 1, 2, 3]
    arrays = linalg.rank_bounds([m.numpy() for m in matrices])
    assert isinstance(arrays.lower, np.ndarray)
    assert arrays.lower.tolist() == [1, 1, 2, 3]
    assert arrays.certified.tolist() == [True] * 4


def test_rank_bounds_checks_its_tolerance():
    for wrong in (1e-3, "frobenius", (1e-3, "frobenius")):
        with pytest.raises(TypeError, match=r"tolerance: expected a fastrank\.Tolerance"):
            linalg.rank_bounds(torch.ones(2, 2), wrong)


def test_no_argument_is_modified_and_no_gradient_kept(counting):
    A = testing.make("geometric", 6, 8).matrix.requires_grad_()
    before = A.detach().clone()
    for function in (*METRICS, linalg.rank_bounds, linalg.matrix_rank, lambda x: linalg.svd_lowrank(x, 2)):
        assert not any(x.requires_grad for x in values(function(A)))
    assert torch.equal(A, before)


def test_another_default_dtype_changes_no_answer(counting):
    A = testing.make("low_rank", 12, 20).matrix
    functions = (*METRICS, linalg.rank_bounds, linalg.matrix_rank, lambda x: linalg.svd_lowrank(x, 2))
    plain = [values(f(A)) for f in functions]
    torch.set_default_dtype(torch.float64)
    try:
        other = [values(f(A)) for f in functions]
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(plain, other, strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_every_public_function_is_listed_and_documented():
    own = vars(linalg.functions).items()
    public = [n for n, f in own if getattr(f, "__module__", "") == linalg.functions.__name__ and n[0] != "_"]
    assert sorted(public) == linalg.__all__
    assert all(inspect.getdoc(getattr(linalg, name)) for name in linalg.__all__)
    assert fastrank.linalg is linalg
