"""fastrank's own providers: the public functions, as they are served on the device."""

from __future__ import annotations

import os
from unittest import mock

import torch
from providers import Provider, by_shape, of
from torch import Tensor
from workloads import TOLERANCE

import fastrank
from fastrank import backend


def rank_bounds(matrices: list[Tensor]) -> fastrank.RankBounds:
    return fastrank.linalg.rank_bounds(matrices, TOLERANCE)


def unresolved(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The count's own intervals: true, and not always closed."""
    bounds = fastrank.linalg.rank_bounds(matrices, TOLERANCE, resolve=False)
    return bounds.lower, bounds.upper


def by_integers(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The same from INT8 slices, whatever the device."""
    with mock.patch.dict(os.environ, {backend.PRODUCTS: "integers"}):
        return unresolved(matrices)


def matrix_rank(matrices: list[Tensor]) -> Tensor:
    """It agrees with `torch.linalg.matrix_rank`, rounding of the input's dtype and all: not strict."""
    tau = by_shape(matrices, lambda stack: TOLERANCE.value * torch.linalg.matrix_norm(stack, dtype=torch.float64))
    return fastrank.linalg.matrix_rank(matrices, atol=torch.stack(tau), rtol=0.0)


FP64 = torch.float64
RANK = (
    Provider("fastrank.rank_bounds", of(rank_bounds), strict=True, products=FP64, kernels=TOLERANCE),
    Provider(
        "fastrank.rank_bounds unresolved", of(unresolved), (), ("cuda",), strict=True, graph=True, products=FP64,
        kernels=TOLERANCE,
    ),
    Provider("fastrank.matrix_rank", of(matrix_rank), kernels="fp64"),
    Provider(
        "fastrank.rank_bounds unresolved, integers", of(by_integers), ("triton",), ("cuda",), strict=True, graph=True,
        kernels="integers",
    ),
)  # fmt: skip
SPECTRUM = (Provider("fastrank.svdvals", of(fastrank.linalg.svdvals), strict=True, products=FP64),)
NORM = (Provider("fastrank.spectral_norm", of(fastrank.linalg.spectral_norm), strict=True, kernels="fp64"),)
