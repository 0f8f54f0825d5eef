"""fastrank's own providers: the public functions, as they are served on the device."""

from __future__ import annotations

from functools import partial

import torch
from providers import Provider, of
from torch import Tensor
from workloads import TOLERANCE

import fastrank


def rank_bounds(matrices: list[Tensor], resolve: bool) -> fastrank.RankBounds:
    return fastrank.linalg.rank_bounds(matrices, TOLERANCE, resolve=resolve)


def matrix_rank(matrices: list[Tensor]) -> Tensor:
    """It agrees with `torch.linalg.matrix_rank`, rounding of the input's dtype and all: not strict."""
    tau = [TOLERANCE.value * torch.linalg.matrix_norm(matrix, dtype=torch.float64) for matrix in matrices]
    return fastrank.linalg.matrix_rank(matrices, atol=torch.stack(tau), rtol=0.0)


RANK = (
    Provider("fastrank.rank_bounds", of(partial(rank_bounds, resolve=True)), strict=True),
    Provider("fastrank.rank_bounds unresolved", of(partial(rank_bounds, resolve=False)), (), ("cuda",), True),
    Provider("fastrank.matrix_rank", of(matrix_rank)),
)
SPECTRUM = (Provider("fastrank.svdvals", of(fastrank.linalg.svdvals), strict=True),)
NORM = (Provider("fastrank.spectral_norm", of(fastrank.linalg.spectral_norm), strict=True),)
