"""svd_lowrank of FP32 on a CPU: products in FP32 do not show in what comes back, and the error stays proven."""

import importlib

import pytest
import torch

from fastrank import linalg, testing
from fastrank.linalg import lowrank, torch_lowrank
from fastrank.reference.lowrank import KEPT, gaussian
from fastrank.reference.narrow_svd import CLEAR, PIECE, narrow_residual_norm

narrow_svd = importlib.import_module("fastrank.reference.narrow_svd")  # the package has a function of that name
UNIT = 2.0**-24


@pytest.fixture
def wide(monkeypatch):
    """Lists the keys of the matrices that are factored in FP64."""
    seen = []
    by_fp64 = torch_lowrank._wide

    def noted(stack, keys, search):
        seen.extend(keys)
        return by_fp64(stack, keys, search)

    monkeypatch.setattr(torch_lowrank, "_wide", noted)
    return seen


@pytest.mark.parametrize("shape", [(1, 6), (7, 4), (64, 31), (100, 300), (150, 150)])
@pytest.mark.parametrize("power_iters", [0, 2])
def test_as_near_as_fp64_and_as_orthonormal_as_fp32(shape, power_iters):
    """The noise of FP64 is another, which is why errors far above rounding differ at all."""
    for family in testing.FAMILIES:
        A = testing.make(family, *shape, seed=3).matrix
        for k in {1, min(10, *shape), min(shape)}:
            svd = linalg.svd_lowrank(A, k, power_iters=power_iters)
            u, s, vh = (x.double() for x in svd[:3])
            for gram in (u.mT @ u, vh @ vh.mT):
                assert (gram - torch.eye(k)).abs().max() <= 4 * UNIT
            rayleigh = (u.mT @ A.double() @ vh.mT).diagonal()
            assert ((s - rayleigh).abs() <= 16 * UNIT * s[0]).all()
            assert (
                svd.error <= 1.2 * linalg.svd_lowrank(A.double(), k, power_iters=power_iters).error + 16 * UNIT * s[0]
            )


def test_which_matrices_fp64_factors(wide):
    """Those in which rounding errors of FP32 would show, in U and Vh or in the residual, and those out of its range."""
    plain = testing.make("arithmetic", 40, 50).matrix
    low = testing.make("arithmetic", 40, 3).matrix @ testing.make("arithmetic", 3, 50).matrix
    nan = plain.clone()
    nan[3, 4] = torch.nan
    matrices = [plain, low, plain * 1e-30, plain * 1e30, plain * 0, nan, plain * 1e-9, plain.half(), plain.mT]
    linalg.svd_lowrank(matrices, 4)
    assert sorted(wide) == [1, 2, 3, 4, 5]
    wide.clear()
    linalg.svd_lowrank(matrices, 3)  # FP64's share does not hang on rank alone: the residual is all rounding
    assert sorted(wide) == [1, 2, 3, 4, 5]
    wide.clear()
    linalg.svd_lowrank(matrices, 2)  # with 2 of 3 it is not
    assert sorted(wide) == [2, 3, 4, 5]


def test_a_residual_between_both_is_taken_in_fp64(wide, monkeypatch):
    """FP32 factors with a residual of 3e-4 sigma_1, on which FP32's rounding would be a large part of the bound."""
    sigma = torch.cat([torch.ones(4), torch.full((30,), 3e-4)]).double()
    A = testing.planted(sigma, 34, 60, seed=0)
    seen = []
    in_fp64 = torch_lowrank.residual_norm
    monkeypatch.setattr(torch_lowrank, "residual_norm", lambda *a: seen.append(1) or in_fp64(*a))
    svd = linalg.svd_lowrank(A, 4)
    _, frobenius = testing.factor_error(A, *svd[:3])
    assert (seen, wide) == ([1], [])
    assert frobenius <= svd.error <= 1.000001 * frobenius


def test_two_products_without_a_basis_between_them_lose_what_is_small(monkeypatch):
    """sigma_i^2 below the rounding of sigma_1^2 is lost, and FP32's own basis keeps it. Negative control: never."""
    sigma = torch.cat([10.0 ** -torch.linspace(0, 4, 18, dtype=torch.float64), torch.full((182,), 3e-5).double()])
    A = testing.planted(sigma, 200, 300, seed=1)
    best = sigma[16:].norm()
    assert linalg.svd_lowrank(A, 16, oversample=2).error <= (1 + 1e-5) * best
    monkeypatch.setattr(narrow_svd, "STEEP", 0.0)
    assert linalg.svd_lowrank(A, 16, oversample=2).error > (1 + 1e-4) * best


