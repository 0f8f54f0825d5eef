"""The ends of the range: subnormal and huge numbers, in every dtype and form, also where threads flush subnormals."""

from contextlib import contextmanager
from fractions import Fraction
from threading import Thread

import pytest
import torch
from torch import nn

from fastrank import RankTracker, Status, Tolerance, linalg, testing

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LARGEST = torch.finfo(torch.float64).max
RANKS = (linalg.stable_rank, linalg.effective_rank, linalg.energy_rank, linalg.participation_ratio)
flushing = pytest.mark.parametrize("flush", [False, True], ids=["", "flush"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@contextmanager
def flushed(flush):
    """This thread reads and writes subnormal numbers as zero, or does not."""
    torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def ends(dtype):
    """One, three and a thousand of the smallest number, the largest subnormal and smallest normal ones, the largest."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    return [smallest, 3 * smallest, 1000 * smallest, info.tiny * (1 - info.eps), info.tiny, info.max / 2, info.max]


def forms(matrix):
    """What to call a function with, and how to find the matrix' answer in what comes back."""
    zero = torch.zeros_like(matrix)
    yield matrix, lambda x: x
    yield matrix.mT, lambda x: x
    yield torch.stack([zero, matrix, zero])[:, None], lambda x: x[1, 0]
    yield [torch.ones(2, 1, dtype=torch.float64), zero, matrix, matrix.mT], lambda x: x[2]


def assert_norm(value, exact, flush):
    """A Fraction's root, rounded: to a multiple of the smallest number, or beyond the range."""
    if exact > Fraction(LARGEST) ** 2:
        assert value == torch.inf
    elif flush and exact < Fraction(2) ** -2044:
        assert value == 0
    else:
        low, high = (Fraction(value) * (1 + s * Fraction(10) ** -12) + s * Fraction(2) ** -1073 for s in (-1, 1))
        assert max(low, 0) ** 2 <= exact <= high**2


@flushing
@every_dtype
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 4)])
def test_matrices_of_one_number_have_rank_one(shape, dtype, flush, counting):
    m, n = shape
    for number in ends(dtype):
        matrix = torch.full(shape, number, dtype=dtype)
        exact = Fraction(matrix[0, 0].item()) ** 2 * m * n  # sigma_1^2
        for form, of in forms(matrix):
            with flushed(flush):
                bounds = [linalg.rank_bounds(form, Tolerance(v, "spectral")) for v in (1e-3, 0.9)]
                bounds.append(linalg.rank_bounds(form, resolve=False))
                ranks = [of(f(form)).item() for f in RANKS]
                norms = [of(linalg.spectral_norm(form)), of(linalg.nuclear_norm(form, accurate=True))]
                norms.append(of(linalg.svdvals(form))[0])
            assert all((of(b.lower), of(b.upper)) == (1, 1) for b in bounds)
            assert ranks == pytest.approx([1] * len(RANKS), rel=1e-6)
            for norm in norms:
                assert_norm(norm.item(), exact, flush)


@flushing
@every_dtype
def test_ratios_are_those_of_the_same_matrix_at_one(dtype, flush, counting):
    """diag(4, 2, 1) of each number, of the largest ones an eighth. Half of the smallest is 0, below all three."""
    plain = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    expected = [float(f(plain)) for f in RANKS]
    for number in ends(dtype):
        matrix = (plain * min(number, torch.finfo(dtype).max / 8)).to(dtype)
        taus = [Tolerance(x * matrix[2, 2].item(), "absolute") for x in (0.5, 3.0, 5.0, 2.0)]
        for form, of in forms(matrix):
            with flushed(flush):
                ranks = [of(f(form)).item() for f in RANKS]
                relative = [linalg.rank_bounds(form, Tolerance(v, "spectral")) for v in (0.2, 0.3, 0.6)]
                *absolute, at_a_value = [linalg.rank_bounds(form, tau) for tau in taus]
            assert ranks == pytest.approx(expected, rel=1e-6)
            assert [(of(b.lower), of(b.upper)) for b in relative] == [(3, 3), (2, 2), (1, 1)]
            assert [(of(b.lower), of(b.upper)) for b in absolute] == [(3, 3), (1, 1), (0, 0)]
            assert of(at_a_value.lower) <= 1 <= of(at_a_value.upper)


@flushing
@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-310, 1e-160, 1e160, LARGEST])
def test_absolute_tolerances_of_any_size(value, flush, counting):
    """Their squares leave the range, and so do their quotients by the scale of an FP64 matrix."""
    for dtype in DTYPES:
        for number in ends(dtype):
            matrix = torch.diag(torch.tensor([number, number], dtype=dtype))
            with flushed(flush):
                bounds = linalg.rank_bounds([torch.zeros(2, 2), matrix], Tolerance(value, "absolute"))
            assert bounds.lower[1] <= (2 if matrix[0, 0].item() > value else 0) <= bounds.upper[1]
            # From rounded numbers nobody can tell whether one that equals tau is above it.
            assert bounds.certified.tolist() == [True, matrix[0, 0].item() != value]


def exact_error(matrix, u, s, vh):
    """The square of ||A - U diag(S) Vh||_F in exact arithmetic."""
    a, u, vh = ([[Fraction(x) for x in row] for row in t.double().tolist()] for t in (matrix, u, vh))
    s = [Fraction(x) for x in s.double().tolist()]
    elements = ((i, j) for i in range(len(a)) for j in range(len(a[0])))
    return sum((a[i][j] - sum(u[i][k] * s[k] * vh[k][j] for k in range(len(s)))) ** 2 for i, j in elements)


