"""svd_lowrank: a proven error bound, near-optimal factors, numbers that depend on seed and matrix alone."""

import numpy as np
import pytest
import torch

from fastrank import linalg, testing
from fastrank.reference.lowrank import gaussian, residual_norm

EPS = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-24, torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def assert_proven(A, svd, slack):
    """The bound holds in FP64, and is no wider than `slack` times the error beside the rounding of the factors."""
    spectral, frobenius = testing.factor_error(A, *svd[:3])
    assert (spectral <= svd.error).all()
    assert (frobenius <= svd.error).all()
    noise = 20 * svd.S[..., 0].double() * 2.0**-53 * sum(A.shape[-2:])
    assert (svd.error <= slack * frobenius + noise + 1e-323).all()


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("power_iters", [0, 2])
def test_the_error_is_bounded_for_every_family_and_scale(dtype, power_iters):
    scales = {torch.float16: (1.0,), torch.float64: (1.0, 1e-300, 1e300)}.get(dtype, (1.0, 1e-30, 1e30))
    for i, shape in enumerate([(1, 1), (1, 6), (7, 4), (23, 40), (64, 31)]):
        for case in testing.cases(*shape, seed=i, dtype=dtype, scales=scales):
            for k in {1, min(shape)}:
                svd = linalg.svd_lowrank(case.matrix, k, oversample=2, power_iters=power_iters)
                assert_proven(case.matrix, svd, slack=1.001)


