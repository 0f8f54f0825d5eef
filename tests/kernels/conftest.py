"""Kernels run on a GPU, or anywhere in Triton's interpreter: TRITON_INTERPRET=1, set before Triton is imported."""

from __future__ import annotations

import os

import cuda_cpu
import pytest
import torch

from fastrank import backend
from fastrank.linalg import lowrank, plans
from fastrank.measuring import bases, basis_size, compilation

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = ["cpu"] if INTERPRETED else []  # no kernels of Triton's, which run with the library's tests
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")


def pytest_configure(config):
    # The interpreter multiplies with NumPy, which warns of Inf - Inf where a GPU does not.
    config.addinivalue_line("filterwarnings", "ignore:(invalid|overflow) value? ?encountered:RuntimeWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        path = item.path.as_posix()
        if "tests/kernels/" in path and "tests/kernels/cpu/" not in path:
            item.add_marker(pytest.mark.gpu)
            if not INTERPRETED and DEVICE.type == "cpu":
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, or TRITON_INTERPRET=1"))


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture
def served(monkeypatch):
    """The library's own functions take the kernels, on a CPU too."""
    monkeypatch.setattr(backend, "kernels_serve", lambda device: device.type == DEVICE.type)
    monkeypatch.setattr(compilation, "AHEAD", False)  # each test launches few kernels, and waits for those


@pytest.fixture
def short_strips(monkeypatch):
    """32 rows whose Gram one program sums, not 4 k: several strips of small matrices, and less to interpret."""
    from fastrank.kernels.lowrank import range_table
    from fastrank.kernels.sketch import table

    for module in (table, range_table):
        monkeypatch.setattr(module, "strip_of", lambda k: 32)


@pytest.fixture
def small_bases(short_strips, monkeypatch):
    """Little to interpret: bases that are not complete for matrices of 16 rows and more, one product to warm up."""
    monkeypatch.setattr(basis_size, "COMPLETE", 15)
    monkeypatch.setattr(bases, "WARM_UP", 1)


@pytest.fixture
def fresh_bases(small_bases, monkeypatch):
    """The same, and a basis knows nothing before its first step."""
    monkeypatch.setattr(bases, "WARM_UP", 0)


def forget_plans():
    """What `fastrank.linalg` keeps between calls was made for kernels of one language."""
    plans._plans.clear()
    lowrank._layout.cache_clear()


@pytest.fixture
def cuda_cpp(monkeypatch):
    """What there is in CUDA C++ serves: as compiled for the CPU where that stands for the device."""
    from fastrank.kernels.cuda import build

    if DEVICE.type == "cpu":
        if cuda_cpu.COMPILER is None:
            pytest.skip("there is no g++")
        monkeypatch.setattr(build, "serves", lambda device: True)
        monkeypatch.setattr(build, "load", cuda_cpu.load)
    elif not build.serves(DEVICE):
        pytest.skip(build.why_cupy_fails(DEVICE))
    forget_plans()
    yield
    forget_plans()


@pytest.fixture
def triton_alone(monkeypatch):
    """Kernels of Triton serve, whatever there is in CUDA C++."""
    from fastrank.kernels.cuda import build

    monkeypatch.setattr(build, "serves", lambda device: False)
    forget_plans()
    yield
    forget_plans()


@pytest.fixture(params=["triton_alone", "cuda_cpp"])
def either_language(request):
    """What there is in both languages serves once in Triton and once in CUDA C++."""
    request.getfixturevalue(request.param)


@pytest.fixture
def stand_in(device):
    """For tests of CUDA C++ that need the CPU in a GPU's place: an order of blocks, or what no GPU tells."""
    if device.type != "cpu" or cuda_cpu.COMPILER is None:
        pytest.skip("for a CPU with g++")
