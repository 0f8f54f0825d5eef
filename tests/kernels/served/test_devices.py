"""Matrices on two devices that kernels serve: each has sketches, fused steps and copies of its own.

One device stands in for two: some matrices are only said to be elsewhere.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastrank
from fastrank import RankTracker, Tolerance, testing
from fastrank.measuring import devices
from fastrank.measuring.bases import Bases
from fastrank.optim import descents
from fastrank.optim.descent import Descent

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served", "small_bases")

RANKS = [6, 5, 7]


@pytest.fixture
def away(device, monkeypatch):
    """Another name of the device: matrices of 18 rows are said to be there, and the descent of the second optimizer."""
    named = torch.device("cuda") if device.type == "cuda" else torch.device("cpu", 0)
    monkeypatch.setattr(devices, "place_of", lambda matrix: named if matrix.shape[0] == 18 else matrix.device)
    assert named != torch.ones(1, device=device).device
    return named


def network(device):
    """Three layers, of which the second is said to be elsewhere."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16 + i, 17 + i, bias=False) for i in range(3)))
    for layer, rank in zip(model, RANKS, strict=True):
        rows, columns = layer.weight.shape
        layer.weight.data = torch.randn(rows, rank) @ torch.randn(rank, columns)
    return model.to(device)


def optimizers_of(model):
    """One for the layers of each device."""
    return [fastrank.SGD(p, lr=0.1) for p in ([model[0].weight, model[2].weight], [model[1].weight])]


def step(model, optimizers):
    """A step that leaves every rank as it is."""
    for parameter in model.parameters():
        parameter.grad = parameter.detach() * 0.5
    for optimizer in optimizers:
        optimizer.step()


def assert_true(model, tracker):
    for layer, row in zip(model, tracker.latest().values(), strict=True):
        weight = layer.weight.detach().cpu()
        truth = testing.true_rank(weight, fastrank.Tolerance())
        assert row["rank_lower"] == row["rank_upper"] == int(truth.lower) == int(truth.upper)
        assert row["frobenius_norm"] == pytest.approx(weight.double().norm().item(), rel=1e-9)


def bases_of(tracker):
    return [own.measurer._trained._sketches._bases for own in tracker._measurer._of.values()]


def test_each_device_s_step_is_fused_with_its_own_sketches(device, away, monkeypatch):
    """True rows; the parameters of a run that nobody tracks, to the bit; and a state from which both go on."""
    made = iter([next(network(device).parameters()).device, away, device, device])
    monkeypatch.setattr(descents, "descent_on", lambda on: Descent(next(made)))
    fused, stock = [], Bases.fuse

    def fuse(self, descent, *flags):
        stepped = stock(self, descent, *flags)
        fused.append((self._device == away, descent.device == away, len(stepped)))
        return stepped

    monkeypatch.setattr(Bases, "fuse", fuse)
    model = network(device)
    twin = copy.deepcopy(model)
    optimizers, untracked = optimizers_of(model), optimizers_of(twin)
    tracker = RankTracker(model, optimizers)
    step(model, optimizers)
    step(twin, untracked)
    assert fused == [(False, False, 2), (True, True, 1)]
    assert_true(model, tracker)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert tracker.memory()["workspace"] == sum(own.measurer.nbytes for own in tracker._measurer._of.values())

    state = copy.deepcopy(tracker.state_dict())
    again = RankTracker(twin)
    again.load_state_dict(state)
    assert [int(each.step) for each in bases_of(again)] == [int(each.step) for each in bases_of(tracker)] == [2, 2]
    tracker.step()
    again.step()
    assert again.to_arrow().equals(tracker.to_arrow())


def test_a_skipped_step_changes_no_basis_on_any_device(device, away):
    model = network(device)
    tracker = RankTracker(model)
    tracker.step()
    measurer, sources = tracker._measurer, tracker._weights.sources()
    for flag in (1.0, 0.0):
        before = copy.deepcopy([each.state() for each in bases_of(tracker)])
        measurer.measure(sources, False, torch.tensor(flag, device=device))
        measurer._stream.wait()
        after = [each.state() for each in bases_of(tracker)]
        assert [now["step"] - then["step"] for then, now in zip(before, after, strict=True)] == [1 - int(flag)] * 2
        kept = [
            all(torch.equal(then["bases"][i][key], x) for i, basis in now["bases"].items() for key, x in basis.items())
            for then, now in zip(before, after, strict=True)
        ]
        assert kept == [bool(flag)] * 2


def test_kernels_of_every_device_are_asked_for_ahead(device, away, monkeypatch):
    from fastrank.tracking import ahead

    asked = {}

    class Compilation:
        def __init__(self, on):
            self.on = on

        def request(self, urgent, later=()):
            asked[self.on] = (len(urgent), len(later))

        def wait(self, variants, *, here=True):
            asked.setdefault(("waited", self.on), len(variants))

    monkeypatch.setattr(ahead, "compilation_of", Compilation)
    model = network(device)
    home = model[0].weight.device
    until_compiled = ahead.compile_ahead(RankTracker(model)._weights.sources(), (), [Tolerance()])
    assert set(asked) == {home, away}
    until_compiled()
    assert all(asked["waited", on] == asked[on][0] > 0 for on in (home, away))
    asked.clear()
    until_compiled()
    assert not asked