@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_factors_have_the_shapes_dtypes_and_orthogonality_they_promise(dtype):
    A = torch.stack([testing.make("arithmetic", 12, 20, seed=s, dtype=dtype).matrix for s in range(3)])
    for matrix in (A, A.mT):
        u, s, vh, error = linalg.svd_lowrank(matrix, 5)
        m, n = matrix.shape[-2:]
        out = torch.float64 if dtype == torch.float64 else torch.float32
        assert (u.shape, s.shape, vh.shape, error.shape) == ((3, m, 5), (3, 5), (3, 5, n), (3,))
        assert (u.dtype, s.dtype, vh.dtype, error.dtype) == (out, out, out, torch.float64)
        identity = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
        for gram in (u.double().mT @ u.double(), vh.double() @ vh.double().mT):
            torch.testing.assert_close(gram, identity, rtol=0, atol=40 * EPS[dtype])
        assert (s.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("family", ["geometric", "low_rank", "noisy_low_rank", "one_large"])
def test_near_optimal_on_planted_spectra(family):
    case = testing.make(family, 60, 90, dtype=torch.float64)
    k = 15
    svd = linalg.svd_lowrank(case.matrix, k)
    best = case.sigma[k:].norm().item()
    assert svd.error.item() <= 1.05 * best + 1e-12
    torch.testing.assert_close(svd.S, case.sigma[:k], rtol=2e-2, atol=1e-12)


def test_power_iterations_matter_where_the_spectrum_decays_slowly():
    """Negative control: with none, the same sketch leaves twice as much above the optimum, on every seed."""
    sigma = torch.linspace(1, 0.5, 100, dtype=torch.float64)
    A = torch.stack([testing.planted(sigma, 100, 120, seed=s, dtype=torch.float64) for s in range(10)])
    best = sigma[10:].norm()
    excess = [linalg.svd_lowrank(A, 10, power_iters=n).error - best for n in (0, 1, 4)]
    assert (excess[0] > 2 * excess[2]).all()
    assert (excess[0] > excess[1]).all()
    assert (excess[1] > excess[2]).all()


def test_oversampling_is_cut_at_the_matrix_and_then_exact():
    case = testing.make("arithmetic", 9, 6, dtype=torch.float64)
    svd = linalg.svd_lowrank(case.matrix, 6, oversample=1000, power_iters=0)
    assert svd.error.item() < 1e-13
    torch.testing.assert_close(svd.S, case.sigma, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(dtype):
    """Nor do its bits, where the stack is as long."""
    A = torch.stack([testing.make("noisy_low_rank", 12, 17, seed=s, dtype=dtype).matrix for s in range(4)])
    other = torch.stack([A[0], torch.full_like(A[1], torch.nan), A[2], torch.zeros_like(A[3])])
    alone, beside = linalg.svd_lowrank(A, 3), linalg.svd_lowrank(other, 3)
    ragged = linalg.svd_lowrank([A[0], torch.ones(3, 50), A[2], A[3]], 3)
    for i in (0, 2):
        for a, b, c in zip(alone, beside, ragged, strict=True):
            assert torch.equal(a[i], b[i])
            torch.testing.assert_close(a[i], c[i], rtol=1e-5, atol=1e-6)
    assert all(factor[1].isnan().all() for factor in beside)


def test_seeds_key_the_numbers_and_no_global_generator_is_touched():
    A = testing.make("arithmetic", 30, 40).matrix
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (linalg.svd_lowrank(A, 3, power_iters=0, seed=s) for s in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.S, other.S)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_the_sketch_is_standard_normal_and_differs_from_matrix_to_matrix():
    numbers = gaussian(0, range(50), 40, 20)
    assert abs(numbers.mean()) < 5 / numbers.numel() ** 0.5
    assert abs(numbers.var() - 1) < 5 * (2 / numbers.numel()) ** 0.5
    flat = numbers.flatten(1)
    correlation = flat @ flat.mT / flat.shape[1] - torch.eye(50)
    assert correlation.abs().max() < 6 * (2 / flat.shape[1]) ** 0.5
    assert torch.equal(gaussian(0, [3], 40, 20)[0], numbers[3])


def test_the_residual_norm_bounds_exact_arithmetic():
    """Integers, whose residual is known exactly: the bound is above it, by rounding only."""
    A = torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)
    u, vh = torch.eye(3, 1).double()[None], torch.eye(1, 4).double()[None]
    bound = residual_norm(A, u, torch.ones(1, 1).double(), vh)
    exact = (A.square().sum() + 1).sqrt()  # A[0, 0] is 0
    assert exact <= bound.item() <= exact * (1 + 1e-13)


def test_zero_empty_and_overflowing():
    zero = linalg.svd_lowrank(torch.zeros(4, 3), 2)
    assert zero.error.item() == 0
    assert zero.S.tolist() == [0, 0]
    torch.testing.assert_close(zero.U.T @ zero.U, torch.eye(2))
    assert linalg.svd_lowrank(torch.zeros(0, 4, 3), 2).U.shape == (0, 4, 2)
    assert linalg.svd_lowrank([], 2).U == []
    # sigma_1 of this matrix is beyond its dtype: no finite bound holds for factors that hold Inf.
    top = linalg.svd_lowrank(torch.full((4, 4), 3e38), 1)
    assert top.S.item() == top.error.item() == torch.inf


def test_an_error_that_is_subnormal_is_not_rounded_down():
    """Matrices of multiples of 2^-1074: times 2^1000, the bound and the true error are compared without rounding."""
    for seed in range(20):
        integers = torch.randint(-20, 20, (5, 6), generator=torch.Generator().manual_seed(seed)).double()
        u, s, vh, error = linalg.svd_lowrank(integers * 2.0**-1074, 2)
        spectral, frobenius = testing.factor_error(integers * 2.0**-74, u, s * 2.0**1000, vh)
        assert spectral <= frobenius <= error * 2.0**1000


def test_numpy_in_numpy_out():
    A = testing.make("low_rank", 8, 6, dtype=torch.float64).matrix.numpy()
    for given in (A, A[None], [A, A.T]):
        svd = linalg.svd_lowrank(given, 2)
        arrays = [x for f in svd for x in (f if isinstance(f, list) else [f])]
        assert all(isinstance(x, np.ndarray | np.floating) for x in arrays)
    u, s, vh, error = linalg.svd_lowrank(A, 2)
    assert np.linalg.norm(A - u * s @ vh) <= error


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k: must be at least 1"),
        ({"k": 2.0}, TypeError, "k: expected an integer"),
        ({"k": True}, TypeError, "k: expected an integer"),
        ({"k": 4}, ValueError, r"k: 4 singular triplets asked of A, of shape \(3, 5\)"),
        ({"k": 1, "oversample": -1}, ValueError, "oversample: must be at least 0"),
        ({"k": 1, "power_iters": -1}, ValueError, "power_iters: must be at least 0"),
        ({"k": 1, "power_iters": 1.5}, TypeError, "power_iters: expected an integer"),
        ({"k": 1, "seed": -1}, ValueError, "seed: must be at least 0"),
        ({"k": 1, "seed": None}, TypeError, "seed: expected an integer"),
        ({"k": 1, "seed": 2**128}, ValueError, "seed: must be less than 2"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        linalg.svd_lowrank(torch.ones(2, 3, 5), **arguments)


def test_the_matrix_that_is_too_small_is_named():
    with pytest.raises(ValueError, match=r"k: 3 singular triplets asked of A\[1\], of shape \(2, 5\)"):
        linalg.svd_lowrank([torch.ones(3, 5), torch.ones(2, 5)], 3)
