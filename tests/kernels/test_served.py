"""The library's own functions, served by the kernels: ragged batches, matrix_rank and the tracker."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import fastrank
from fastrank import RankTracker, Status, Tolerance, backend, linalg, matrix_rank, ragged, ring, testing
from fastrank.arrays import take_matrices
from fastrank.ragged import RaggedBatch

pytest.importorskip("triton")
from fastrank.kernels.launches import Launches

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
    monkeypatch.setattr(ragged, "_plans", ragged.OrderedDict())
    matrices = mixed(device)[:3]
    first = ragged.planned(take_matrices(matrices))
    assert ragged.planned(take_matrices(list(matrices))) is first
    assert ragged.planned(take_matrices(matrices), keep=True) is not first
    assert first.fits(matrices)
    moved = [matrices[0].clone(), *matrices[1:]]
    assert not first.fits(moved)
    assert ragged.planned(take_matrices(moved)) is not first
    kept = [torch.zeros(1, i + 1, 2, device=device) for i in range(ragged.PLANS + 3)]
    for stack in kept:
        ragged.planned(take_matrices(stack))
    assert len(ragged._plans) == ragged.PLANS


def test_growth_that_is_usual_without_pivots_is_believed(device, monkeypatch):
    """20 ||W||_F^2, as at r = 1024: of order 512 it is within the limit, of order 100 it is not."""
    large, small = torch.eye(512, device=device), torch.eye(100, device=device)

    def count(launches, workspace, trace, scale, coefficients):
        orders = torch.tensor([s.rows for s in launches.shapes], device=device)
        counts = orders[:, None].expand(coefficients.shape[:2])
        return counts, 20.0 * trace[:, None].expand_as(counts)

    monkeypatch.setattr(Launches, "count", count)
    bounds = linalg.rank_bounds([large, small], resolve=False)
    assert bounds.lower.tolist() == [512, 0]
    assert bounds.status.tolist() == [Status.OK, Status.FALLBACK]
    asked = []
    monkeypatch.setattr(matrix_rank, "_stock_rank", lambda matrix, *_: asked.append(len(matrix)) or 0)
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


def test_a_tracked_run_is_that_of_the_cpu(mlp, train, device, monkeypatch):
    """The same weights measured both ways at every step, spectrum and all."""
    tolerances = [Tolerance(), Tolerance(0.1, "spectral")]
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.5, weight_decay=0.05)
    there = copy.deepcopy(mlp).to(device)
    options = {"tolerance": tolerances, "spectrum": ("effective_rank", "singular_values"), "spectrum_every": 3}
    by_kernels, by_torch = RankTracker(there, **options), RankTracker(mlp, **options)
    assert by_kernels.memory()["workspace"] == 0
    for i in range(6):
        train(mlp, optimizer, 1, start=i)
        there.load_state_dict(mlp.state_dict())
        by_kernels.step()
        with monkeypatch.context() as without:
            without.setattr(backend, "kernels_serve", lambda device: False)
            by_torch.step()
    a, b = by_torch.to_pandas(), by_kernels.to_pandas()
    for column in ("step", "name", "rank_lower", "rank_upper", "rank_lower@0.1-spectral", "status"):
        assert a[column].tolist() == b[column].tolist(), column
    for column in ("stable_rank", "spectral_norm", "frobenius_norm", "effective_rank"):
        assert ((a[column] - b[column]).abs() <= 2e-5 * a[column].abs()).all() or a[column].isna().any()
    assert a.effective_rank.isna().tolist() == b.effective_rank.isna().tolist()
    batch = by_kernels._measurer._ragged
    assert by_kernels.memory() == {"history": by_kernels._history.nbytes, "workspace": batch.nbytes}
    assert batch.nbytes == 8 * 3 * 32 * 32 * (1 + 2 * len(tolerances))


def test_a_replaced_or_reshaped_parameter_is_planned_anew(mlp, device):
    model = mlp.to(device)
    tracker = RankTracker(model)
    tracker.step()
    first = tracker._measurer._ragged
    tracker.step()
    assert tracker._measurer._ragged is first
    model[0].weight = torch.nn.Parameter(torch.zeros(12, 8, device=device))
    tracker.step()
    assert tracker._measurer._ragged is not first
    assert tracker.latest()["0.weight"]["rank_upper"] == 0
    model[3].weight = torch.nn.Parameter(torch.eye(9, device=device))
    tracker.step()
    assert tracker.latest()["3.weight"]["rank_lower"] == 9


def test_state_travels_between_kernels_and_a_cpu(mlp, device):
    model = mlp.to(device)
    tracker = RankTracker(model)
    tracker.step()
    state = tracker.state_dict()
    assert set(state["bases"]) == set(tracker.names)
    again = RankTracker(model)
    again.load_state_dict(state)
    again.step()
    tracker.step()
    assert again.to_arrow().equals(tracker.to_arrow())


@pytest.fixture
def fp64(device):
    """A model whose one matrix is measured from its Gram, and its tracker."""
    model = torch.nn.Linear(30, 20, bias=False, dtype=torch.float64).to(device)
    with torch.no_grad():
        model.weight.copy_(testing.make("geometric", 20, 30, dtype=torch.float64).matrix)
    return model, RankTracker(model)


def test_a_basis_stays_where_a_captured_step_looks_for_it(fp64, monkeypatch):
    """A step reads the last one's basis and leaves the next in its place, and so does a loaded state."""
    model, tracker = fp64
    tracker.step()
    measurer = tracker._measurer
    before = dict(measurer._bases)
    factors = torch.linspace(1, 2, 20, dtype=torch.float64, device=model.weight.device)[:, None]
    model.weight.data.mul_(factors)
    with monkeypatch.context() as capture:
        capture.setattr(ring, "capturing", lambda device: True)
        tracker.step()
    tracker.replayed()
    state, saved = copy.deepcopy(tracker.state_dict()), measurer.bases()[0].clone()
    model.weight.data.div_(factors)
    tracker.step()
    assert not torch.equal(measurer.bases()[0], saved)
    tracker.load_state_dict(state)
    assert torch.equal(measurer.bases()[0], saved)
    assert before.keys() == measurer._bases.keys()
    assert all(measurer._bases[g] is basis is not None for g, basis in before.items())


def test_what_a_captured_step_reads_outlives_what_replaces_it(fp64, monkeypatch):
    model, tracker = fp64
    tracker.step()
    with monkeypatch.context() as capture:
        capture.setattr(ring, "capturing", lambda device: True)
        tracker.step()
    tracker.replayed()
    kept = [weakref.ref(x) for x in (tracker._measurer._ragged, *tracker._measurer._bases.values())]
    model.weight = torch.nn.Parameter(model.weight[:10].clone())
    tracker.step()
    gc.collect()
    assert all(x() is not None for x in kept)


def test_a_first_step_cannot_be_captured(fp64, monkeypatch):
    monkeypatch.setattr(ring, "capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="take one step with the same parameters before capturing"):
        fp64[1].step()
