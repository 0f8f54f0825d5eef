"""Upper bounds that are known before they are counted: where the lower bound is r, nothing else is done."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from fastrank import Status, Tolerance, linalg, testing
from fastrank.kernels.count import tiny
from fastrank.kernels.count.launches import Launches
from fastrank.kernels.device import capability
from fastrank.kernels.inertia.elimination import place

from counting_steps import FP64, with_spectrum  # isort: skip


@triton.jit
def place_kernel(p_out, SHIFTS, PAIRS):
    i_matrix, i_shift = place(tl.program_id(0), tl.num_programs(0), SHIFTS, PAIRS)
    tl.store(p_out + 2 * tl.program_id(0), i_matrix)
    tl.store(p_out + 2 * tl.program_id(0) + 1, i_shift)


@pytest.mark.parametrize(("shifts", "pairs"), [(1, 0), (3, 0), (2, 1), (4, 1), (4, 2), (8, 3)])
def test_every_problem_has_its_turn_and_lower_bounds_come_first(shifts, pairs, device):
    out = torch.full((5 * shifts, 2), -1, device=device)
    place_kernel[(5 * shifts,)](out, shifts, pairs)
    found = [tuple(x) for x in out.tolist()]
    assert sorted(found) == [(i, j) for i in range(5) for j in range(shifts)]
    assert found[: 5 * pairs] == [(i, 2 * j + 1) for i in range(5) for j in range(pairs)]
    assert [i for i, _ in found[5 * pairs :]] == sorted(i for i, _ in found[5 * pairs :])


@pytest.mark.parametrize("way", ["tiny", "one"])
def test_only_what_is_known_is_skipped(way, device):
    """Matrices of full rank, and of nearly full rank, with a shift at which there is more to see than at the other."""
    if way == "tiny" and tiny.config(20, capability(device)) is None:
        pytest.skip("no matrix of this size is tiny on this architecture")
    cases = [with_spectrum([1.0] * 20, 30), with_spectrum([1.0] * 19 + [0.1], 30), with_spectrum([1.0] * 11, 30, 1)]
    cases = [case.to(device) for case in cases]
    shifts = torch.tensor([[0.02, 0.5, 0.02, 0.5, 3.0, 0.5]] * 3, dtype=FP64, device=device)
    found = {}
    for pairs in (0, 2):
        launches = Launches(cases, 6, keep=way == "one")
        workspace = torch.full((launches.size,), torch.nan, dtype=FP64, device=device)
        trace = torch.zeros(3, dtype=FP64, device=device)
        launches.sum_grams(workspace, trace, None)
        lines = [torch.stack([torch.zeros_like(shifts), x], -1) for x in (shifts, torch.full_like(shifts, torch.inf))]
        counts, growth, _ = launches.count(workspace, trace, None, *lines, pairs)
        found[pairs] = counts.tolist(), growth.cpu()
        torch.testing.assert_close(trace.cpu(), torch.tensor([20.0, 19.01, 11.0], dtype=FP64), rtol=1e-6, atol=0)
    assert found[0][0] == [[20, 20, 20, 20, 0, 20], [19, 19, 19, 19, 0, 19], [11, 11, 11, 11, 0, 11]]
    assert found[2][0] == found[0][0]
    (_, all_), (_, some) = found[0], found[2]
    known = torch.zeros(3, 6, dtype=torch.bool)
    known[0, [0, 2]] = known[2, [0, 2]] = True  # in the order of the interpreter, which is that of the programs
    assert (all_ > 0).all()
    assert torch.equal(some[~known], all_[~known])
    if device.type == "cpu":
        assert not some[known].any()


@pytest.mark.usefixtures("served")
def test_several_tolerances_of_full_and_other_ranks(device):
    cases = [testing.make(f, 70, 90, seed=i).matrix for i, f in enumerate(("identity", "arithmetic", "low_rank"))]
    for tolerance in (Tolerance(), Tolerance(0.05)):
        bounds = linalg.rank_bounds([c.to(device) for c in cases], tolerance, resolve=False)
        ranks = [int(testing.true_rank(case, tolerance).lower) for case in cases]
        assert bounds.lower.tolist() == bounds.upper.tolist() == ranks
        assert bounds.status.tolist() == [Status.OK] * 3
