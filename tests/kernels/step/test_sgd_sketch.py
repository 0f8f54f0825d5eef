"""SGD's step with a sketch in it: the bits of the step alone, and the products of what it writes, pass by pass."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from sketch_steps import Steps, noise

from fastrank.kernels.step import Kind, sgd_, sgd_sketch_, tiles_of

SIZES = {"any": [(40, 33), (20, 70), (36, 50)], "16 bytes at a time": [(40, 32), (24, 72), (36, 48)]}


@pytest.mark.parametrize(("side", "integers"), [(0, False), (1, False), pytest.param(0, True, marks=pytest.mark.int8)])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_a_pass_steps_its_own_matrices_and_multiplies_them(sizes, side, integers, device):
    """Three matrices of two dtypes and two k; a step of one pass leaves the parameters of the others alone."""
    dtypes, ks = [torch.float32, torch.float16, torch.float32], (16, 16, 32)
    weights = [noise(*size, seed=i, dtype=dtypes[i]).to(device) for i, size in enumerate(sizes)]
    grads = [noise(*size, seed=10 + i, dtype=dtypes[i]).to(device) for i, size in enumerate(sizes)]
    buffers = [noise(*size, seed=20 + i, dtype=dtypes[i]).to(device) for i, size in enumerate(sizes)]
    alone = [[x.clone() for x in group] for group in zip(weights, grads, buffers, strict=True)]

    def table(rows):
        return torch.tensor([[x.data_ptr() for x in row] for row in rows], device=device)

    meta = torch.tensor([[w.numel(), i, 0] for i, w in enumerate(weights)], device=device)
    hyper = torch.tensor([[0.1, 0.01], [0.2, 0.0], [0.3, 0.02]], device=device)
    steps = Steps(weights, ks, integers=integers)
    plain = Steps([own[0] for own in alone], ks, integers=integers)
    for each in (steps, plain):
        each.tensors["step"] += side
        each.tensors["bases"].copy_(noise(len(each.tensors["bases"]), seed=9))  # of the other side it is 0 at first
    # Parameters stand in another order in the optimizer's tables.
    order, rows = [2, 0, 1], torch.tensor([1, 2, 0], device=device)
    pointers = table([(weights[i], grads[i], buffers[i]) for i in order])
    descent = {"pointers": pointers, "meta": meta[order].contiguous(), "hyper": hyper}
    for i, made in enumerate(steps.sketches.passes):
        assert made.indices == [i]
        before = [w.clone() for w in weights]
        kind = Kind(dtypes[i], 0.9, 0.0, False, False)
        sgd_sketch_({**steps.tensors, "rows": rows}, made, descent, kind, integers=integers)
        sgd_(table(alone), meta, tiles_of([(1, w.numel()) for w in weights], [i]).to(device), hyper, kind)
        for j, (w, old) in enumerate(zip(weights, before, strict=True)):
            assert torch.equal(w, old) == (i != j)
        assert all(torch.equal(a, b) for a, b in zip((weights[i], buffers[i]), alone[i][::2], strict=True))
    plain.multiply([own[0] for own in alone])
    for name in ("partial", "norms"):
        found, expected = steps.tensors[name], plain.tensors[name]
        assert expected.any()
        assert torch.equal(found, expected) if integers else torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
