"""The library's own functions, served by the kernels: ragged batches, matrix_rank and the tracker."""

from __future__ import annotations

import pytest
import torch

from fastrank import Status, Tolerance, linalg, testing
from fastrank.counting.ragged import RaggedBatch
from fastrank.linalg import plans, torch_rank
from fastrank.linalg.arrays import take_matrices
from fastrank.linalg.plans import PLANS, planned

pytest.importorskip("triton")
from fastrank.kernels.count.launches import Launches

pytestmark = pytest.mark.usefixtures("served")

TOLERANCES = [Tolerance(0.05), Tolerance(0.3, "absolute")]


def mixed(device, seed=0):
    """Shapes, dtypes, strides and scales of all kinds; no matrix without elements."""
    sizes = [(5, 7), (33, 50), (16, 9), (20, 64), (66, 70), (90, 65), (1, 1), (1, 30)]
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
    made = [testing.make("geometric", *size, seed=seed + i, dtype=dtypes[i % 4]).matrix for i, size in enumerate(sizes)]
    made.append(testing.make("low_rank", 30, 40, seed=seed, dtype=torch.float64, scale=1e-300).matrix)
    made.append(testing.make("low_rank", 70, 67, seed=seed, dtype=torch.float64, scale=1e300).matrix)
    made.append(testing.make("low_rank", 30, 40, seed=seed, scale=1e-30).matrix.mT.contiguous().mT)
    made.append(torch.zeros(3, 4))
    return [m.to(device) for m in made]


def test_a_ragged_batch_is_counted_for_several_tolerances_at_once(device):
    matrices = mixed(device)
    for tolerance, bounds in zip(TOLERANCES, RaggedBatch(matrices, 2).bounds(TOLERANCES), strict=True):
        truth = [testing.true_rank(m, tolerance) for m in matrices]
        for i, t in enumerate(truth):
            assert bounds.lower[i] <= t.upper
            assert bounds.upper[i] >= t.lower
        assert bounds.certified.sum() >= len(matrices) - 1


def test_chunks_of_a_small_budget_give_the_same_answers(device):
    matrices = [*mixed(device), torch.zeros(0, 5, device=device)]
    whole = RaggedBatch(matrices)
    pieces = RaggedBatch(matrices, budget=250_000)
    assert len(whole.chunks) == 1
    assert len(pieces.chunks) > 2
    assert pieces.nbytes < whole.nbytes
    assert pieces.nbytes <= 250_000
    for a, b in zip(whole.bounds([Tolerance()])[0], pieces.bounds([Tolerance()])[0], strict=True):
        assert torch.equal(a, b)
    assert whole.bounds([Tolerance()])[0].upper[-1] == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_neighbours_of_what_is_not_finite_are_bit_identical(bad, device):
    matrices = mixed(device)
    before = linalg.rank_bounds(matrices, resolve=False)
    spoilt = [1, 4, 5, 7]  # tiny and not, FP64 and not
    for i in spoilt:
        matrices[i][-1, -1] = bad
    after = linalg.rank_bounds(matrices, resolve=False)
    kept = [i for i in range(len(matrices)) if i not in spoilt]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[kept], new[kept])
    assert after.status[spoilt].tolist() == [Status.NONFINITE] * 4
    assert after.lower[spoilt].tolist() == after.upper[spoilt].tolist() == [-1] * 4


def test_batched_and_empty_input(device):
    stack = torch.stack([testing.make("low_rank", 20, 30, seed=s).matrix for s in range(6)]).to(device)
    bounds = linalg.rank_bounds(stack.view(2, 3, 20, 30))
    assert bounds.lower.tolist() == [[5, 5, 5], [5, 5, 5]]
    assert linalg.rank_bounds(stack.mT[:0]).lower.shape == (0,)
    assert linalg.rank_bounds(torch.zeros(2, 0, 3, device=device)).upper.tolist() == [0, 0]
    assert linalg.rank_bounds([]).lower.shape == (0,)


