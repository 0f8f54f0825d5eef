"""Weights are read again as soon as anything about them is different, and are not where nothing is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.nn.utils import parametrizations, prune

from fastrank import guard
from fastrank.weights import Choice, TrackedWeights, tracked

ALL = Choice(None, None, None, "all", "effective", {})


@pytest.fixture(params=["torch", "python"], autouse=True)
def _both_guards(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(guard, "VERSIONS", ("none",))


def network():
    torch.manual_seed(0)  # bits that are read in another dtype may be NaN, which equals nothing
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Conv2d(2, 3, 3))


def seen(weights):
    """All that there is to say of the matrices; a made one is another tensor every time."""
    return [
        (
            s.matrix.tolist(),
            s.matrix.data_ptr() if s.offset is not None else None,
            *(s.matrix.shape, s.matrix.stride(), s.matrix.dtype, s.offset, id(s.parameter), s.frozen),
        )
        for s in weights.sources()
    ]


def other(weight):
    return Parameter(torch.randn_like(weight))


def at_the_same_address(weight, shape, strides, dtype=torch.float32):
    weight.data = torch.empty(0, dtype=dtype).set_(weight.untyped_storage(), 0, shape, strides)


CHANGES = {
    "module": lambda m: setattr(m[1], "0", nn.Linear(4, 4)),
    "module-on-the-way": lambda m: setattr(m, "1", nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))),
    "entry-of-modules": lambda m: m[1]._modules.update({"1": nn.Linear(4, 4)}),
    "modules": lambda m: setattr(m[1], "_modules", {"0": nn.Linear(4, 4), "1": nn.Linear(4, 4)}),
    "swapped-modules": lambda m: m[1]._modules.update({"0": m[1][1], "1": m[1][0]}),
    "parameter": lambda m: setattr(m[0], "weight", other(m[0].weight)),
    "entry-of-parameters": lambda m: m[0]._parameters.update(weight=other(m[0].weight)),
    "parameters": lambda m: setattr(m[0], "_parameters", {"weight": other(m[0].weight), "bias": None}),
    "parameter-of-the-same-memory": lambda m: setattr(m[0], "weight", Parameter(m[0].weight.detach())),
    "memory": lambda m: setattr(m[0].weight, "data", torch.randn(4, 4)),
    "memory-next-to-it": lambda m: setattr(m[2].weight, "data", torch.randn(4, 2, 3, 3)[1:]),
    "shape": lambda m: at_the_same_address(m[0].weight, (2, 8), (8, 1)),
    "strides": lambda m: at_the_same_address(m[0].weight, (4, 4), (1, 4)),
    "dtype": lambda m: at_the_same_address(m[0].weight, (4, 4), (4, 1), torch.float16),
    "frozen": lambda m: m[0].weight.requires_grad_(False),
    "parametrized": lambda m: parametrizations.weight_norm(m[0]),
    "pruned": lambda m: prune.l1_unstructured(m[2], "weight", amount=5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
def test_whatever_changes_is_read_again(change, mixed):
    model = network()
    if mixed:
        parametrizations.weight_norm(model[1][0])
    weights = TrackedWeights(model, ALL)
    for _ in range(2):
        before = seen(weights)
        assert before == seen(weights)
    change(model)
    after = seen(weights)
    assert after != before
    assert after == seen(TrackedWeights(model, ALL))
    assert after == seen(weights)


def test_a_buffer_that_takes_the_place_of_a_parameter():
    model = network()
    weights = TrackedWeights(model, ALL)
    weights.sources()
    del model[0].weight
    for value in (1.0, 2.0):
        model[0].register_buffer("weight", torch.full((4, 4), value))
        assert weights.sources()[0].matrix.eq(value).all()


@pytest.mark.parametrize("taken", [lambda m: m[1]._modules.pop("1"), lambda m: m[0]._parameters.pop("weight")])
def test_what_is_gone_is_missed(taken):
    model = network()
    weights = TrackedWeights(model, ALL)
    weights.sources()
    taken(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no longer part of the model"):
            weights.sources()


def test_what_has_not_changed_is_not_read(monkeypatch):
    """Not even where values have, or where other modules and parameters came and went."""
    model = network()
    weights = TrackedWeights(model, ALL)
    before = weights.sources()
    monkeypatch.setattr(tracked.TrackedWeight, "read", None)
    with torch.no_grad():
        model[0].weight += 1
    model[0].bias = None
    model.append(nn.Linear(3, 3))
    after = weights.sources()
    assert all(a is b for a, b in zip(after, before, strict=True))
    after.clear()
    assert len(weights.sources()) == 4


def test_a_made_weight_is_made_every_time():
    model = network()
    parametrizations.weight_norm(model[1][0])
    weights = TrackedWeights(model, ALL)
    before = weights.sources()
    with torch.no_grad():
        model[1][0].parametrizations.weight.original0.mul_(3)
    after = weights.sources()
    assert [a is b for a, b in zip(after, before, strict=True)] == [True, False, True, True]
    torch.testing.assert_close(after[1].matrix, before[1].matrix * 3)