@flushing
@every_dtype
def test_no_error_bound_is_below_the_error(dtype, flush):
    """Where singular values and errors are subnormal, their own rounding is most of the error."""
    generator = torch.Generator().manual_seed(0)
    for number in ends(dtype):
        for shape in ((1, 1), (1, 4), (4, 1), (4, 5)):
            unit = min(number, torch.finfo(dtype).max / 16)
            few = torch.randint(-9, 10, shape, generator=generator).double() * unit
            some = torch.randn(shape, generator=generator, dtype=torch.float64) * unit
            for matrix in (few.to(dtype), some.to(dtype), torch.full(shape, number, dtype=dtype)):
                for k in {1, min(shape)}:
                    with flushed(flush):
                        u, s, vh, error = linalg.svd_lowrank(torch.stack([torch.zeros_like(matrix), matrix]), k)
                        alone = linalg.svd_lowrank([matrix], k)
                    assert error[0] == 0
                    answers = (u[1], s[1], vh[1], error[1]), (alone.U[0], alone.S[0], alone.Vh[0], alone.error[0])
                    for *factors, bound in answers:
                        exact = exact_error(matrix, *factors) if factors[1].isfinite().all() else 0
                        assert bound == torch.inf or exact <= Fraction(bound.item()) ** 2


def test_error_bounds_are_tight_where_they_are_subnormal():
    """3 and 4 of 2^-1060 are 5 of them long: all that is left is the rounding of U and Vh, rounded up to one unit."""
    for matrix in (torch.ones(2, 2).double() * 5e-324, torch.tensor([[3.0], [4.0]]).double() * 2.0**-1060):
        assert linalg.svd_lowrank(matrix, min(matrix.shape)).error == 5e-324


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (6, 4), (30, 50)])
def test_the_largest_matrices_overflow_in_norms_only(shape, counting):
    """Beside them the smallest number there is changes nothing."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(shape, generator=generator, dtype=torch.float64).clamp(-1, 1)
    plain[0, 0] = 1
    large = plain * LARGEST
    for matrix in (large, torch.where(plain.abs() < 0.3, 5e-324, large)):
        expected = [f(matrix * 2.0**-600).item() for f in RANKS]
        beyond = matrix.numel() > 1
        for form, of in forms(matrix):
            assert [of(f(form)).item() for f in RANKS] == pytest.approx(expected, rel=1e-12)
            assert (of(linalg.spectral_norm(form)) == torch.inf) == (of(linalg.svdvals(form))[0] == torch.inf) == beyond
            bounds = linalg.rank_bounds(form, Tolerance(1e-3, "spectral"))
            truth = testing.true_rank(matrix * 2.0**-600, Tolerance(1e-3, "spectral"))
            assert (of(bounds.lower), of(bounds.upper)) == truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_where_torchs_singular_values_overflow_the_true_rank_is_given(dtype):
    """The last singular value is undecided. At a tenth of the scale, where nothing overflows, torch gives the rank."""
    largest = torch.finfo(dtype).max
    for seed in range(20):
        plain = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).double().clamp(-1, 1)
        plain[0] = 1
        A = (plain * largest).to(dtype)
        assert torch.linalg.svdvals(A)[0] == torch.inf
        sigma = torch.linalg.svdvals(A.double() * 2.0**-20)
        for last in (0.9, 1 - 1e-7, 1 + 1e-7, 1.1):
            rtol = (sigma[2] / sigma[0] * last).item()
            rank = int((sigma > rtol * sigma[0]).sum())
            for form in (A, A.T, A[None], [A]):
                assert linalg.matrix_rank(form, rtol=rtol) == rank
    whole = torch.full((200, 200), largest, dtype=dtype)
    for tolerances in ({}, {"rtol": 1e-3}, {"atol": largest}):
        assert linalg.matrix_rank(whole, **tolerances) == 1
    assert linalg.matrix_rank(whole, atol=torch.inf) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_tracker_certifies_no_false_rank_where_subnormals_are_flushed(dtype, counting):
    """Read as zero, the second row would be missing, or the whole matrix."""
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    for values in ([7.0, 5.0, 3.0], [2.0 / torch.finfo(dtype).eps, 0.25 / torch.finfo(dtype).eps, 0.0]):
        layer = nn.Linear(3, 3, bias=False, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.diag(torch.tensor(values, dtype=torch.float64) * smallest))
        tracker = RankTracker(layer, tolerance=Tolerance(0.1, "spectral"))
        with flushed(True):
            tracker.step()
            row = tracker.latest()["weight"]
        assert row["rank_lower"] == row["rank_upper"] == (torch.tensor(values) > 0.1 * values[0]).sum()
        assert row["stable_rank"] == pytest.approx(sum(v * v for v in values) / values[0] ** 2, rel=1e-4)


def test_threads_that_flush_whatever_this_one_does():
    """PyTorch's other threads do as the one did that they were started from: here, one that has flushed."""
    matrix = torch.full((60, 1000), 1e-40)  # enough elements for two threads to share them
    answers = []

    def measure():
        torch.set_num_threads(2)
        with flushed(True):
            torch.ones(10**6).double()
        answers.extend(
            [(matrix.double() > 0).double().mean(), linalg.rank_bounds(matrix), linalg.spectral_norm(matrix)]
        )

    thread = Thread(target=measure)
    thread.start()
    thread.join()
    torch.set_num_threads(1)
    seen, bounds, norm = answers
    assert seen == 0.5
    assert (bounds.lower, bounds.upper, bounds.status) == (1, 1, Status.OK)
    assert norm == pytest.approx(matrix[0, 0].item() * matrix.numel() ** 0.5, rel=1e-12, abs=0)
