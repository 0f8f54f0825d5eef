"""Where kernels serve: what is no weight is measured at its place of that step, and weights keep their sketches."""

from __future__ import annotations

import copy

import pytest
from beside_weights import assert_row, backward, product, two_layers

import fastrank
from fastrank import RankTracker
from fastrank.products import core

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("served", "small_bases")


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter: before its step, an update is NaN
@pytest.mark.parametrize("fp64", [False, True], ids=["sketches", "FP64 beside"])
def test_rows_are_those_of_the_step(device, fp64):
    model = two_layers().to(device)
    track = {"product": product}
    if fp64:
        track["core"] = lambda model: core(model[2].weight, model[0].weight)
    optimizer = fastrank.SGD(model.parameters(), lr=0.5)
    tracker = RankTracker(model, optimizer, of=("weight", "gradient", "update"), track=track, energy=0.9)
    for step in range(2):
        backward(model, step)
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        latest = tracker.latest()
        for name in ("0.weight", "2.weight"):
            weight = model.get_parameter(name)
            for made, matrix in (("", weight), ("gradient/", weight.grad), ("update/", weight - before[name])):
                assert_row(latest[made + name], matrix.cpu())
        assert_row(latest["product"], product(model).cpu())
        if fp64:
            assert latest["core"]["frobenius_norm"] == pytest.approx(product(model).norm().item(), rel=1e-6)
        assert latest["product"]["energy_rank"] == fastrank.linalg.energy_rank(product(model), 0.9)
    assert tracker._measurer.state(tracker._weights.sources())["sketches"] is not None
