"""Singular values that are verified: the interval of each has the exact one in it, and is narrow."""

import pytest
import torch

from fastrank import testing
from fastrank.counting import singular
from fastrank.counting.singular import singular_value_interval


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (7, 20), (20, 7), (65, 70)])
def test_intervals_are_narrow_and_hold_what_was_planted(shape):
    """Rows graded over twelve decades: the small singular values are known relative to sigma_1."""
    r = min(shape)
    integers = torch.diag(torch.arange(r, 0, -1, dtype=torch.float64))
    wide = torch.nn.functional.pad(integers, (0, shape[1] - r, 0, shape[0] - r)) / r
    made = [testing.make(f, *shape, seed=i, dtype=torch.float64) for i, f in enumerate(testing.FAMILIES)]
    graded = torch.logspace(0, -12, shape[0], dtype=torch.float64)[:, None] * made[1].matrix
    stack = torch.stack([wide, graded, *(case.matrix for case in made)])
    low, high = singular_value_interval(stack)
    exact = torch.arange(r, 0, -1, dtype=torch.float64) / r
    assert (low[0] <= exact).all()
    assert (exact <= high[0]).all()
    assert (low <= high).all()
    assert ((high - low) <= 1e-11 * high[:, :1] + 1e-100).all()
    computed = torch.linalg.svdvals(stack)
    assert ((low <= computed) & (computed <= high)).all()


@pytest.mark.parametrize("spoil", ["singular values", "columns", "sign", "nan"])
def test_a_decomposition_that_is_wrong_is_found_out(monkeypatch, spoil):
    """By its residual, or by columns that are not orthonormal; a sign says nothing wrong."""
    stock = torch.linalg.svd

    def svd(a, full_matrices):
        u, s, vh = stock(a, full_matrices=full_matrices)
        if spoil == "singular values":
            s = s + 1e-6
        elif spoil == "columns":
            u[:, :, 1], s[:, 1] = u[:, :, 0], s[:, 0]
        elif spoil == "sign":
            s[:, -1], u[:, :, -1] = -s[:, -1], -u[:, :, -1]
        else:
            s[:, 0] = torch.nan
        return u, s, vh

    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))[None]
    monkeypatch.setattr(singular.torch.linalg, "svd", svd)
    low, high = singular_value_interval(matrix)
    exact = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    assert ((low[0] <= exact) & (exact <= high[0])).all()
    width = float((high - low).amax())
    assert width < 1e-12 if spoil == "sign" else width >= 1e-6
