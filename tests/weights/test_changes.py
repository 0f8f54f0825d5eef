"""Gradients and updates, as rows of the history; and all kinds of matrices together."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from beside_weights import TRACK, assert_row, backward, two_layers
from torch import nn
from torch.nn.utils import parametrizations

import fastrank
from fastrank import RankTracker


@pytest.fixture
def model():
    return two_layers()


@pytest.mark.parametrize("make", [torch.optim.AdamW, fastrank.SGD])
@pytest.mark.parametrize("every", [1, 3])
def test_gradients_and_updates_are_those_of_the_step(model, make, every):
    optimizer = make(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer, of=("weight", "gradient", "update"), every=every, initial=True)
    initial = tracker.latest()
    assert initial["0.weight"]["rank_lower"] == 6
    assert initial["update/0.weight"]["rank_lower"] is initial["gradient/0.weight"]["rank_lower"] is None
    for step in range(1, 7):
        backward(model, step)
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        latest = tracker.latest()
        if latest["0.weight"]["step"] == step:
            for name in ("0.weight", "2.weight"):
                weight = model.get_parameter(name)
                assert_row(latest[name], weight)
                assert_row(latest[f"gradient/{name}"], weight.grad)
                assert_row(latest[f"update/{name}"], weight.detach() - before[name])
        with torch.no_grad():
            model[0].weight.mul_(0.5)  # between two steps: in the update of neither
    assert tracker.to_pandas().step.unique().tolist() == ([0, 1, 3, 6] if every == 3 else list(range(7)))


def test_without_an_optimizer_an_update_is_what_changed_since_the_last_measurement(model):
    before = model[0].weight.detach().clone()
    tracker = RankTracker(model, of=["update"])
    assert tracker.names == ["update/0.weight", "update/2.weight"]
    for _ in range(3):
        with torch.no_grad():
            model[0].weight += torch.randn(8, 1) @ torch.randn(1, 6)
        tracker.step()
        latest = tracker.latest()
        assert latest["update/0.weight"]["rank_lower"] == 1
        assert latest["update/2.weight"]["frobenius_norm"] == 0
        assert_row(latest["update/0.weight"], model[0].weight.detach() - before)
        before = model[0].weight.detach().clone()
    assert tracker.coverage()[0].reason == "('weight' is not in of)"


def test_of_frozen_and_of_made_weights(model):
    parametrizations.weight_norm(model[0])
    model[2].weight.requires_grad_(False)
    model.append(nn.Linear(5, 5))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    tracker = RankTracker(model, optimizer, of=("gradient", "update"))
    assert tracker.names == ["gradient/3.weight", "update/0.weight", "update/3.weight"]
    reasons = {row.name: row.reason for row in tracker.coverage()}
    assert reasons["gradient/0.weight"] == "(made by its layer)"
    assert reasons["gradient/2.weight"] == reasons["update/2.weight"] == "(not trained)"
    before = model[0].weight.detach().clone()
    backward(model)
    optimizer.step()
    assert_row(tracker.latest()["update/0.weight"], model[0].weight.detach() - before)


def test_several_optimizers_are_one_step(model):
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    tracker = RankTracker(model, optimizers, of=["update"])
    for step in range(2):
        backward(model, step)
        before = copy.deepcopy(model.state_dict())
        for optimizer in optimizers:
            optimizer.step()
        for name in ("0.weight", "2.weight"):
            assert_row(tracker.latest()[f"update/{name}"], model.get_parameter(name).detach() - before[name])


def test_a_gradient_that_is_not_there_has_no_rank(model):
    tracker = RankTracker(model, of=["gradient"])
    backward(model)
    model[0].weight.grad = None
    tracker.step()
    latest = tracker.latest()
    assert latest["gradient/0.weight"]["rank_lower"] is latest["gradient/0.weight"]["frobenius_norm"] is None
    assert_row(latest["gradient/2.weight"], model[2].weight.grad)
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"no tracked weight has a gradient; call tracker\.step\(\) before"):
        tracker.step()


def test_a_step_without_gradients_does_not_stop_a_training(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer, of=["weight", "gradient"])
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    latest = tracker.latest()
    assert latest["gradient/0.weight"]["step"] == 2
    assert latest["gradient/0.weight"]["rank_lower"] is None
    assert_row(latest["0.weight"], model[0].weight)


def test_the_gradient_is_that_of_the_layer_that_is_there_now(model):
    backward(model)
    tracker = RankTracker(model, of=["gradient", "update"])
    tracker.step()
    model[0] = nn.Linear(6, 8)
    backward(model, 1)
    tracker.step()
    assert_row(tracker.latest()["gradient/0.weight"], model[0].weight.grad)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_step_that_fails_is_in_no_update(model, wrapped):
    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, closure=None):
            self.optimizer.step(closure)

    def fail():
        raise MemoryError

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Wrapper(optimizer) if wrapped else optimizer
    tracker = RankTracker(model, optimizer, of=["update"])
    with pytest.raises(MemoryError):
        optimizer.step(fail)
    with torch.no_grad():
        model[0].weight.mul_(10)  # as if other weights had been loaded
    before = model[0].weight.detach().clone()
    backward(model)
    optimizer.step()
    assert_row(tracker.latest()["update/0.weight"], model[0].weight.detach() - before)


def test_a_sparse_gradient_is_an_error_that_names_its_weight():
    model = nn.Embedding(7, 3, sparse=True)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="layout sparse_coo") as raised:
        RankTracker(model, of=["gradient"]).step()
    assert "'weight'" in raised.value.__notes__[0]


def test_scaled_gradients_are_measured_unscaled(model):
    """Whoever takes a `grad_scale` writes the unscaled gradients back."""
    for make in (partial(torch.optim.SGD, fused=True), fastrank.SGD):
        optimizer = make(model.parameters(), lr=0.1)
        tracker = RankTracker(model, optimizer, of=["gradient"])
        backward(model)
        expected = model[0].weight.grad.clone()
        for parameter in model.parameters():
            parameter.grad *= 1024
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        optimizer.step()
        tracker.close()
        assert_row(tracker.latest()["gradient/0.weight"], expected)


def test_unknown_kinds_are_named(model):
    with pytest.raises(ValueError, match="of: unknown 'grad'; choose from weight, gradient, update"):
        RankTracker(model, of=["grad"])
    with pytest.raises(TypeError, match="of: expected a sequence of names, not 'gradient'"):
        RankTracker(model, of="gradient")


@pytest.mark.parametrize("follows", [True, False], ids=["optimizer", "by hand"])
def test_a_resumed_run_has_the_same_history(model, follows):
    """All kinds of matrices; the optimizer's steps are watched, or the tracker is called by hand."""

    def attach(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        options = {"of": ("weight", "gradient", "update"), "track": TRACK, "energy": 0.9, "every": 2}
        return optimizer, RankTracker(model, optimizer if follows else None, **options)

    def train(model, optimizer, tracker, steps):
        for step in steps:
            backward(model, step)
            optimizer.step()
            if not follows:
                tracker.step()

    twin = copy.deepcopy(model)
    whole = attach(twin)
    train(twin, *whole, range(8))
    optimizer, tracker = attach(model)
    train(model, optimizer, tracker, range(4))
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict(), tracker.state_dict()])
    other = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    optimizer, tracker = attach(other)
    for each, state in zip((other, optimizer, tracker), saved, strict=True):
        each.load_state_dict(state)
    train(other, optimizer, tracker, range(4, 8))
    assert tracker.to_arrow().equals(whole[1].to_arrow())


