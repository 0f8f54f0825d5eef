"""Operators where kernels serve: a compiled call reaches them, and has the bits of a call at once."""

from __future__ import annotations

import pytest
import torch

from fastrank import linalg

pytest.importorskip("triton")
from fastrank.kernels import step
from fastrank.kernels.count.launches import Launches
from fastrank.kernels.lowrank import RangeFinder
from fastrank.optim import operator  # noqa: F401  # which registers it

pytestmark = [
    pytest.mark.usefixtures("served"),
    # PyTorch's compiler imports something that PyTorch itself deprecates.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


def counting(monkeypatch, owner, name):
    """How often a method was called, as the length of a list."""
    calls, stock = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: (calls.append(name), stock(*args, **kwargs))[1])
    return calls


def test_compiled_calls_reach_the_kernels(device, monkeypatch):
    reached = [counting(monkeypatch, Launches, "count"), counting(monkeypatch, RangeFinder, "find")]

    def both(matrices):
        return [*linalg.rank_bounds(matrices), *linalg.svd_lowrank(matrices, 2, power_iters=0).S]

    matrices = [torch.randn(5, 7, device=device), torch.randn(9, 4, device=device)]
    at_once = both(matrices)
    before = [len(calls) for calls in reached]
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)(matrices)
    assert all(torch.equal(a, b) for a, b in zip(compiled, at_once, strict=True))
    assert [len(calls) for calls in reached] == [2 * count for count in before]
    assert min(before) > 0
    torch._dynamo.reset()


@pytest.mark.parametrize("fresh", [True, False])
def test_the_step_is_that_of_the_kernel(fresh, device, monkeypatch):
    reached = counting(monkeypatch, step, "sgd_")
    w, g, b = (torch.randn(3, 5, device=device) for _ in range(3))
    before = w.clone()
    theirs = g + 0.1 * w if fresh else 0.9 * b + (g + 0.1 * w)
    torch.ops.fastrank.sgd_([w], [g], [b], [fresh], 0.5, None, 0.1, None, 0.9, 0.0, False, False)
    assert reached
    torch.testing.assert_close(b, theirs)
    torch.testing.assert_close(w, before - 0.5 * theirs)
