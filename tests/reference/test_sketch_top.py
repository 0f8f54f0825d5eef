"""The tight bounds of sigma_1 that a sketch has on a CPU."""

from __future__ import annotations

import pytest
import torch

from fastrank import Tolerance, testing
from fastrank.reference.noise import normal
from fastrank.reference.sketch import next_basis, prove, sketch, start
from fastrank.reference.sketch_top import top_bounds


def followed(stack, k=16, steps=6):
    """The last sketch of a stack, both sides by turns, with its basis."""
    basis = start(torch.stack([normal(1, stack.shape[2], k, i, 0) for i in range(len(stack))]))
    for step in range(1, steps + 1):
        view = stack if step % 2 else stack.mT
        found, last = sketch(view, basis), basis
        noise = torch.stack([normal(1, view.shape[1], k, i, step) for i in range(len(stack))])
        basis = next_basis(found, prove(found, basis, [Tolerance()]).top, noise)
        yield found, last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bounds_hold_and_are_tight_where_the_columns_hold_all(dtype):
    stack = torch.stack([testing.make(name, 40, 60, seed=3).matrix for name in testing.FAMILIES]).to(dtype)
    exact = testing.true_singular_values(stack)[:, 0].square()
    for found, basis in followed(stack):
        top, low, high = top_bounds(found, basis)
        assert (low <= exact * (1 + 1e-13)).all()
        assert (high >= exact * (1 - 1e-13)).all()
        assert (low <= top).all()
        assert (top <= high).all()
    tight = dict(zip(testing.FAMILIES, (high <= low * (1 + 1e-6)).tolist(), strict=True))
    assert tight["zero"]
    assert tight["low_rank"] == (dtype == torch.float32)  # rounding to BF16 leaves a tail
    assert not tight["identity"]


@pytest.mark.parametrize("spoil", ["nan", "long"])
def test_nothing_is_known_of_what_is_not_finite_or_by_columns_that_are_too_long(spoil):
    stack = torch.stack([testing.make("low_rank", 40, 60, seed=i).matrix for i in range(2)])
    *_, (_, basis) = followed(stack, steps=5)
    if spoil == "nan":
        stack[1, 3, 4] = torch.nan
    else:
        basis.columns[1] *= 1.5
    _, low, high = top_bounds(sketch(stack, basis), basis)
    assert 0 < low[0] <= high[0] < torch.inf
    assert (low[1].item(), high[1].item()) == (0.0, torch.inf)
