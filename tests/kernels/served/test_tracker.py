"""The tracker, served by the kernels: rows of a CPU's, plans that follow the parameters, and what a capture keeps."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import fastrank
from fastrank import RankTracker, Tolerance, backend, testing
from fastrank.measuring import bases

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture
def quick(short_strips, monkeypatch):
    """Little to interpret: one product to warm up."""
    monkeypatch.setattr(bases, "WARM_UP", 1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("products", ["fp64", pytest.param("integers", marks=pytest.mark.int8)])
def test_a_tracked_run_is_that_of_the_cpu(products, mlp, train, device, monkeypatch):
    """The same weights measured both ways at every step, spectrum and all."""
    monkeypatch.setenv(backend.PRODUCTS, products)
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
    # Where sigma_1 is not proven to 1e-4 it is not recorded; where it is, this is how well it is known.
    for column, known in (("spectral_norm", 1e-4), ("stable_rank", 2e-4), ("frobenius_norm", 1e-12)):
        assert a[column].notna().all()
        assert b[column].notna().sum() >= 0.9 * len(b)
        there = b[column].notna()
        assert ((a[column] - b[column]).abs()[there] <= 1.01 * known * a[column].abs()[there]).all()
    assert ((a.effective_rank - b.effective_rank).abs().dropna() <= 2e-5 * a.effective_rank.dropna()).all()
    assert a.effective_rank.isna().tolist() == b.effective_rank.isna().tolist()
    sketch = by_kernels._measurer._home._trained._sketches
    assert sketch._bases.sketches.integers == (products == "integers")
    assert by_kernels.memory() == {"history": by_kernels._history.nbytes, "workspace": sketch.nbytes}
    assert sketch._plan._workspace.nbytes == 8 * 3 * 32 * 32 * (1 + 2 * (len(tolerances) + 1))
    assert sketch.nbytes == sketch._bases.nbytes + sketch._plan.nbytes


@pytest.mark.usefixtures("quick")
def test_a_replaced_or_reshaped_parameter_is_planned_anew(mlp, device):
    model = mlp.to(device)
    tracker = RankTracker(model)
    tracker.step()
    sketch = tracker._measurer._home._trained._sketches
    first, sketches = sketch._plan, sketch._bases.sketches
    tracker.step()
    assert sketch._plan is first
    model[0].weight = torch.nn.Parameter(torch.zeros(12, 8, device=device))
    tracker.step()
    assert sketch._plan is not first
    assert sketch._bases.sketches is sketches  # tables of sketches depend on shapes alone
    assert tracker.latest()["0.weight"]["rank_upper"] == 0
    model[3].weight = torch.nn.Parameter(torch.eye(9, device=device))
    tracker.step()
    assert sketch._bases.sketches is not sketches
    assert tracker.latest()["3.weight"]["rank_lower"] == 9


@pytest.mark.usefixtures("quick")
def test_state_travels_between_kernels_and_a_cpu(mlp, device, monkeypatch):
    """Sketches to sketches; to a machine without kernels, and from there, what the other has is of no use."""
    model = mlp.to(device)
    tracker = RankTracker(model)
    tracker.step()
    state, own = copy.deepcopy(tracker.state_dict()), tracker._measurer.state(tracker._weights.sources())
    assert own["starts"] == {}
    assert set(own["sketches"]["bases"]) == set(range(len(tracker.names)))
    again = RankTracker(model)
    again.load_state_dict(state)
    again.step()
    tracker.step()
    assert again.to_arrow().equals(tracker.to_arrow())
    with monkeypatch.context() as without:
        without.setattr(backend, "kernels_serve", lambda device: False)
        elsewhere = RankTracker(copy.deepcopy(model).cpu())
        elsewhere.load_state_dict(state)
        elsewhere.step()
        back = elsewhere.state_dict()
        assert elsewhere._measurer.state(elsewhere._weights.sources())["sketches"] is None
    again.load_state_dict(back)
    again.step()
    ranks = again.to_pandas().groupby("step")[["rank_lower", "rank_upper"]].agg(list)
    assert ranks.iloc[0].tolist() == ranks.iloc[1].tolist() == ranks.iloc[2].tolist()


@pytest.fixture
def fp64(device):
    """A model whose one matrix is measured from its Gram, and its tracker."""
    model = torch.nn.Linear(30, 20, bias=False, dtype=torch.float64).to(device)
    with torch.no_grad():
        model.weight.copy_(testing.make("geometric", 20, 30, dtype=torch.float64).matrix)
    return model, RankTracker(model)


def test_a_basis_stays_where_a_captured_step_looks_for_it(fp64, captured):
    """A step reads the last one's basis and leaves the next in its place, and so does a loaded state."""
    model, tracker = fp64
    tracker.step()
    measurer = tracker._measurer._home._trained
    before = dict(measurer._counts._starts)
    factors = torch.linspace(1, 2, 20, dtype=torch.float64, device=model.weight.device)[:, None]
    model.weight.data.mul_(factors)
    with captured():
        tracker.step()
    tracker.replayed()
    state, saved = copy.deepcopy(tracker.state_dict()), measurer.warm_starts()[0].clone()
    model.weight.data.div_(factors)
    tracker.step()
    assert not torch.equal(measurer.warm_starts()[0], saved)
    tracker.load_state_dict(state)
    assert torch.equal(measurer.warm_starts()[0], saved)
    assert before.keys() == measurer._counts._starts.keys()
    assert all(measurer._counts._starts[g] is basis is not None for g, basis in before.items())


def test_what_a_captured_step_reads_outlives_what_replaces_it(fp64, captured):
    model, tracker = fp64
    tracker.step()
    with captured():
        tracker.step()
    tracker.replayed()
    counts = tracker._measurer._home._trained._counts
    kept = [weakref.ref(x) for x in (counts._batch, *counts._starts.values())]
    model.weight = torch.nn.Parameter(model.weight[:10].clone())
    tracker.step()
    gc.collect()
    assert all(x() is not None for x in kept)


def test_a_first_step_cannot_be_captured(fp64, captured):
    with captured(), pytest.raises(RuntimeError, match="take one step with the same parameters before capturing"):
        fp64[1].step()
