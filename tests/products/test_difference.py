"""Differences: W - W_0 as the tracker's matrices, against every kind of reference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastrank
from fastrank import RankTracker


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"attention": nn.MultiheadAttention(6, 2), "head": nn.Linear(6, 3)})


def add(layer, rank):
    """Adds a matrix of this rank to a weight; returns the weight as it was."""
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += torch.randn(len(before), rank) @ torch.randn(rank, before.shape[1])
    return before


@pytest.mark.parametrize("kind", ["now", "model", "state", "state of a wrapper"])
def test_the_rank_of_what_was_added(model, kind):
    state = copy.deepcopy(model.state_dict())
    references = {"now": "now", "model": copy.deepcopy(model), "state": state}
    references["state of a wrapper"] = {f"module.{key}": value for key, value in state.items()}
    track = fastrank.difference(model, references[kind])
    before = add(model["head"], 1)
    tracker = RankTracker(model, include=[], track=track)
    assert tracker.names == [
        *(f"difference/attention.in_proj_weight[{part}]" for part in "qkv"),
        "difference/attention.out_proj.weight",
        "difference/head.weight",
    ]
    tracker.step()
    *others, head = tracker.latest().values()
    assert head["rank_lower"] == head["rank_upper"] == 1
    difference = (model["head"].weight.detach() - before).norm().item()
    assert head["frobenius_norm"] == pytest.approx(difference, rel=1e-6)
    assert all(row["rank_lower"] == row["frobenius_norm"] == 0 for row in others)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_differences_are_computed_in_fp32_or_fp64(model, dtype):
    model.to(dtype)
    track = fastrank.difference(model, name="since", include=["head.weight"])
    before = add(model["head"], 2)
    (made,) = track["since"](model).values()
    assert made.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = model["head"].weight.detach().double() - before.double()
    torch.testing.assert_close(made.double(), expected, rtol=1e-7, atol=0)


def test_of_effective_weights(model):
    parametrizations.weight_norm(model["head"])
    other = copy.deepcopy(model)
    track = fastrank.difference(model, other, include=["head.*"])
    with torch.no_grad():
        model["head"].parametrizations.weight.original0.mul_(3)
    (made,) = track["difference"](model).values()
    torch.testing.assert_close(made, 2 * other["head"].weight.detach())
    with pytest.raises(ValueError, match=r"no 'head\.weight'; its layer makes it .* give a model instead"):
        fastrank.difference(model, model.state_dict(), include=["head.weight"])


def test_a_reference_that_does_not_fit_is_named(model):
    with pytest.raises(ValueError, match=r"reference: 'head\.weight' is \(3, 6\) in the model, and \(4, 6\) there"):
        fastrank.difference(model, nn.ModuleDict({**model, "head": nn.Linear(6, 4)}))
    with pytest.raises(ValueError, match=r"reference: the state dict has no 'attention\.in_proj_weight'"):
        fastrank.difference(model, {})
    with pytest.raises(ValueError, match=r"reference: the other model has no 'attention\.in_proj_weight\[q\]'"):
        fastrank.difference(model, nn.ModuleDict({"head": model["head"]}))
    with pytest.raises(TypeError, match="reference: expected a model, a state dict or 'now'"):
        fastrank.difference(model, "then")
    with pytest.raises(TypeError, match=r"difference: unexpected argument 'onclude'; .* include, exclude"):
        fastrank.difference(model, onclude=["head.*"])
