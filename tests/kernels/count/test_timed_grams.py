"""What the benchmarks time: Grams of both paths, which are right by the check that their rows have to pass."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
import grams

from fastrank.backend import COARSE


@pytest.mark.parametrize("products", [0, COARSE])
def test_grams_that_are_timed_are_right_and_see_other_values(device, products):
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator).to(device) for shape in ((33, 70), (90, 40))]
    call = grams.by_kernel(products, matrices)
    for _ in range(2):
        assert grams.relative_error(matrices, call()) <= 1e-12
        answer = call()
        assert isinstance(answer, grams.Sliced) == bool(products)
        for matrix in matrices:
            matrix.mul_(torch.logspace(0, -5, matrix.shape[1], device=device))
        assert grams.relative_error(matrices, answer) > 1e-12
