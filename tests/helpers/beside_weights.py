"""A small model, functions of it that make matrices, and what a row must say of a matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))


def backward(model, step=0):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(step)).to(model[0].weight)
    model.zero_grad()
    model(x).square().mean().backward()


def product(model):
    return model[2].weight @ model[0].weight


TRACK = {
    "product": product,
    "stack": lambda model: torch.stack([model[0].weight, -model[0].weight]),
    "both": lambda model: {"first": model[0].weight, "pair": torch.stack([model[2].weight] * 2).double()},
}


def assert_row(row, matrix):
    sigma = torch.linalg.svdvals(matrix.detach().double())
    assert (row["rows"], row["cols"]) == tuple(matrix.shape)
    assert row["rank_lower"] == row["rank_upper"] == int((sigma > 1e-3 * sigma.norm()).sum())
    assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-6)
    assert row["spectral_norm"] == pytest.approx(sigma.amax().item(), rel=1e-5)