def test_power_iterations_matter_where_the_spectrum_decays_slowly(wide):
    """Negative control: with none, the same sketch leaves twice as much above the optimum, on every seed."""
    sigma = torch.linspace(1, 0.5, 100, dtype=torch.float64)
    A = torch.stack([testing.planted(sigma, 100, 120, seed=s) for s in range(10)])
    excess = [linalg.svd_lowrank(A, 10, power_iters=n).error - sigma[10:].norm() for n in (0, 1, 4)]
    assert (excess[0] > 2 * excess[2]).all()
    assert (excess[0] > excess[1]).all()
    assert (excess[1] > excess[2]).all()
    assert wide == []


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (30, PIECE + 1), (5, 2 * PIECE + 100)])
def test_the_fp32_residual_is_proven_for_any_factors(shape):
    """Factors that leave more or less of A: the bound is above the error, within what is promised, or is not given."""
    generator = torch.Generator().manual_seed(0)
    for left in (1e3, 1.0, 1e-1, 1e-2, 1e-3, 1e-5, 1e-7):
        u, s, vh = (torch.randn(8, *x, generator=generator) for x in ((shape[0], 2), (2,), (2, shape[1])))
        A = u * s[:, None] @ vh + left * torch.randn(8, *shape, generator=generator)
        bound = narrow_residual_norm(A, u, s, vh)
        _, exact = testing.factor_error(A, u, s, vh)
        given = ~bound.isnan()
        assert given.all() if left > 100 else not given.any() if left < 1e-6 and shape != (1, 1) else True
        assert (exact <= bound)[given].all()
        assert (bound <= (1 + 2 * CLEAR) * exact)[given].all()


def test_the_fp32_residual_of_integers_is_that_of_exact_arithmetic():
    A = torch.arange(12.0).view(1, 3, 4)
    bound = narrow_residual_norm(A, torch.eye(3, 1)[None], torch.ones(1, 1), torch.eye(1, 4)[None])
    exact = (A.double().square().sum() + 1).sqrt()  # A[0, 0] is 0
    assert exact < bound.item() <= exact * (1 + CLEAR)
    for scale in (torch.nan, torch.inf, 1e30, 1e-30):  # the squares of 1e30 overflow, those of 1e-30 vanish
        bound = narrow_residual_norm(A * scale, torch.eye(3, 1)[None], torch.full((1, 1), scale), torch.eye(1, 4)[None])
        assert bound.isnan() or bound == torch.inf


def test_no_bound_rests_on_products_in_bf16(wide):
    """Where PyTorch may multiply FP32 matrices in BF16, FP64 does all."""
    A = testing.make("arithmetic", 64, 80).matrix
    linalg.svd_lowrank(A, 4)
    assert wide == []
    with torch.autocast("cpu", torch.bfloat16):
        cast = linalg.svd_lowrank(A, 4)
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = linalg.svd_lowrank(A, 4)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert wide == [0, 0]
    for svd in (cast, allowed):
        assert testing.factor_error(A, *svd[:3])[1] <= svd.error


def test_draws_in_fp32_are_normal_and_small_ones_are_kept():
    numbers = gaussian(0, range(50), 40, 20, torch.float32)
    assert numbers.dtype == torch.float32
    assert abs(numbers.mean()) < 5 / numbers.numel() ** 0.5
    assert abs(numbers.var() - 1) < 5 * (2 / numbers.numel()) ** 0.5
    flat = numbers.flatten(1)
    correlation = flat @ flat.mT / flat.shape[1] - torch.eye(50)
    assert correlation.abs().max() < 6 * (2 / flat.shape[1]) ** 0.5
    reference = importlib.import_module("fastrank.reference.lowrank")
    for rows, kept in ((KEPT, 1), (KEPT + 1, 0)):
        reference._draw.cache_clear()
        first = gaussian(0, [3], rows, 1, torch.float32)
        first.zero_()  # a caller's own: the next one gets the numbers
        assert gaussian(0, [3], rows, 1, torch.float32).any()
        assert reference._draw.cache_info().hits == kept


def test_a_list_and_a_stack_of_many_pieces_agree(monkeypatch):
    A = torch.stack([testing.make("arithmetic", 12, 17, seed=s).matrix for s in range(7)])
    whole = linalg.svd_lowrank(A, 3)
    for module in (lowrank, torch_lowrank):
        monkeypatch.setattr(module, "TOGETHER", 3 * 12 * 17)
    for other in (linalg.svd_lowrank(A, 3), linalg.svd_lowrank([*A, torch.ones(4, 4)], 3)):
        for i in range(7):
            torch.testing.assert_close(other.U[i] * other.S[i] @ other.Vh[i], whole.U[i] * whole.S[i] @ whole.Vh[i])
    with pytest.raises(AssertionError):  # negative control: another key's noise
        torch.testing.assert_close(linalg.svd_lowrank(A[1:], 3, power_iters=0).S[0], whole.S[1])