def test_a_tolerance_relative_to_sigma_1_is_served_too(device):
    matrices = mixed(device)[:6]
    bounds = linalg.rank_bounds(matrices, Tolerance(0.01, "spectral"))
    assert bounds.lower.tolist() == [testing.true_rank(m, Tolerance(0.01, "spectral")).lower.item() for m in matrices]


def test_open_brackets_and_growth_are_resolved_when_asked(device):
    """A singular value at 1 + 1e-12 of tau: the count leaves it open, the FP64 decomposition does not."""
    sigma = torch.tensor([1.0, 0.5 * (1 + 1e-12), 0.25], dtype=torch.float64)
    matrix = testing.planted(sigma, 3, 5, seed=0, dtype=torch.float64).to(device)
    tolerance = Tolerance(0.5, "absolute")
    open_ = linalg.rank_bounds([matrix, matrix * 3], tolerance, resolve=False)
    assert (open_.lower[0], open_.upper[0]) == (1, 2)
    resolved = linalg.rank_bounds([matrix, matrix * 3], tolerance)
    assert (resolved.lower[0], resolved.upper[0], resolved.status[0]) == (2, 2, Status.FALLBACK)
    assert (resolved.lower[1], resolved.upper[1], resolved.status[1]) == (3, 3, Status.OK)


def test_plans_are_remembered_for_the_same_tensors_only(device, monkeypatch):
    monkeypatch.setattr(plans, "_plans", plans.OrderedDict())
    matrices = mixed(device)[:3]
    first = planned(take_matrices(matrices))
    assert planned(take_matrices(list(matrices))) is first
    assert planned(take_matrices(matrices), keep=True) is not first
    assert first.fits(matrices)
    moved = [matrices[0].clone(), *matrices[1:]]
    assert not first.fits(moved)
    assert planned(take_matrices(moved)) is not first
    kept = [torch.zeros(1, i + 1, 2, device=device) for i in range(PLANS + 3)]
    for stack in kept:
        planned(take_matrices(stack))
    assert len(plans._plans) == PLANS


@pytest.mark.heavy
def test_growth_that_is_usual_without_pivots_is_believed(device, monkeypatch):
    """50 times the squared norm: at order 704 it is believed, if need be of a second count; at order 100 it is not."""
    large, small = torch.eye(704, device=device), torch.eye(100, device=device)

    def count(launches, workspace, trace, scale, coefficients, limits, pairs):
        orders = torch.tensor([s.rows for s in launches.shapes], device=device)
        counts = orders[:, None].expand(coefficients.shape[:2])
        assert pairs == 1
        limits = limits[..., 0] * trace[:, None] + limits[..., 1]
        growth = 50.0 * trace[:, None].expand_as(counts)
        return counts, growth, torch.where((orders > 512)[:, None], torch.maximum(limits, 4 * growth), limits)

    monkeypatch.setattr(Launches, "count", count)
    bounds = linalg.rank_bounds([large, small], resolve=False)
    assert bounds.lower.tolist() == [704, 0]
    assert bounds.status.tolist() == [Status.OK, Status.FALLBACK]
    asked = []
    monkeypatch.setattr(torch_rank, "_stock_rank", lambda matrix, *_: asked.append(len(matrix)) or 0)
    linalg.matrix_rank([large, small])
    assert asked == [100]


def test_matrix_rank_agrees_with_torch(device):
    for i, (rows, cols) in enumerate([(8, 8), (30, 19)]):
        stack = torch.stack([c.matrix for c in testing.cases(rows, cols, seed=i, scales=(1.0,))]).to(device)
        for options in ({}, {"atol": 1e-3, "rtol": 1e-2}):
            assert torch.equal(linalg.matrix_rank(stack, **options), torch.linalg.matrix_rank(stack, **options))
    stack[2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="matrix 2 of the batch holds NaN or Inf"):
        linalg.matrix_rank(stack)
