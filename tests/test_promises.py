"""The promises: training is never changed, never a false number, overflow leaves no trace, generators untouched."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import fastrank
from fastrank import RankTracker

OPTIMIZERS = {
    "fastrank.SGD": lambda p: fastrank.SGD(p, lr=0.3, momentum=0.9, weight_decay=1e-2),
    "torch.SGD": lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tracking_changes_no_bit_of_training(mlp, train, name, counting):
    """Dropout draws from the global generator, so a draw by the tracker would change the masks."""
    mlp.insert(3, nn.Dropout(0.2))
    runs = []
    for tracked in (False, True):
        model = copy.deepcopy(mlp)
        optimizer = OPTIMIZERS[name](model.parameters())
        tracker = RankTracker(model, optimizer, spectrum=["singular_values"]) if tracked else None
        with torch.random.fork_rng():
            torch.manual_seed(1)
            train(model, optimizer, 30)
            after = torch.get_rng_state()
        runs.append((model.state_dict(), optimizer.state_dict(), after))
    assert tracker.to_arrow().num_rows == 30 * 3
    for key, value in runs[0][0].items():
        assert torch.equal(value, runs[1][0][key]), key
    for key, state in runs[0][1]["state"].items():
        for field, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(runs[1][1]["state"][key][field]))
    assert torch.equal(runs[0][2], runs[1][2])


def test_global_generators_are_never_touched(mlp, train, counting):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the global one is the point)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    tracker = RankTracker(mlp, optimizer, spectrum=["effective_rank"])
    train(mlp, optimizer, 3)
    tracker.load_state_dict(tracker.state_dict())
    fastrank.linalg.svd_lowrank(mlp[3].weight, 2)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_matrix_that_is_not_finite_has_null_metrics_and_harms_no_other(mlp, train, poison, counting):
    spectrum = ["effective_rank", "singular_values"]
    with torch.no_grad():
        mlp[0].weight.copy_(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))
    twin = copy.deepcopy(mlp)
    healthy = RankTracker(twin, spectrum=spectrum)
    tracker = RankTracker(mlp, spectrum=spectrum)
    for i in range(4):
        with torch.no_grad():
            for model in (mlp, twin):
                model[0].weight.mul_(0.9)
                model[5].weight.mul_(0.9)
            mlp[3].weight[2, 5] = poison if i in (1, 2) else 0.25
            twin[3].weight[2, 5] = 0.25
        tracker.step()
        healthy.step()
    rows, expected = tracker.to_arrow().to_pylist(), healthy.to_arrow().to_pylist()
    for row, other in zip(rows, expected, strict=True):
        if row["name"] == "3.weight" and row["step"] in (2, 3):
            assert row["status"] == "NONFINITE"
            nulls = {k for k, v in row.items() if v is None}
            assert nulls == set(row) - {"step", "name", "rows", "cols", "status"}
        else:
            assert row["status"] == "OK"
            assert row["rank_lower"] == other["rank_lower"]
            assert row["rank_upper"] == other["rank_upper"]
            if row["name"] != "3.weight":
                assert row == other, "a neighbour noticed"


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_leaves_no_trace(mlp, train, fused):
    """GradScaler skips an unfused optimizer's step itself, and leaves it to a fused one."""
    optimizer = fastrank.SGD(mlp.parameters(), lr=0.1, momentum=0.9, fused=fused)
    tracker = RankTracker(mlp, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def step(poison):
        optimizer.zero_grad()
        loss = mlp(torch.ones(4, 8)).sum()
        scaler.scale(loss).backward()
        if poison:
            mlp[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()

    for poison, count in ((True, 0), (False, 1), (True, 1), (False, 2)):
        before = [p.detach().clone() for p in mlp.parameters()], copy.deepcopy(optimizer.state_dict())
        step(poison)
        assert tracker.to_arrow().num_rows == 3 * count
        if poison:
            assert all(torch.equal(a, b) for a, b in zip(before[0], mlp.parameters(), strict=True))
            after = optimizer.state_dict()["state"]
            assert after.keys() == before[1]["state"].keys()
            for key, state in before[1]["state"].items():
                assert torch.equal(state["momentum_buffer"], after[key]["momentum_buffer"])
    assert tracker.to_pandas().step.unique().tolist() == [1, 2]


def test_an_overflow_the_host_does_not_know_of_is_dropped_when_rows_arrive():
    """On CUDA the flag stays on the device: the row is marked there. The ring is the same on a CPU."""
    from fastrank.history import SKIPPED
    from fastrank.history.ring import Ring

    ring, shapes = Ring(2, 1, torch.device("cpu"), capacity=3), ((2, 2), (2, 3))
    for i, step in enumerate([1, SKIPPED, 2, SKIPPED, SKIPPED, SKIPPED, 3]):
        sigma = torch.full((4,), float(i)) if i in (1, 2) else None
        ring.append(torch.tensor(step), torch.full((2, 1), float(i)), sigma, shapes)
    ring.drain(blocks := [])
    assert [b.steps.tolist() for b in blocks] == [[1, 2], [3]]
    assert [b.values[:, 0, 0].tolist() for b in blocks] == [[0.0, 2.0], [6.0]]
    assert {i: s.tolist() for i, s in blocks[0].spectra.items()} == {1: [2.0] * 4}


def test_a_step_by_hand_with_an_overflow_flag(mlp):
    tracker = RankTracker(mlp)
    tracker.step(found_inf=torch.ones(()))
    assert tracker.latest() == {}
    tracker.step(found_inf=torch.zeros(1))
    assert tracker.latest()["0.weight"]["step"] == 1
