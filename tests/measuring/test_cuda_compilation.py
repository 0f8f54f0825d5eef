"""What only a CUDA device can show of kernels that are compiled in the background: that steps go on meanwhile."""

from __future__ import annotations

import time

import pytest
import torch

import fastrank
from fastrank import RankTracker
from fastrank.measuring import compilation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature"),
]


@pytest.fixture
def no_waiting():
    """From when it is called, an operation that makes the host wait for the device raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("prepared", [False, True])
def test_sketches_begin_when_their_kernels_are_there_and_nobody_waits(mlp, monkeypatch, no_waiting, prepared):
    """By themselves while steps go on, as soon as the background has compiled them; at once after `prepare`."""
    monkeypatch.setattr(compilation, "AHEAD", True)
    model = mlp.cuda()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if prepared:
        fastrank.prepare(model, optimizer)
    tracker = RankTracker(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sketches = tracker._measurer._home._trained._sketches._bases
    optimizer.step()
    assert sketches.columns or not prepared
    deadline = time.monotonic() + 15
    no_waiting()
    while not all(each.compiled for each in sketches._passes) or not sketches.columns:
        assert time.monotonic() < deadline
        optimizer.step()
        time.sleep(0.01)
    for _ in range(3):
        optimizer.step()
    torch.cuda.set_sync_debug_mode("default")
    rows = tracker.to_pandas()
    assert (rows.rank_lower == rows.rank_upper).all()
    assert rows.groupby("name").rank_lower.nunique().tolist() == [1, 1, 1]  # nothing moves: counted or sketched


def test_a_graph_captured_after_prepare_has_sketches_and_a_fused_step(mlp, recwarn):
    model = mlp.cuda()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fastrank.prepare(model, optimizer)
    tracker = RankTracker(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    graph.replay()
    tracker.replayed()
    sketches = tracker._measurer._home._trained._sketches._bases
    assert sketches.columns
    assert all(each.compiled for each in sketches._passes)
    assert not [warning for warning in recwarn if "fastrank.prepare" in str(warning.message)]
    assert tracker.latest()["0.weight"]["step"] == 4