def test_tracking_changes_no_bit_of_training(model):
    twin = copy.deepcopy(model)
    for own, options in ((model, {"of": ("weight", "gradient", "update"), "track": TRACK}), (twin, None)):
        optimizer = torch.optim.AdamW(own.parameters(), lr=0.1)
        tracker = None if options is None else RankTracker(own, optimizer, **options)
        for step in range(5):
            backward(own, step)
            optimizer.step()
        assert tracker is None or len(tracker.to_arrow()) == 5 * 12
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_what_is_not_there_is_absent_and_no_alert(model):
    model.append(nn.Linear(5, 5))  # which `forward` below leaves out
    alerts = [fastrank.alerts.nonfinite("stop"), fastrank.alerts.below(0.5, "stop", names="gradient/3.weight")]
    tracker = RankTracker(model, of=("weight", "gradient", "update"), initial=True, alerts=alerts)
    latest = tracker.latest()
    assert {row["status"] for name, row in latest.items() if "/" in name} == {"ABSENT"}
    assert latest["0.weight"]["status"] == "OK"
    backward(model[:3])
    tracker.step()
    absent = tracker.latest()["gradient/3.weight"]
    assert (absent["status"], absent["rank_lower"], absent["frobenius_norm"]) == ("ABSENT", None, None)
    assert "; 1 absent, the others certified" in repr(tracker)
    assert tracker.scalars()["rank/nonfinite"] == 0
    with torch.no_grad():
        model[0].weight.grad[0, 0] = torch.nan
    assert not tracker.should_stop
    with pytest.warns(fastrank.AlertWarning, match="gradient/0.weight"):
        tracker.step()
    assert tracker.should_stop
    assert tracker.scalars()["rank/nonfinite"] == 1
    assert "; 1 not finite, 1 absent, the others certified" in repr(tracker)
