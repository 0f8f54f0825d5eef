"""Sketches side by side: of whatever dtypes and numbers of columns, each is as it would be alone, skipped or not."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from sketch_steps import Steps, noise, planted, same

from fastrank.kernels.launch import Tape

pytestmark = pytest.mark.usefixtures("short_strips")


def test_every_dtype_and_k_at_once_is_as_each_alone(device):
    """To the bit, in the caller's order, by launches that are written down once; copies have a pass of their own."""
    half, brain = torch.float16, torch.bfloat16
    kinds = [(torch.float32, 16), (brain, 32), (torch.float32, 16), (half, 16), (brain, 64), (torch.float32, 16)]
    sizes, ks = [(20, 33), (40, 35), (34, 18), (17, 19), (70, 66), (5, 30)], [k for _, k in kinds]
    matrices = [noise(*size, seed=i, dtype=kinds[i][0]).to(device) for i, size in enumerate(sizes)]
    steps = Steps(matrices, ks, apart=[False] * 5 + [True])
    passes = [(each.dtype, each.k, each.indices) for each in steps.sketches.passes]
    assert passes == [(*kinds[0], [0, 2]), (*kinds[1], [1]), (*kinds[3], [3]), (*kinds[4], [4]), (*kinds[5], [5])]
    pointers = torch.tensor([m.data_ptr() for m in matrices], device=device)
    vectors = torch.zeros(len(matrices), 70, dtype=torch.float64, device=device)

    def body():
        for each in steps.sketches.passes:
            steps.sketches.multiply(each, pointers)
        steps.sketches.conclude()
        steps.sketches.rotate()
        steps.sketches.lift(vectors)

    tape = Tape()
    alone = [Steps([matrix], k, keys=[i]) for i, (matrix, k) in enumerate(zip(matrices, ks, strict=True))]
    for step in range(2):
        tape(body)
        for i, own in enumerate(alone):
            vector = torch.zeros(1, 70, dtype=torch.float64, device=device)
            own.multiply(matrices[i : i + 1])
            own.sketches.conclude()
            own.sketches.rotate()
            own.sketches.lift(vector)
            assert vector.any() or step == 0
            assert torch.equal(vector[0], vectors[i])
            assert same(own.of(0), steps.of(i))
            own.tensors["step"] += 1
        steps.tensors["step"] += 1
    assert len(tape) == len(passes) + 4 + 2 + 1


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # the interpreter's maximum
def test_a_matrix_depends_on_nothing_but_itself(device):
    """Another run, other neighbours and a NaN in one change no bit; the spoilt matrix says so, and starts afresh."""
    plain, other = planted("low_rank", 20, 30, device), planted("low_rank", 18, 24, device, seed=1)
    alone, pair = Steps([other], keys=[1]), Steps([plain, other])
    for i in range(5):
        alone([other])
        spoilt = plain.clone()
        if i == 2:
            spoilt[19, 29] = torch.nan
        pair([spoilt, other])
        assert same(alone.of(0), pair.of(1))
        right, left, kept, _, proof, decided = pair.of(0)
        assert (right.isfinite().all(), left.isfinite().all()) == (True, True)
        if i == 2:
            assert proof[0].isnan()
            assert (proof[3:].tolist(), decided.item(), kept.sum().item()) == ([-1.0, -1.0], 1, 0)
        else:
            assert decided.item() == (i in (1, 4))
            assert proof[3:].tolist() == ([5.0, 5.0] if i in (1, 4) else [0.0, 20.0])


def test_a_step_that_is_skipped_leaves_everything_as_it_was(device):
    """Whatever the weights are by then; and the next step is the one that would have come."""
    matrices = [planted("low_rank", 20, 30, device), planted("low_rank", 9, 8, device)]
    straight, skipping = Steps(matrices), Steps(matrices)
    straight(matrices)
    skipping(matrices)
    names = ("bases", "kept", "top", "basis_grams", "step", "proof", "decided")
    before = {name: skipping.tensors[name].clone() for name in names}
    skipping.tensors["skip"].fill_(1)
    skipping([matrices[0] * torch.inf, matrices[1] + 1])
    for name in names:
        assert torch.equal(before[name], skipping.tensors[name]), name
    skipping.tensors["skip"].zero_()
    straight(matrices)
    skipping(matrices)
    for place in range(2):
        assert same(straight.of(place), skipping.of(place))
