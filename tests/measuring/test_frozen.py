"""A rank costs only where something can have changed: frozen weights repeat their row until they are written."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from fastrank import RankTracker
from fastrank.measuring import device_measurer


@pytest.fixture
def measured(monkeypatch):
    """The sides of all matrices that have been measured since this list was last cleared, the smaller one first."""
    shapes, stock = [], device_measurer.ChosenMeasurer.measure

    def counted(self, sources, *arguments):
        shapes.extend(tuple(sorted(source.matrix.shape)) for source in sources)
        return stock(self, sources, *arguments)

    monkeypatch.setattr(device_measurer.ChosenMeasurer, "measure", counted)
    return shapes


def adapters():
    """A frozen base, of which some is trained, with weights of shapes that tell them apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 8), nn.Linear(8, 8)).requires_grad_(False)
    model[1].requires_grad_(True)
    return model


def test_only_what_is_trained_is_measured_again(measured):
    model = adapters()
    tracker = RankTracker(model)
    tracker.step()
    assert sorted(measured) == [(4, 5), (4, 8), (8, 8)]
    first = tracker.latest()
    for _ in range(4):
        measured.clear()
        with torch.no_grad():
            model[1].weight.mul_(0.5)
        tracker.step()
        assert measured == [(4, 8)]
    latest = tracker.latest()
    for name in ("0.weight", "2.weight"):
        assert latest[name] == {**first[name], "step": 5}
    assert latest["1.weight"]["spectral_norm"] == pytest.approx(first["1.weight"]["spectral_norm"] / 16)
    assert [row["name"] for row in tracker.to_arrow().to_pylist()] == ["0.weight", "1.weight", "2.weight"] * 5


@torch.no_grad()
def write_in_place(layer):
    layer.weight.fill_(1.0)


def write_past_the_count(layer):
    layer.weight.data.fill_(1.0)


def replace_the_data(layer):
    layer.weight.data = torch.ones(8, 8)


def write_a_matrix_of_the_same_kind(layer):
    """All rows are the first one, or its negative: the sum of all is 0."""
    layer.weight.data[:] = layer.weight.data[:1].clone()
    layer.weight.data[4:] *= -1


def look_at_the_data_otherwise(layer):
    layer.weight.data = layer.weight.data.view(8, 8)[:1].expand(8, 8)


def replace_the_parameter(layer):
    layer.weight = nn.Parameter(torch.ones(8, 8), requires_grad=False)


@torch.inference_mode()
def replace_in_inference_mode(layer):
    layer.weight = nn.Parameter(torch.ones(8, 8), requires_grad=False)


def load(layer):
    layer.load_state_dict({"weight": torch.ones(8, 8), "bias": torch.zeros(8)})


@pytest.mark.parametrize(
    "change",
    [
        *(
            write_in_place,
            write_past_the_count,
            write_a_matrix_of_the_same_kind,
            look_at_the_data_otherwise,
            replace_the_data,
        ),
        *(replace_the_parameter, replace_in_inference_mode, load),
    ],
)
def test_a_frozen_weight_that_was_changed_is_measured_again(change):
    model = adapters()
    tracker = RankTracker(model)
    for _ in range(3):
        tracker.step()
    assert tracker.latest()["2.weight"]["rank_lower"] == 8
    change(model[2])
    tracker.step()
    assert tracker.latest()["2.weight"]["rank_upper"] == 1
    assert tracker.latest()["0.weight"]["rank_upper"] == 4


def test_weights_that_are_replaced_at_every_step_never_repeat_a_row():
    """As momentum encoders do. Memory that is free again may be given to the next weight, at the same address."""
    model = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False)
    tracker = RankTracker(model, every=2)
    for _ in range(11):
        model[0].weight.data = model[0].weight.data * 0.5
        tracker.step()
    norms = tracker.to_pandas().frobenius_norm.tolist()
    assert len(norms) == len(set(norms)) == 6


def test_weights_change_between_frozen_and_trained(measured):
    model = adapters()
    tracker = RankTracker(model)
    tracker.step()
    model[2].requires_grad_(True)
    model[1].requires_grad_(False)
    measured.clear()
    tracker.step()
    assert sorted(measured) == [(4, 5), (4, 8), (8, 8)]  # another list of frozen ones: measured once
    measured.clear()
    tracker.step()
    assert measured == [(8, 8)]
    model.requires_grad_(True)
    measured.clear()
    tracker.step()
    assert sorted(measured) == [(4, 5), (4, 8), (8, 8)]


def test_a_model_that_is_all_frozen(measured):
    model = adapters().requires_grad_(False)
    tracker = RankTracker(model)
    for _ in range(3):
        tracker.step()
    assert len(measured) == 3
    assert tracker.to_pandas().rank_lower.tolist() == [4, 4, 8] * 3


def test_a_whole_spectrum_of_frozen_weights_is_there_when_it_is_due(measured):
    model = adapters()
    tracker = RankTracker(model, spectrum=["effective_rank", "singular_values"], spectrum_every=3)
    for step in range(1, 7):
        if step == 4:
            with torch.no_grad():
                model[2].weight.mul_(2)
        tracker.step()
    rows = [row for row in tracker.to_arrow().to_pylist() if row["name"] == "2.weight"]
    assert [row["effective_rank"] is not None for row in rows] == [True, False, True, False, False, True]
    assert [row["singular_values"] is not None for row in rows] == [True, False, True, False, False, True]
    assert rows[5]["singular_values"] == pytest.approx([2 * s for s in rows[2]["singular_values"]])
    assert rows[5]["effective_rank"] == pytest.approx(rows[0]["effective_rank"])


def test_a_frozen_weight_that_is_not_finite():
    model = adapters()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    tracker = RankTracker(model)
    for _ in range(2):
        tracker.step()
        assert tracker.latest()["2.weight"]["status"] == "NONFINITE"
    assert tracker.latest()["0.weight"]["rank_lower"] == 4


class FirstRow(nn.Module):
    def forward(self, x):
        return x * (torch.arange(len(x)) == 0)[:, None]


def test_a_frozen_weight_that_is_made(measured):
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    tracker = RankTracker(model)
    for _ in range(3):
        tracker.step()
    assert measured.count((5, 6)) == 3  # nobody knows what else it is made from
    parametrize.register_parametrization(model[0], "weight", FirstRow())
    tracker.step()
    assert tracker.latest()["0.weight"]["rank_upper"] == 1


def test_a_resumed_run_measures_frozen_weights_anew_and_goes_on_as_before():
    model = adapters()
    straight = RankTracker(model)
    for _ in range(4):
        straight.step()
    state = straight.state_dict()
    resumed = RankTracker(model)
    resumed.load_state_dict(state)
    for tracker in (straight, resumed):
        tracker.step()
    assert straight.to_arrow().equals(resumed.to_arrow())
