"""Shared by all tests: one thread, NaN in memory that nobody has written, and both ways of counting."""

from __future__ import annotations

import functools
import gc
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from fastrank import backend, device

EMPTY = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided")]
EMPTY += [(Tensor, "new_empty"), (Tensor, "new_empty_strided")]
POISON = dict.fromkeys((torch.float16, torch.bfloat16, torch.float32, torch.float64), torch.nan)
POISON |= dict.fromkeys((torch.complex32, torch.complex64, torch.complex128), complex(torch.nan, torch.nan))
# Odd, and no index of anything. Booleans and bytes have no value that would give them away.
POISON |= {dtype: torch.iinfo(dtype).max for dtype in (torch.int8, torch.int16, torch.int32, torch.int64)}


def pytest_collection_finish():
    """What the imports have made, those of trainers above all, is not looked through whenever garbage is collected."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # packages in C++ complain at the end of what was not collected


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan():
    """An element that is read before it is written shows as NaN instead of whatever memory held.

    In a capture too: whoever writes it comes later in the graph, at every replay. Not in tensors that hold nothing,
    fake ones and those of the meta device, nor in what is left of a test from its first `torch.compile` on: Dynamo
    knows PyTorch's functions by their identity.
    """
    with pytest.MonkeyPatch.context() as patch:
        stock = torch.compile

        def compile_(*args, **options):
            patch.undo()
            torch._dynamo.trace_rules.clear_lru_cache()  # an optimizer may have had it look at these already
            return stock(*args, **options)

        patch.setattr(torch, "compile", compile_)
        for owner, name in EMPTY:
            patch.setattr(owner, name, poisoned(getattr(owner, name)))
        yield


def poisoned(make):
    """`make`, which gives tensors without values, with those of `POISON` in them."""

    @functools.wraps(make)
    def made(*args, **options):
        tensor = make(*args, **options)
        if holds_values(tensor):
            with torch.no_grad():
                tensor.fill_(POISON[tensor.dtype])
        return tensor

    return made


def holds_values(tensor):
    plain = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.device.type in ("cpu", "cuda")
    return plain and tensor.dtype in POISON


@pytest.fixture(params=["compiled", "pytorch"])
def counting(request, monkeypatch):
    """Both ways to count on a CPU: the kernels', and that of a machine without Numba."""
    if request.param == "pytorch":
        monkeypatch.setattr(backend, "compiled_serve", lambda device: False)
    elif reason := backend.why_numba_fails():
        pytest.skip(reason)
    return request.param


@pytest.fixture
def captured():
    """`with captured():` a CUDA graph is being captured, for all that the library can tell."""

    @contextmanager
    def capture():
        with pytest.MonkeyPatch.context() as patch:
            for name, module in list(sys.modules.items()):
                asks = getattr(module, "capturing", None) is device.capturing
                if asks and name.startswith("fastrank.") and module is not device:
                    patch.setattr(module, "capturing", lambda device: True)
            yield

    return capture


@pytest.fixture
def mlp():
    """A small network with batch-norm: two tracked matrices (12 x 8 and 12 x 12) and a head (3 x 12)."""
    with torch.random.fork_rng(devices=[]):  # it warns of several GPUs
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)
        )


@pytest.fixture
def train():
    """`train(model, optimizer, steps, start=0)`: steps on batches that depend on the step's number only."""

    def run(model, optimizer, steps, start=0):
        for i in range(start, start + steps):
            generator = torch.Generator().manual_seed(i)
            inputs = torch.randn(16, 8, generator=generator)
            targets = torch.randint(3, (16,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return run


@pytest.fixture
def compiled_for_a_gpu(monkeypatch):
    """As if this process launched on a GPU, whatever Triton was told."""
    from triton.backends.compiler import GPUTarget

    from fastrank import backend
    from fastrank.kernels import compile as compiling
    from fastrank.measuring import compilation

    monkeypatch.setattr(compilation, "_is_compiled", lambda: True)
    monkeypatch.setattr(backend, "kernels_serve", lambda device: True)
    monkeypatch.setattr(compiling, "target_of", lambda device: GPUTarget("cuda", 90, 32))
