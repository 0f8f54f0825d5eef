"""What the benchmarks time: Grams of both paths, which are right by the check that their rows have to pass."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
import grams

from fastrank.backend import FINE


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("products", [0, pytest.param(FINE, marks=pytest.mark.int8)])
def test_grams_that_are_timed_are_right_and_see_other_values(device, products):
    matrices = [noise(*size, seed=i).to(device) for i, size in enumerate([(33, 70), (90, 40), (7, 7)])]
    call = grams.by_kernel(products, matrices)
    for _ in range(2):
        answer = call()
        assert isinstance(answer, grams.Sliced) == bool(products)
        assert [g.shape for g in (answer.grams if products else answer)] == [(33, 33), (40, 40), (7, 7)]
        assert grams.relative_error(matrices, answer) <= 1e-12
        for matrix in matrices:
            matrix.mul_(torch.logspace(0, -5, matrix.shape[1], device=device))
        assert grams.relative_error(matrices, answer) > 1e-12


def test_the_benchmark_of_grams_scales_as_the_library_does(device):
    """FP64 matrices by a power of two, so that both providers have the same bits to answer with."""
    matrices = [noise(20, 30, dtype=torch.float64).to(device) * 5, noise(9, 70).to(device)]
    for a, b in zip(grams.by_kernel(0, matrices)(), grams.ours(matrices), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
