"""What a measured step launches: few kernels, in one order, and next to nothing of PyTorch's."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastrank
from fastrank import RankTracker

pytest.importorskip("triton")
import models

from fastrank.kernels.count.power import SHIFTS
from fastrank.kernels.cuda import build
from fastrank.kernels.launch import CudaLaunch, Launch

pytestmark = pytest.mark.usefixtures("served")

VIEWS = {"view", "slice", "select", "t", "permute", "detach", "as_strided", "unsqueeze", "expand", "unbind", "alias"}
"""Operations that launch nothing."""
TAIL = ["sketch_gram", "compare", "factor", "conclude", "gram", "rotate", "sketch_gram", "lift", "finish"]
COUNT = ["shifts", "factor", "row", "record"]


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        namespace, _, name = str(operation).partition(".")
        if namespace == "aten" and name.split(".")[0] not in VIEWS:
            self.names.append(name.split(".")[0])
        return operation(*arguments, **(options or {}))


@pytest.fixture(params=["triton", "cuda"])
def launched(request, monkeypatch):
    """Names of the kernels in their order. None of them is run: only what is launched matters here."""
    names = []

    def note(self, *_):
        name = self._variant.name.removesuffix("_kernel")
        assert name != ("factor" if request.param == "cuda" else "ldl")
        names.append("factor" if name == "ldl" else name)

    monkeypatch.setattr(build, "serves", lambda device: request.param == "cuda")
    monkeypatch.setattr(build, "load", lambda variant, device: None)
    for kind in (Launch, CudaLaunch):
        monkeypatch.setattr(kind, "by_jit", note)
        monkeypatch.setattr(kind, "again", note)
    return names


def settled(optimizer, launched):
    """Kernels and operations of a step like the one before it."""
    for _ in range(3):
        optimizer.step()
    launched.clear()
    with Operations() as operations:
        optimizer.step()
    return list(launched), operations.names


@pytest.mark.parametrize(("network", "large"), [("resnet18", True), ("mlp", False)])
def test_a_step_of_sgd(network, large, launched, device):
    model = {"resnet18": models.resnet18, "mlp": lambda: models.mlp_bn(10, 100, 3072)}[network]().to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9)
    RankTracker(model, optimizer, select="paper")
    kernels, operations = settled(optimizer, launched)
    fused = Counter(kernels)["sgd_sketch"]
    assert fused == (3 if large else 1)  # one for each number of columns
    assert kernels == ["sgd_sketch"] * fused + ["sgd", *TAIL, "power_small", *["power"] * len(SHIFTS) * large, *COUNT]
    assert operations == ["add_"] * 2  # of the numbers of steps and of rows


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_of_any_optimizer(kind, launched, device):
    """The sketches take a pass of their own, and all else is the same."""
    model = models.mlp_bn(10, 100, 3072).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = kind(model.parameters(), lr=0.1, foreach=False)
    tracker = RankTracker(model, select="paper")
    for _ in range(3):
        optimizer.step()
        tracker.step()
    optimizer.step()
    launched.clear()
    with Operations() as operations:
        tracker.step()
    assert launched == ["sketch", *TAIL, "power_small", *COUNT]
    assert operations.names == ["add_"] * 2
