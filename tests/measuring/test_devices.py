"""Matrices on several devices: each is measured where it is, and its values arrive in its own row.

A machine without GPUs has one device, so some matrices are only said to be elsewhere: `place_of` is replaced.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastrank import RankTracker, Status, Tolerance, backend
from fastrank.measuring import device_measurer, devices
from fastrank.measuring.devices import Measurer

HERE, AWAY = torch.device("cpu"), torch.device("cpu", 0)  # equal for PyTorch's work, and different as keys
RANKS = [3, 1, 4, 2, 5]
TOLERANCES = [Tolerance(), Tolerance(0.1, "spectral")]


@pytest.fixture
def away(monkeypatch):
    """Numbers of rows: a matrix that has so many is said to be on another device."""
    numbers = {7, 9}
    monkeypatch.setattr(devices, "place_of", lambda matrix: AWAY if matrix.shape[0] in numbers else HERE)
    return numbers


@pytest.fixture
def measured(monkeypatch):
    """(device, rows) of each matrix that was measured since this list was last cleared."""
    found, stock = [], device_measurer.ChosenMeasurer.measure

    def measure(self, sources, *arguments):
        found.extend((self._device, source.matrix.shape[0]) for source in sources)
        return stock(self, sources, *arguments)

    monkeypatch.setattr(device_measurer.ChosenMeasurer, "measure", measure)
    return found


def layers():
    """Matrices of 6, 7, 8, 9 and 10 rows, of the ranks RANKS."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(5 + i, 6 + i, bias=False) for i in range(5)))
    for layer, rank in zip(model, RANKS, strict=True):
        rows, columns = layer.weight.shape
        layer.weight.data = torch.randn(rows, rank) @ torch.randn(rank, columns)
    return model


def change(model, step):
    """Weights that are larger at each step, of the same ranks."""
    with torch.no_grad():
        for i, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.mul_(1 + 0.1 * (i + step))


def assert_true(model, tracker):
    """The last row of each matrix is what is true of that matrix."""
    for i, (name, row) in enumerate(tracker.latest().items()):
        sigma = torch.linalg.svdvals(model[i].weight.detach().double())
        assert row["rank_lower"] == row["rank_upper"] == int((sigma > 1e-3 * sigma.norm()).sum()) == RANKS[i], name
        assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-6), name
        assert row["spectral_norm"] == pytest.approx(sigma[0].item(), rel=1e-5), name


def run(model, tracker, steps=4):
    for step in range(steps):
        change(model, step)
        tracker.step()
    return tracker


def test_each_is_measured_where_it_is(away, measured, monkeypatch):
    """By what serves its device: here by kernels of Numba's, and away by PyTorch."""
    monkeypatch.setattr(backend, "compiled_serve", lambda device: device == HERE and not backend.why_numba_fails())
    model = layers()
    tracker = RankTracker(model)
    for step in range(3):
        measured.clear()
        change(model, step)
        tracker.step()
        assert sorted((rows, device == AWAY) for device, rows in measured) == [
            (6, False), (7, True), (8, False), (9, True), (10, False),
        ]  # fmt: skip
        assert_true(model, tracker)
    ways = {device: own.measurer._trained._without_sketch for device, own in tracker._measurer._of.items()}
    assert ways[AWAY] is tracker._measurer._of[AWAY].measurer._trained._stacks
    assert (ways[HERE] is tracker._measurer._home._trained._compiled) is not bool(backend.why_numba_fails())


def test_values_in_other_rows_would_be_seen(away, monkeypatch):
    """The negative control of this file: values in the order of the devices, not of the matrices."""
    monkeypatch.setattr(Measurer, "_places", lambda self, order: torch.arange(len(order)))
    model = layers()
    tracker = run(model, RankTracker(model), 1)
    with pytest.raises(AssertionError):
        assert_true(model, tracker)


