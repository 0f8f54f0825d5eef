"""Compiling ahead, without a GPU and without launching anything."""

from __future__ import annotations

import pytest

from fastrank import backend
from fastrank.tracking import compilation


@pytest.fixture
def compiled_for_a_gpu(monkeypatch):
    """As if this process launched on a GPU, whatever Triton was told."""
    from triton.backends.compiler import GPUTarget

    from fastrank.kernels import compile as compiling

    monkeypatch.setattr(compilation, "_is_compiled", lambda: True)
    monkeypatch.setattr(backend, "kernels_serve", lambda device: True)
    monkeypatch.setattr(compiling, "target_of", lambda device: GPUTarget("cuda", 90, 32))
