"""Weights that layers make, stack or keep frozen, measured by the kernels."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrizations, parametrize, prune

import fastrank
from fastrank import RankTracker, backend
from fastrank.weights.effective import make_weight
from fastrank.weights.layers import matrices_of

pytest.importorskip("triton")
from fastrank.measuring import frozen
from fastrank.measuring.sketch_measurer import SketchMeasurer

pytestmark = pytest.mark.usefixtures("served", "small_bases")


def assert_latest(tracker, expected):
    """The last row of each matrix has the norms and ranks of `expected`, matrices by name."""
    latest = tracker.latest()
    assert list(latest) == list(expected)
    for name, matrix in expected.items():
        sigma, row = torch.linalg.svdvals(matrix.detach().double()), latest[name]
        rank = int((sigma > 1e-3 * sigma.norm()).sum())
        assert (row["rows"], row["cols"]) == tuple(matrix.shape)
        assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-6), name
        assert (row["rank_lower"], row["rank_upper"], row["status"]) == (rank, rank, "OK"), name


@torch.no_grad()
def low(parameter, rank, seed=0):
    """Makes a weight's first axis against the others a matrix of this rank."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = parameter.shape[0], parameter[0].numel()
    made = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, cols, generator=generator)
    parameter.copy_(made.view_as(parameter))


@pytest.fixture
def fused(monkeypatch):
    """How many parameters each step of an optimizer has left to its companion."""
    counts, stock = [], SketchMeasurer.fuse

    def fuse(self, *arguments):
        counts.append(len(answer := stock(self, *arguments)))
        return answer

    monkeypatch.setattr(SketchMeasurer, "fuse", fuse)
    return counts


def step(model, optimizer):
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = parameter.detach() * 0.5
    optimizer.step()


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "pruned"])
def test_a_made_weight_is_measured_as_the_step_leaves_it(kind, device, fused):
    def network():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(18, 20, bias=False), nn.Linear(20, 17, bias=False))
        low(model[0].weight, 3)
        low(model[1].weight, 4)
        if kind == "pruned":
            prune.ln_structured(model[1], "weight", amount=15, n=2, dim=0)
        else:
            getattr(parametrizations, kind)(model[1])
        return model.to(device)

    model, twin = network(), network()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)
    untracked = fastrank.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        step(model, optimizer)
        assert_latest(tracker, {"0.weight": model[0].weight, "1.weight": make_weight(model[1], "weight")})
        step(twin, untracked)
    assert fused == [1, 1]  # the plain weight; the other is made after its parts were stepped
    for name, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_gates_are_stepped_and_sketched_in_one_pass(device, fused):
    model = nn.LSTM(18, 17, bias=False).to(device)
    low(model.weight_ih_l0, 5)
    low(model.weight_hh_l0[17:34], 2)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)
    step(model, optimizer)
    expected = {
        f"{name}[{gate}]": matrix
        for name in ("weight_ih_l0", "weight_hh_l0")
        for gate, matrix in matrices_of(getattr(model, name).detach(), model, name).items()
    }
    assert_latest(tracker, expected)
    assert fused == [2]


def test_groups_are_views_and_transposed_kernels_copies(device):
    model = nn.Sequential(nn.Conv2d(4, 34, 3, groups=2, bias=False), nn.ConvTranspose2d(17, 18, 2, bias=False))
    low(model[0].weight, 6)
    model = model.to(device)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)
    assert [source.offset for source in tracker._weights.sources()] == [0, 17 * 18, None]
    expected = dict(zip(["0.weight[0]", "0.weight[1]"], model[0].weight.flatten(1).chunk(2), strict=True))
    step(model, optimizer)
    assert_latest(tracker, {**expected, "1.weight": model[1].weight.transpose(0, 1).flatten(1)})


def test_frozen_matrices_are_measured_until_they_settle(device, monkeypatch, fused):
    monkeypatch.setattr(frozen, "SETTLING", 2)
    model = nn.Sequential(nn.Linear(17, 18, bias=False), nn.Linear(18, 19, bias=False), nn.Linear(19, 16, bias=False))
    for i, layer in enumerate(model):
        low(layer.weight, 3 + i)
    model = model.to(device).requires_grad_(False)
    model[1].requires_grad_(True)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)
    measured, stock = [], SketchMeasurer.measure

    def measure(self, sources, *arguments):
        measured.append(len(sources))
        return stock(self, sources, *arguments)

    monkeypatch.setattr(SketchMeasurer, "measure", measure)
    for _ in range(3):
        step(model, optimizer)
        assert_latest(tracker, {f"{i}.weight": layer.weight for i, layer in enumerate(model)})
    settled = [2, 1] * (2 if device.type == "cuda" else 1)
    assert measured == [*settled, *[1] * (6 - len(settled) - (1 if device.type == "cuda" else 2))]
    assert fused == [1, 1, 1]
    low(model[2].weight, 1)
    step(model, optimizer)
    assert_latest(tracker, {f"{i}.weight": layer.weight for i, layer in enumerate(model)})
    resumed = RankTracker(model)
    resumed.load_state_dict(tracker.state_dict())
    resumed.step()
    assert_latest(resumed, {f"{i}.weight": layer.weight for i, layer in enumerate(model)})


def test_two_optimizers_fuse_what_is_their_own(device, fused):
    model = nn.Sequential(nn.Linear(17, 18, bias=False), nn.Linear(40, 3, bias=False)).to(device)
    optimizers = [fastrank.SGD(layer.parameters(), lr=0.1 * i) for i, layer in enumerate(model, 1)]
    tracker = RankTracker(model, optimizers)
    for _ in range(2):
        for optimizer in optimizers:
            step(model, optimizer)
        assert_latest(tracker, {f"{i}.weight": layer.weight for i, layer in enumerate(model)})
    assert sum(fused) in (0, 4)  # a group of matrices is fused as a whole or not at all


def test_a_matrix_of_another_size_takes_the_place_of_one(device):
    model = nn.Sequential(nn.Linear(17, 18, bias=False), nn.Linear(18, 19, bias=False)).to(device)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer)
    step(model, optimizer)
    model[1] = nn.Linear(16, 21, bias=False).to(device)
    optimizer.step()
    assert_latest(tracker, {f"{i}.weight": layer.weight for i, layer in enumerate(model)})


MADE = []


class Doubled(nn.Module):
    """Notes the memory of every weight that it makes."""

    def forward(self, weight):
        doubled = 2 * weight
        MADE.append(StorageWeakRef(doubled.untyped_storage()))
        return doubled


@pytest.mark.parametrize("by_kernels", [True, False])
def test_a_weight_that_a_layer_makes_is_not_kept_until_the_next_step(device, monkeypatch, by_kernels):
    """It has the size of the layer, and the copy that the launches read is there already."""
    if not by_kernels:
        monkeypatch.setattr(backend, "kernels_serve", lambda device: False)
    layer = nn.Linear(18, 20, bias=False, device=device)
    parametrize.register_parametrization(layer, "weight", Doubled())
    tracker = RankTracker(layer)
    for _ in range(2):
        MADE.clear()
        tracker.step()
        assert MADE
        gc.collect()
        assert all(memory.expired() for memory in MADE)
