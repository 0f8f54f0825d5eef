"""The kernels for CPUs need Numba, and neither a GPU nor an interpreter."""

from __future__ import annotations

import pytest
import torch

from fastrank import backend
from fastrank.counting import compiled

WITHOUT = backend.why_numba_fails()


def pytest_collection_modifyitems(items):
    for item in items:
        if WITHOUT and "tests/kernels/cpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=WITHOUT))


@pytest.fixture
def threads(monkeypatch):
    """`threads(n)`: so many threads from now on, however little there is to do."""
    monkeypatch.setattr(compiled, "FLOPS_A_THREAD", 1e-3)
    yield torch.set_num_threads
    torch.set_num_threads(1)
