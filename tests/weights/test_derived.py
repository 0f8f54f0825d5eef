"""Derived matrices: what functions of a model make, as rows of the history."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from beside_weights import TRACK, assert_row, backward, product, two_layers
from torch import nn
from torch.nn.utils import parametrizations

from fastrank import RankTracker

MADE = ["product", "stack[0]", "stack[1]", "both/first", "both/pair[0]", "both/pair[1]"]


@pytest.fixture
def model():
    return two_layers()


def test_a_function_gives_a_matrix_a_stack_or_a_dictionary(model, counting):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = RankTracker(model, optimizer, track=TRACK)
    assert tracker.names == ["0.weight", "2.weight", *MADE]
    for step in range(3):
        backward(model, step)
        optimizer.step()
        latest = tracker.latest()
        assert list(latest) == tracker.names
        first, last = model[0].weight, model[2].weight
        for name, matrix in zip(MADE, [product(model), first, first, first, last, last], strict=True):
            assert_row(latest[name], matrix)
    rows = [row for row in tracker.coverage() if row.module == "track"]
    assert [row.name for row in rows] == ["product", "stack", "both/first", "both/pair"]
    assert rows[1].matrices == ("stack[0]", "stack[1]")
    assert "product     5x6    track   1 matrix" in str(tracker.coverage())


def test_only_what_functions_make(model):
    tracker = RankTracker(model, include=[], track={"product": product})
    tracker.step()
    assert tracker.names == ["product"]
    assert tracker.full_rank == 5
    with pytest.raises(ValueError, match="nothing to track"):
        RankTracker(model, include=[])


def test_functions_see_a_model_that_keeps_its_statistics():
    """In training mode, a spectral norm's vectors change whenever its weight is read, and a batch norm's means, too."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)), nn.BatchNorm1d(6).eval(), nn.BatchNorm1d(6))
    before = copy.deepcopy(model.state_dict())
    tracker = RankTracker(model, track={"weight": lambda model: model[0].weight, "out": lambda m: m(torch.eye(6))})
    tracker.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]


def test_functions_change_nothing(model):
    def drawing(model):
        assert not torch.is_grad_enabled()
        return product(model) + torch.rand(5, 6) + random.random() + np.random.rand()  # noqa: NPY002 (the global one)

    def seed():
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002

    def drawn():
        return torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002

    tracker = RankTracker(model, track={"drawing": drawing})
    seed()
    expected = drawn()
    seed()
    tracker.step()
    assert drawn() == expected


def test_autocast_does_not_reach_functions(model):
    tracker = RankTracker(model, track={"product": product})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tracker.step()
    assert_row(tracker.latest()["product"], product(model))


def test_what_a_function_must_not_give_is_named(model):
    for function, message in (
        (lambda model: 3, "'x' is a int, not a tensor"),
        (lambda model: {"y": [1]}, "'x/y' is a list"),
    ):
        with pytest.raises(TypeError, match=f"track: {message}"):
            RankTracker(model, track={"x": function})
    for function, message in (
        (lambda model: model[0].bias, r"'x', of shape \(8,\), has no matrix \(not a matrix\)"),
        (lambda model: torch.ones(2, 2, dtype=torch.int64), r"has no matrix \(dtype int64\)"),
        (lambda model: torch.ones(2, 2, device="meta"), r"has no matrix \(on the meta device\)"),
        (lambda model: torch.ones(2, 2).to_sparse(), r"has no matrix \(layout sparse_coo\)"),
        (lambda model: {}, "'x' gives an empty dictionary"),
    ):
        with pytest.raises(ValueError, match=f"track: .*{message}"):
            RankTracker(model, track={"x": function})


def test_a_name_that_is_taken_is_an_error(model):
    for name in ("0.weight", "0.bias"):
        with pytest.raises(ValueError, match=f"the name '{name}' is there twice, or is that of a weight"):
            RankTracker(model, track={name: product})
    with pytest.raises(ValueError, match="the name 'x/y' is there twice"):
        RankTracker(model, track={"x": lambda model: {"y": product(model)}, "x/y": product})
    for track in ([product], {"x": 3}, {3: product}):
        with pytest.raises(TypeError, match="track: expected"):
            RankTracker(model, track=track)


def test_an_error_of_a_function_names_it(model):
    with pytest.raises(IndexError) as raised:
        RankTracker(model, track={"x": lambda model: model[7].weight})
    assert "track={'x': ...}" in raised.value.__notes__[0]


def test_another_number_of_matrices_is_an_error(model):
    sizes = iter([2, 2, 2, 3])  # when the tracker is made, which also reads their shapes, and at two steps
    tracker = RankTracker(model, track={"x": lambda model: torch.ones(next(sizes), 4, 4)})
    tracker.step()
    with pytest.raises(RuntimeError, match=r"track: 'x' gave 2 matrices, and now gives 3, or others: x\[2\]"):
        tracker.step()
