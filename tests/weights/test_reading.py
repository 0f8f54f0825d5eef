"""Reading a weight changes nothing, whatever the code that makes it does; and what that code gets wrong is named."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm
from torch.nn.utils.parametrizations import spectral_norm

from fastrank import RankTracker

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


class Selfish(nn.Module):
    """Writes what it is given, counts, keeps, and draws from every global generator."""

    def __init__(self):
        super().__init__()
        self.calls, self.kept = 0, torch.zeros(())

    def forward(self, x):
        with torch.no_grad():
            x.clamp_(-0.1, 0.1)
        self.calls += 1
        self.kept = self.kept + 1
        random.random()
        np.random.rand()  # noqa: NPY002 (the global one is the point)
        torch.rand(1)
        return x * 2


class Failing(nn.Module):
    def forward(self, x):
        self.training = True
        raise ZeroDivisionError


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def registered(module, layer=None):
    layer = layer or nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", module, unsafe=True)
    return layer


def test_whatever_a_parametrization_does_is_put_back():
    layer = registered(Selfish())
    own = layer.parametrizations.weight
    before = own.original.detach().clone(), own.original._version, own[0].calls, own[0].kept
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    own.requires_grad_(False)
    tracker = RankTracker(layer)
    for _ in range(3):
        tracker.step()
    assert torch.equal(own.original, before[0])
    assert (own.original._version, own[0].calls) == before[1:3]
    assert own[0].kept is before[3]
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_recurrent_layer_keeps_its_list_of_weights():
    layer = weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    layer(torch.randn(2, 3))
    before = [id(weight) for weight in layer._flat_weights]
    tracker = RankTracker(layer)
    tracker.step()
    assert [id(weight) for weight in layer._flat_weights] == before
    assert tracker.latest()["weight_hh_l0[i]"]["rank_lower"] == 4


def test_a_cached_parametrization_keeps_its_gradient():
    layer = spectral_norm(nn.Linear(6, 6))
    inner = registered(nn.Linear(6, 6, bias=False), nn.Linear(6, 6))
    parametrizations.orthogonal(inner.parametrizations.weight[0])
    for model in (layer, inner):
        tracker = RankTracker(model)
        with parametrize.cached():
            tracker.step()
            model(torch.randn(2, 6)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_pruned_originals_of_a_parametrization():
    layer = parametrizations.weight_norm(nn.Linear(6, 6))
    prune.l1_unstructured(layer.parametrizations.weight, "original1", amount=0.5)
    weight = layer.parametrizations.weight.original1
    tracker = RankTracker(layer)
    tracker.step()
    assert layer.parametrizations.weight.original1 is weight
    assert tracker.latest()["weight"]["frobenius_norm"] == pytest.approx(layer.weight.norm().item(), rel=1e-6)


def test_pruned_directions_of_the_older_weight_norm():
    """The direction is pruned at the next forward; what is read is as if that had been."""
    layer = weight_norm(nn.Linear(6, 6))
    prune.ln_structured(layer, "weight_v", amount=4, n=2, dim=1)
    tracker = RankTracker(layer)
    tracker.step()
    assert "weight" in tracker.latest()
    assert tracker.latest()["weight"]["rank_upper"] == 2


def test_an_error_of_a_parametrization_is_the_users_and_names_the_weight():
    model = nn.Sequential(nn.Linear(6, 6))
    tracker = RankTracker(model)
    registered(Failing(), model[0])
    model.eval()
    with pytest.raises(ZeroDivisionError) as caught:
        tracker.step()
    assert "'0.weight'" in caught.value.__notes__[0]
    assert not any(module.training for module in model.modules())
    parametrize.remove_parametrizations(model[0], "weight", leave_parametrized=False)
    tracker.step()
    registered(Pair(), model[0])
    with pytest.raises(RuntimeError, match="the parametrization of 'weight' returns a tuple, and no tensor"):
        tracker.step()


def test_stored_tensors_are_not_those_that_are_made_later():
    """Before the layer is parametrized they are the weight itself; afterwards nothing has its name."""
    model = nn.Sequential(nn.Linear(6, 6))
    tracker = RankTracker(model, weights="raw")
    registered(Selfish(), model[0])
    with pytest.raises(RuntimeError, match=r"'0\.weight' is no longer part of the model"):
        tracker.step()


class Adapter(nn.Module):
    """A parametrization with parameters of its own, one of which is parametrized itself."""

    def __init__(self):
        super().__init__()
        self.down, self.mix = nn.Parameter(torch.randn(4, 4)), parametrizations.weight_norm(nn.Conv2d(4, 4, 2))

    def forward(self, x):
        return x + self.down.sum()


def test_stored_tensors_are_seen_by_those_that_store_them():
    layer = nn.LSTM(4, 4, bias=False)
    parametrize.register_parametrization(layer, "weight_hh_l0", Adapter())
    own = "parametrizations.weight_hh_l0"
    assert RankTracker(layer, weights="raw").names == [
        *(f"weight_ih_l0[{gate}]" for gate in "ifgo"),
        *(f"{own}.original[{gate}]" for gate in "ifgo"),
        f"{own}.0.down",
        f"{own}.0.mix.parametrizations.weight.original0",
        f"{own}.0.mix.parametrizations.weight.original1",
    ]
    assert len(RankTracker(layer).names) == 8


@pytest.mark.parametrize("container", [nn.ModuleDict, lambda modules: nn.ModuleList(modules.values())])
def test_a_module_of_that_name_is_none(container):
    model = nn.Module()
    model.parametrizations = container({"a": nn.Conv2d(4, 4, 3, groups=2), "b": spectral_norm(nn.Linear(3, 3))})
    shapes = [c.shape for c in RankTracker(model).coverage() if c.matrices]
    assert shapes == [(4, 2, 3, 3), (3, 3)]


def test_names_stay_with_their_weights_whatever_is_added():
    model = nn.Module()
    model.module = nn.Linear(3, 4)
    tracker = RankTracker(model)
    assert tracker.names == ["weight"]
    model.weight = nn.Parameter(torch.randn(5, 5))
    tracker.step()
    model.module = nn.Linear(3, 4)
    tracker.step()
    assert (tracker.latest()["weight"]["rows"], tracker.latest()["weight"]["cols"]) == (4, 3)


def test_only_names_that_wrappers_words_tell_apart_are_whole():
    model = nn.Module()
    model.module, model.inner = nn.Linear(3, 4, bias=False), nn.DataParallel(nn.Linear(4, 4, bias=False))
    model.weight = nn.Parameter(torch.randn(5, 5))
    tracker = RankTracker(model)
    assert sorted(tracker.names) == ["inner.weight", "module.weight", "weight"]
    model.inner = nn.Linear(4, 4, bias=False)  # as it was before it was wrapped
    tracker.step()
    assert len(tracker.latest()) == 3


def test_a_parameter_called_like_a_wrapper_has_its_name():
    model = nn.ParameterDict({"module": torch.eye(3), "d": torch.eye(2)})
    assert sorted(RankTracker(model).names) == ["d", "module"]


def test_a_model_with_very_many_ways_to_a_module_is_walked_at_once():
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    for _ in range(40):
        layer = nn.Linear(2, 2)
        layer.first, layer.second = layers[-2:]
        layers.append(layer)
    assert len(RankTracker(layers[-1]).names) == 42