@pytest.mark.parametrize("kind", ["weights", "frozen", "effective", "beside"])
def test_a_divided_run_is_that_of_one_device(kind, away, counting):
    """To the bit, with frozen ones on both devices, with copies, with gradients that are absent, spectra and all."""
    options = {"tolerance": TOLERANCES, "spectrum": ("effective_rank", "singular_values"), "spectrum_every": 2}
    model = layers()
    if kind == "frozen":
        for layer in model[:2]:
            layer.requires_grad_(False)
    elif kind == "effective":
        for layer in model[1:3]:
            parametrizations.weight_norm(layer)
    elif kind == "beside":
        options |= {"of": ("weight", "gradient"), "track": {"product": lambda model: model[3].weight @ model[2].weight}}
    tables = []
    for numbers in ({7, 9}, set()):
        away.clear()
        away |= numbers
        own = copy.deepcopy(model)
        if kind == "beside":  # the others are absent
            own[1].weight.grad = own[1].weight.detach().clone()
        tracker = run(own, RankTracker(own, **options))
        assert len(tracker._measurer._of) == (2 if numbers else 1)
        tables.append(tracker.to_arrow())
    assert tables[0].equals(tables[1])
    if kind == "beside":
        rows = tables[0].to_pylist()
        assert sorted({row["name"] for row in rows if row["status"] == Status.ABSENT.name}) == [
            f"gradient/{i}.weight" for i in (0, 2, 3, 4)
        ]


def test_only_what_is_trained_is_measured_again(away, measured):
    """On either device."""
    model = layers()
    for layer in model[:4]:
        layer.requires_grad_(False)
    tracker = run(model, RankTracker(model), 1)
    measured.clear()
    run(model, tracker, 2)
    assert measured == [(HERE, 10)] * 2
    assert_true(model, tracker)


def test_matrices_that_move_are_measured_where_they_are_now(away, measured):
    model = layers()
    tracker = run(model, RankTracker(model), 2)
    for numbers in ({6, 7}, {6, 7, 8, 9, 10}, set(), {8}):
        away.clear()
        away |= numbers
        for layer in model:  # as a move does, which gives each parameter other memory
            layer.weight.data = layer.weight.data.clone()
        measured.clear()
        run(model, tracker, 1)
        assert {rows for device, rows in measured if device == AWAY} == numbers
        assert len(measured) == 5
        assert_true(model, tracker)
        assert set(tracker._measurer._of) == ({HERE, AWAY} if numbers else {HERE})  # what a device had is given up


def test_copies_are_not_kept_alive(away):
    model = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(5 + i, 6 + i)) for i in range(2)))
    tracker = RankTracker(model)
    tracker.step()
    assert (tracker._measurer._sources, tracker._measurer._parts) == (None, [])


@pytest.fixture
def warm(monkeypatch):
    """Searches for sigma_1 begin where the last one ended, so that a lost warm start shows in the bits."""
    monkeypatch.setattr(backend, "compiled_serve", lambda device: False)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("later", [{7, 9}, {6}, set()], ids=["as-they-were", "divided-otherwise", "on-one-device"])
def test_state_goes_on_wherever_the_matrices_are(away, later):
    model = layers()
    tracker = run(model, RankTracker(model), 2)
    state = copy.deepcopy(tracker.state_dict())
    twin = copy.deepcopy(model)
    run(model, tracker, 2)
    away.clear()
    away |= later
    other = RankTracker(twin)
    other.load_state_dict(state)
    own = other._measurer.state(other._weights.sources())
    assert set(own["starts"]) == set(range(5))
    run(twin, other, 2)
    assert other.to_arrow().equals(tracker.to_arrow())


@pytest.mark.usefixtures("warm")
def test_the_state_of_one_device_is_as_it_always_was(away):
    """What was saved before there were several devices is loaded, on one and on two."""
    away.clear()
    model = layers()
    tracker = run(model, RankTracker(model), 2)
    saved = tracker._measurer.state(tracker._weights.sources())
    assert set(saved) == {"trained", "starts", "sketches"}
    assert saved["trained"] == [0, 1, 2, 3, 4]
    for numbers in (set(), {7, 9}):
        away |= numbers
        measurer = RankTracker(model)._measurer
        measurer.load(tracker._weights.sources(), saved)
        now = measurer.state(tracker._weights.sources())
        assert all(torch.equal(now["starts"][i], start) for i, start in saved["starts"].items())
        assert now["starts"].keys() == saved["starts"].keys()
        assert (now["trained"], now["sketches"]) == (saved["trained"], None)
    assert [part["matrices"] for part in now["devices"]] == [[0, 2, 4], [1, 3]]


def test_no_graph_captures_several_devices(away, captured):
    model = layers()
    tracker = run(model, RankTracker(model), 1)
    sources = tracker._weights.sources()
    with captured():
        for call in (tracker.step, lambda: tracker._measurer.prepare(sources)):
            with pytest.raises(RuntimeError, match=r"on cpu, cpu:0 and .* rows on cpu: make the tracker without"):
                call()
    away.clear()
    one = RankTracker(model)
    one.step()
    with captured():
        one.step()
