"""What serves the library on a GPU where CuPy is installed serves it here: the counts' factorisations in CUDA C++."""

from __future__ import annotations

import cuda_cpu
import pytest


@pytest.fixture(autouse=True)
def _cuda_cpp(request, device):
    """Where there is a g++; it is also several times as fast as Triton's interpreter."""
    if device.type == "cpu" and cuda_cpu.COMPILER is not None:
        request.getfixturevalue("cuda_cpp")
