"""Containment: exact norms, singular values and residuals are where the documentation says they are."""

from __future__ import annotations

import math

import pytest
import torch
from exact_cases import cases, inside
from flint import arb, fmpq

from fastrank import linalg
from fastrank.testing import exact_residual_squared

U = 2.0**-53
COUNT = 100


def test_sigma_1_and_the_stable_rank(counting):
    """To 5e-9 by Lanczos, and by all eigenvalues to the rounding of the Gram."""
    for case in cases(COUNT, 10 + len(counting)):
        top, stable = float(linalg.spectral_norm(case.matrix)), float(linalg.stable_rank(case.matrix))
        if not case.matrix.any():
            assert (top, stable) == (0, 0)
            continue
        n, r = max(case.matrix.shape), min(case.matrix.shape)
        exact, share = case.exact.singular_values()[0], case.exact.stable_rank()
        room = 5e-9 + U * (n + 8 * r + 80) * r  # the Gram's error is a share of ||W||_F^2, at most r sigma_1^2
        if math.isfinite(top):
            step = 2.0**-1074  # a subnormal norm is rounded to a multiple of it
            assert inside(top * (1 - room) - step, exact, top * (1 + room) + step), case.name
        else:
            assert exact > 1.79e308, case.name
        assert inside(stable * (1 - 2 * room), share, stable * (1 + 2 * room)), case.name


@pytest.mark.parametrize("accurate", [False, True])
def test_singular_values(accurate):
    """Off by at most what `svdvals` says: about 1e-15 sigma_1, or min(sqrt(delta), delta / sigma_i)."""
    for case in cases(COUNT, 13, least=1):
        if not case.matrix.any():
            continue
        balls, found = case.exact.singular_values(), linalg.svdvals(case.matrix, accurate=accurate)
        top, n, r = balls[0], max(case.matrix.shape), min(case.matrix.shape)
        delta = arb(1.1e-16 * (n + 8 * r + 80)) * arb(case.exact.frobenius_squared)
        for sigma, ball in zip(found.tolist(), balls, strict=True):
            if not math.isfinite(sigma):
                assert ball > 1.79e308
                continue
            off = abs(arb(sigma) - ball)
            if accurate or case.matrix.dtype == torch.float64:
                room = top * 1e-14
            else:
                room = (delta / ball).min(delta.sqrt()) if ball > 0 else delta.sqrt()
            assert not off > room + 2.0**-1074, (case.name, sigma, ball)


@pytest.mark.parametrize("power_iters", [0, 2])
def test_the_error_of_low_rank_factors(power_iters):
    """Proven for the factors as they are returned: not one is off by more."""
    tight = 0
    for case in cases(COUNT, 14 + power_iters, least=1):
        k = 1 + len(case.name) % min(case.matrix.shape)
        svd = linalg.svd_lowrank(case.matrix, k, oversample=0, power_iters=power_iters)
        error = float(svd.error)
        if not math.isfinite(error):
            assert not all(x.isfinite().all() for x in svd) or error == math.inf, case.name
            continue
        square = exact_residual_squared(case.matrix, svd.U, svd.S, svd.Vh)
        assert square <= fmpq(*error.as_integer_ratio()) ** 2, (case.name, error)
        tight += square * 4 >= fmpq(*error.as_integer_ratio()) ** 2
    assert tight > COUNT / 2
