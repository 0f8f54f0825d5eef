"""The core of a product: the singular values are those of the product, formed in FP64, and what is doubtful is NaN."""

from __future__ import annotations

import pytest
import torch

from fastrank.products import core


def factors(m, n, r, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, r, generator=generator, dtype=torch.float64)
    return left.to(dtype), torch.randn(r, n, generator=generator, dtype=torch.float64).to(dtype)


def cancelling(m, n, r, decades):
    """Large directions of either factor meet small ones of the other: all singular values are 10^-decades."""
    left, right = (torch.linalg.qr(x).Q for x in (factors(m, n, r)[0], factors(m, n, r, 1)[1].mT))
    turn = torch.linalg.qr(torch.randn(r, r, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    scale = torch.logspace(0, -decades, r, dtype=torch.float64)
    return left * scale @ turn, turn.mT @ (scale.flip(0)[:, None] * right.mT)


def sigma_of(matrix):
    return torch.linalg.svdvals(matrix.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(30, 20, 4), (4, 30, 9), (7, 7, 7), (1, 9, 1), (5, 6, 20)])
def test_singular_values_are_those_of_the_product(sizes, dtype):
    m, n, r = sizes
    left, right = factors(m, n, r, dtype=dtype)
    small = core(left, right)
    assert small.dtype == torch.float64
    assert small.shape == (min(m, r), min(n, r))
    sigma = sigma_of(left.double() @ right.double())[: min(small.shape)]
    torch.testing.assert_close(sigma_of(small)[: len(sigma)], sigma, rtol=1e-13, atol=1e-14)


def test_a_stack_is_answered_as_its_matrices_are():
    pairs = [factors(20, 12, 3, seed) for seed in range(4)]
    lefts, rights = (torch.stack(x).view(2, 2, *x[0].shape) for x in zip(*pairs, strict=True))
    singles = torch.stack([core(*pair) for pair in pairs])
    torch.testing.assert_close(core(lefts, rights), singles.view(2, 2, 3, 3), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("decades", [2, 4, 5])
def test_factors_that_cancel_are_exact_to_a_billionth_of_the_product(decades):
    left, right = cancelling(60, 50, 6, decades)
    small = sigma_of(core(left, right))
    assert (small - 10.0**-decades).abs().max() <= 1e-9 * small.norm()


def test_factors_that_cancel_further_are_not_trusted():
    """Not to a number, and not to zero either where a product is not zero."""
    left, right = factors(20, 20, 4)
    left[:, 2:], right[:2] = 0, 0
    for pair in (cancelling(60, 50, 6, 9), (left, right)):
        assert core(*pair).isnan().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    left, right = factors(9, 8, 3, dtype=torch.float32)
    small = core(left * scale, right * scale) / scale**2
    torch.testing.assert_close(sigma_of(small), sigma_of(core(left, right)), rtol=1e-6, atol=0)


def test_ends_of_fp64_are_left_out():
    left, right = factors(9, 8, 3)
    for scale in (1e-160, 1e160):
        assert core(left * scale, right * scale).isnan().all()
    torch.testing.assert_close(
        sigma_of(core(left * 1e-200, right * 1e200)), sigma_of(core(left, right)), rtol=1e-12, atol=0
    )


def test_zero_factors_and_not_finite_ones():
    left, right = factors(9, 8, 3)
    assert core(torch.zeros_like(left), right).eq(0).all()
    stack = torch.stack([left, left, left])
    stack[1, 4, 1], stack[2, 0, 2] = torch.nan, torch.inf
    found = core(stack, torch.stack([right] * 3))
    assert found[1:].isnan().all()
    assert torch.equal(found[0], core(left, right))


def test_factors_that_do_not_multiply_are_an_error():
    left, right = factors(9, 8, 3)
    with pytest.raises(ValueError, match="do not multiply"):
        core(left, right.mT)
