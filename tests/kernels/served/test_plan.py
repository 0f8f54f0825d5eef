"""The plan of a measured step: room for few Grams at a time, weights that are written again at once, other threads."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import fastrank
from fastrank import RankTracker, Tolerance
from fastrank.measuring import plan as module

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served", "small_bases")

TOLERANCES = [Tolerance(), Tolerance(0.3, "spectral")]


@pytest.fixture
def model(device):
    """Ranks that no sketch decides, of matrices of one shape and of another."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Linear(40, 36, bias=False), nn.Linear(36, 40, bias=False), nn.Linear(40, 20, bias=False)
        )
    return made.to(device)


def plan_of(tracker):
    return tracker._measurer._home._trained._sketches._plan


@pytest.mark.heavy
@pytest.mark.usefixtures("either_language")
def test_grams_that_have_no_room_together_take_turns(model, monkeypatch):
    """The same bits, in a workspace for one matrix; then the plan reads weights to its end."""
    rows, bytes_ = [], []
    for budget in (module.BUDGET, 0):
        monkeypatch.setattr(module, "BUDGET", budget)
        tracker = RankTracker(model, tolerance=TOLERANCES)
        for _ in range(3):
            tracker.step()
        rows.append(tracker.to_pandas())
        bytes_.append(plan_of(tracker).nbytes)
        assert plan_of(tracker).leaves_weights is (budget > 0)
    assert rows[0].equals(rows[1])
    assert bytes_[1] < bytes_[0] / 2
    assert (rows[0].rank_lower == rows[0].rank_upper).all()
    assert rows[0].rank_lower.tolist() == [36, 36, 20] * 3


def test_a_row_is_of_the_weights_after_the_step_whatever_is_written_next(device):
    """What is measured once no weight is read any more may be under way when the next launches write into weights."""
    size = 700 if device.type == "cuda" else 24
    layer = nn.Linear(size, size, bias=False, device=device)
    tracker = RankTracker(layer)
    for full in (True, False, True):
        with torch.no_grad():
            layer.weight.copy_(torch.eye(size) if full else torch.zeros(size, size))
        tracker.step()
        with torch.no_grad():
            layer.weight.fill_(1.0)
    ranks = tracker.to_pandas()
    assert ranks.rank_lower.tolist() == ranks.rank_upper.tolist() == [size, 0, size]


def test_another_thread_reads_the_history_while_steps_go_on(device, model):
    optimizer = fastrank.SGD(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    tracker = RankTracker(model, optimizer)
    optimizer.step()
    seen, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen.append(tracker.latest()["0.weight"])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(3 if device.type == "cpu" else 300):
        optimizer.step()
    over.set()
    reader.join()
    steps = [row["step"] for row in seen]
    assert steps == sorted(steps)
    assert {(row["rank_lower"], row["rank_upper"]) for row in seen} == {(36, 36)}
    frame = tracker.to_pandas()
    assert frame.step.tolist() == [s for s in range(1, 5 if device.type == "cpu" else 302) for _ in range(3)]


def test_sources_of_a_plan_may_be_read_anew(device):
    """A parameter that is set to itself gives other views of the same memory: nothing is planned again."""
    layer = nn.Linear(20, 24, bias=False, device=device)
    tracker = RankTracker(layer)
    tracker.step()
    first = plan_of(tracker)
    weight = layer.weight
    layer.weight = None
    layer.weight = weight
    tracker.step()
    assert plan_of(tracker) is first
    layer.weight = nn.Parameter(weight.detach().clone())
    tracker.step()
    assert plan_of(tracker) is not first
