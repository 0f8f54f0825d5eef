"""Rounds, buffers, percentiles, and graphs that cannot be captured."""

import contextlib
from types import SimpleNamespace

import pytest
import timing
import torch
from harness import Budget, Harness, Skipped
from operations import OPERATIONS
from roofs import Roofs
from timing import Spread


def test_spread():
    assert Spread.of([5.0]) == (5.0, 5.0, 5.0)
    assert Spread.of([float(i) for i in range(11)]) == (5.0, 2.0, 8.0)
    # A machine that was slower in the second visit: the median is of all rounds, the spread covers both visits.
    assert Spread.of([1.0] * 9, [float(i) for i in range(10, 21)]) == (10.5, 1.0, 18.0)
    assert Spread.of([3.0], [1.0], [2.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("seconds", "rounds", "calls"),
    [(3e-6, 200, 334), (1e-4, 200, 10), (0.01, 100, 1), (0.3, 5, 1), (2.0, 1, 1)],
)
def test_plan(seconds, rounds, calls):
    assert timing.plan(seconds, budget=1.0) == (rounds, calls)


def test_buffers_together_exceed_the_caches():
    for size in (1, 10**6, 10**8, 10**10):
        count = timing.buffer_count(size)
        assert 2 <= count <= timing.MOST_BUFFERS
        assert count * size >= timing.CACHE or count == timing.MOST_BUFFERS


class FakeEvent:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def elapsed_time(self, end):
        return 1.0


class FakeCapture:
    """What `torch.cuda.graph` does when a call cannot be captured: it raises, and does not leave its stream."""

    begun = 0

    def __init__(self, graph):
        pass

    def __enter__(self):
        FakeCapture.begun += 1

    def __exit__(self, *_):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")


@pytest.fixture
def cuda(monkeypatch):
    """A device on which no graph can be captured; the streams that were made the current ones."""
    current = ["default"]
    monkeypatch.setattr(timing, "_failures", [])
    monkeypatch.setattr(FakeCapture, "begun", 0)
    stands_in = {"Event": FakeEvent, "graph": FakeCapture, "CUDAGraph": object, "synchronize": lambda: None}
    stands_in |= {"set_stream": current.append, "default_stream": lambda: "default"}
    stands_in["Stream"] = lambda: SimpleNamespace(wait_stream=lambda other: None)
    stands_in["current_stream"] = stands_in["Stream"]
    stands_in["stream"] = lambda stream: contextlib.nullcontext()
    for name, replacement in stands_in.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    return current


def test_after_a_capture_that_failed_no_other_is_tried(cuda):
    assert timing.capture_failed() == ""
    times = timing.device_times([lambda: None], 3, graph=True)
    assert (times.timer, times.milliseconds) == ("events", [1.0, 1.0, 1.0])
    assert times.note == "no graph: operation not permitted when stream is capturing"
    assert cuda == ["default", "default"]
    assert FakeCapture.begun == 1
    times = timing.device_times([lambda: None], 1, graph=True)
    assert (times.timer, FakeCapture.begun) == ("events", 1)
    assert times.note.startswith("no graph: a capture has failed: operation not permitted")
    assert timing.device_times([lambda: None], 1, graph=False).note == ""


def test_a_call_that_raises_before_it_is_captured_spoils_no_other(cuda):
    def raises():
        if not raised:
            raised.append(1)
            raise RuntimeError("no")

    raised = []
    assert timing.device_times([raises], 1, graph=True).note == "no graph: no"
    assert timing.capture_failed() == ""


def test_what_is_nothing_without_a_graph_is_skipped_by_name_then(cuda):
    roofs = Roofs(copies=((1.0, 1e-9),), flops_per_ms={})
    harness = Harness(torch.device("cuda"), torch.float32, Budget(0.01, 1.0), roofs)
    timing.device_times([lambda: None], 1, graph=True)
    operation = OPERATIONS["graph"]
    with pytest.raises(Skipped, match="a capture has failed: operation not permitted"):
        harness.row(operation, "resnet18-cifar-b128", operation.providers[0], None)
