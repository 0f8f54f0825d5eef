"""Several optimizers may each have a `found_inf` of their own, on a device of their own."""

from __future__ import annotations

import pytest
import torch
from six_inputs import gradients

from fastrank import RankTracker
from fastrank.tracking import hooks

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


class Flag:
    """A `found_inf` that says it is on a device which this machine may not have."""

    def __init__(self, value, device, pinned=False):
        self.value, self.device, self.pinned = value, device, pinned

    def pin_memory(self):
        assert self.device == CPU
        return Flag(self.value, CPU, pinned=True)

    def to(self, device, non_blocking=False):
        assert self.device != CPU or self.pinned, "the host waits for a copy from memory that is not pinned"
        assert non_blocking, "the host waits for the copy"
        assert device != CPU, "the host waits for a device"
        return Flag(self.value, device)


@pytest.fixture
def minimum(monkeypatch):
    """PyTorch's, which takes tensors of one device."""

    def of(a, b):
        assert a.device == b.device, "Expected all tensors to be on the same device"
        return Flag(min(a.value, b.value), a.device)

    monkeypatch.setattr(hooks.torch, "minimum", of)


@pytest.mark.usefixtures("minimum")
@pytest.mark.parametrize(
    ("given", "home"),
    [
        ([FIRST], FIRST),
        ([FIRST, FIRST], FIRST),
        ([FIRST, SECOND], FIRST),
        ([CPU, SECOND, FIRST], SECOND),
        ([CPU, CPU], CPU),
    ],
)
@pytest.mark.parametrize("skipped", [True, False])
def test_flags_meet_on_one_device_and_the_host_waits_for_none(given, home, skipped):
    """A step is skipped where all optimizers have skipped theirs."""
    flags = [Flag(1.0, device) for device in given]
    flags[-1].value = float(skipped)
    found = hooks.least(flags)
    assert (found.value, found.device) == (float(skipped), home)


@pytest.mark.parametrize(("values", "rows"), [((1.0, 1.0), 0), ((0.0, 1.0), 1), ((0.0, 0.0), 1)])
def test_a_step_that_all_have_skipped_has_no_row(model, values, rows):
    optimizers = [torch.optim.SGD([parameter], lr=0.1, fused=True) for parameter in model.parameters()]
    tracker = RankTracker(model, optimizers)
    gradients(model)
    for optimizer, value in zip(optimizers, values, strict=True):
        optimizer.found_inf = torch.tensor(value)
        optimizer.step()
    assert tracker.to_arrow().num_rows == rows
