"""Shared by all tests: one thread, uninitialised memory filled with NaN, and both ways of counting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import backend


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch):
    """An element that is read before it is written shows as NaN instead of whatever memory held."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)


@pytest.fixture(params=["eigenvalues", "inertia"])
def counting(request, monkeypatch):
    """Both counting paths, whatever the backend would choose for a matrix's size."""
    limit = 10**9 if request.param == "eigenvalues" else 0
    monkeypatch.setattr(backend, "EIGENVALUES_UP_TO", {"rank": limit, "tracking": limit})
    return request.param


@pytest.fixture
def mlp():
    """A small network with batch-norm: two tracked matrices (12 x 8 and 12 x 12) and a head (3 x 12)."""
    with torch.random.fork_rng():
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
