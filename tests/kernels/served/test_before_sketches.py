"""Before the kernels of the sketches are compiled every matrix is counted: the same ranks, and nothing waits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastrank
from fastrank import RankTracker, Status, Tolerance, testing
from fastrank.measuring.compilation import Compilation
from fastrank.measuring.sketch_measurer import SketchMeasurer
from fastrank.streams import OwnStream
from fastrank.weights import Source

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served", "fresh_bases")

TOLERANCES = [Tolerance(), Tolerance(0.1, "spectral")]


@pytest.fixture
def compiled(monkeypatch):
    """Whether the kernels are, as the test says: `compiled.append(True)`."""
    said = [False]
    monkeypatch.setattr(Compilation, "ready", lambda self, variants: said[-1])
    return said


@pytest.fixture
def model(device):
    """Two matrices whose first sketch is exact, and one whose is not, of rank 7."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(9, 12, bias=False), nn.Linear(12, 20, bias=False)).to(device)
        made[1].weight.data.copy_(torch.randn(20, 2) @ torch.randn(2, 12))
        made.append(nn.Linear(20, 24, bias=False, device=device))
        made[2].weight.data.copy_(torch.randn(24, 7) @ torch.randn(7, 20))
    return made


OPTIONS = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.01}


def train(model, optimizer, steps):
    """Each on a batch that its number alone decides."""
    for i in steps:
        inputs = torch.randn(5, 9, generator=torch.Generator().manual_seed(i)).to(model[0].weight.device)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def assert_rows_are_true(model, tracker):
    weights = dict(model.named_parameters())
    for name, row in tracker.latest().items():
        weight = weights[name].detach().cpu()
        for tolerance in TOLERANCES:
            suffix = "" if tolerance == TOLERANCES[0] else f"@{tolerance.suffix}"
            truth = testing.true_rank(weight, tolerance)
            assert row[f"rank_lower{suffix}"] <= int(truth.lower), (name, tolerance)
            assert row[f"rank_upper{suffix}"] >= int(truth.upper), (name, tolerance)
            if tolerance.relative_to != "spectral":  # for which sigma_1 has to be known
                assert row[f"rank_lower{suffix}"] == row[f"rank_upper{suffix}"]
        sigma = torch.linalg.svdvals(weight.double())
        assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-9)
        if row["spectral_norm"] is not None:
            assert row["spectral_norm"] == pytest.approx(sigma[0].item(), rel=2e-4)


def test_counts_until_the_sketches_may_begin(model, compiled):
    """True rows before and after; the parameters of a run that nobody tracks, to the bit; sigma_1 found on the way."""
    untracked = copy.deepcopy(model)
    train(untracked, fastrank.SGD(untracked.parameters(), **OPTIONS), range(5))
    optimizer = fastrank.SGD(model.parameters(), **OPTIONS)
    tracker = RankTracker(model, optimizer, tolerance=TOLERANCES)
    known = 0
    for i in range(5):
        compiled.append(i >= 3)
        train(model, optimizer, [i])
        assert bool(tracker._measurer._home._trained._sketches._bases.columns) is compiled[-1]
        assert_rows_are_true(model, tracker)
        known = sum(row["spectral_norm"] is not None for row in tracker.latest().values()) if i == 2 else known
    assert known > 0, "from where the last search ended, sigma_1 is found in a few steps"
    assert tracker.to_pandas().step.tolist() == [s for s in range(1, 6) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untracked.parameters(), strict=True))


def test_what_is_not_finite_is_told_and_leaves_nothing_behind(model, compiled):
    tracker = RankTracker(model, tolerance=TOLERANCES)
    before = model[2].weight.detach().clone()
    tracker.step()
    with torch.no_grad():
        model[2].weight[1, 2] = torch.nan
    tracker.step()
    rows = tracker.latest()
    assert rows["2.weight"]["status"] == Status.NONFINITE.name
    assert rows["2.weight"]["rank_lower"] is None
    assert rows["0.weight"]["status"] == Status.OK.name
    with torch.no_grad():
        model[2].weight.copy_(before)
        model[0].weight.zero_()
    for _ in range(3):
        tracker.step()
    rows = tracker.latest()
    assert (rows["0.weight"]["rank_lower"], rows["0.weight"]["rank_upper"]) == (0, 0)
    assert (rows["2.weight"]["rank_lower"], rows["2.weight"]["rank_upper"]) == (7, 7)
    assert rows["2.weight"]["spectral_norm"] == pytest.approx(torch.linalg.matrix_norm(before.double(), 2).item(), 2e-4)


def test_a_state_from_before_the_sketches_is_taken_up(model, compiled):
    tracker = RankTracker(model)
    tracker.step()
    state = tracker.state_dict()
    for begun in (False, True):
        compiled.append(begun)
        other = RankTracker(model)
        other.load_state_dict(state)
        other.step()
        assert other.to_pandas().step.tolist() == [1, 1, 1, 2, 2, 2]
        assert bool(other._measurer._home._trained._sketches._bases.columns) is begun


@pytest.mark.parametrize("late", ["sketches", "fused"])
def test_what_becomes_ready_between_a_warm_up_and_a_capture_is_not_begun_in_it(
    device, model, monkeypatch, captured, late
):
    """A capture can make no tables: it records what the steps before it did, and says so where that is slower."""
    said = [False]

    def ready(self, variants):
        return said[-1] or (late == "fused" and not any("sgd" in variant.name for variant in variants))

    monkeypatch.setattr(Compilation, "ready", ready)
    optimizer = fastrank.SGD(model.parameters(), **OPTIONS)
    tracker = RankTracker(model, optimizer)
    train(model, optimizer, range(3))
    said.append(True)
    with captured(), pytest.warns(RuntimeWarning, match=r"fastrank\.prepare"):
        train(model, optimizer, [3])
    sketches = tracker._measurer._home._trained._sketches._bases
    assert bool(sketches.columns) is (late == "fused")
    assert not any(each.compiled for each in sketches._passes)


def test_a_capture_that_comes_too_early_is_warned_of(device, compiled, captured):
    """It would count at every replay, for ever: the warning names what to call before."""
    matrix = torch.eye(20, device=device)
    measurer = SketchMeasurer([Tolerance()], [], device, OwnStream(device))
    with captured(), pytest.warns(RuntimeWarning, match=r"fastrank\.prepare"):
        measurer.prepare([Source(matrix, matrix)])
