"""The factors of one matrix: U (m, k) and V (k, n), rounded to the dtype they are stored in, and their proven error.

Without rounding, U V is the nearest matrix of rank k, W projected on its first k singular directions (Eckart and Young
1936). Directions are eigenvectors of the FP64 Gram matrix on W's smaller side; of FP64 matrices they are singular
vectors, because a Gram does not tell directions below 1e-8 sigma_1 from each other. Few directions of a large matrix
are found by a sketch in a tenth of the time, nearly as well (Halko, Martinsson and Tropp 2011). The error is that of
the factors as they are stored, whatever has made them, so that it covers rounding too (`fastrank.reference.residual`).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import UNIT, divided, gaussian, normalized, product_residual, randomized_svd, scaled_up, widened

LARGE, FEW = 512, 4
"""A sketch finds directions of a matrix whose smaller side is longer than the one, if it is the other times as long as
the rank."""
OVERSAMPLE, POWER_ITERS = 16, 4


class Factors(NamedTuple):
    """`W ~ U V`, as stored."""

    u: Tensor
    """`(m, k)`, in the dtype of W."""
    v: Tensor
    """`(k, n)`, in the same dtype; its rows are as long as the columns of U, but for a factor of 2 and rounding."""
    error: float
    """Proven: `||W - U V||_2 <= ||W - U V||_F <= error`. NaN where a factor, or this, is beyond its dtype."""
    relative_error: float
    """Proven upper bound of `||W - U V||_F / ||W||_F`; 0 for a zero matrix."""


class Factored:
    """One finite matrix `(m, n)`, which is cut into factors of any rank. Holds about four FP64 copies of it."""

    def __init__(self, matrix: Tensor) -> None:
        self._dtype = matrix.dtype
        self._transposed = matrix.shape[0] > matrix.shape[1]
        self._wide, scale = normalized(widened(matrix.mT if self._transposed else matrix)[None])
        self._exponent = round(math.log2(float(scale)))

    @cached_property
    def _directions(self) -> Tensor:
        """`(1, r, r)`: orthonormal columns, that of the largest singular value first."""
        if self._dtype == torch.float64:
            directions: Tensor = torch.linalg.svd(self._wide, full_matrices=False).U
        else:
            directions = torch.linalg.eigh(self._wide @ self._wide.mT).eigenvectors.flip(-1)
        return directions

    def _sketched(self, k: int) -> Tensor:
        """`(1, r, k)`: orthonormal columns, which span nearly as much of W as the best ones."""
        _, r, n = self._wide.shape
        noise = gaussian(0, [0], n, min(k + OVERSAMPLE, r)).to(self._wide.device)
        return randomized_svd(self._wide, noise, k, POWER_ITERS)[0]

    @cached_property
    def _least_norm(self) -> float:
        """Proven lower bound of ||W||_F, scaled as `_wide` is: a norm by rows is off by (m + n) u, and what underflows
        makes it less."""
        norm = torch.linalg.vector_norm(torch.linalg.vector_norm(self._wide, dim=-1), dim=-1)
        return float(norm) * (1 - UNIT * (sum(self._wide.shape) + 16))

    def sketches(self, k: int) -> bool:
        """Whether k directions are found much sooner by a sketch."""
        return self._wide.shape[1] > LARGE and self._wide.shape[1] >= FEW * k

    def cut(self, k: int, *, sketched: bool = False) -> Factors:
        """The factors of rank k, from 1 to min(m, n), by exact directions or those that a sketch finds."""
        left = self._sketched(k) if sketched else self._directions[..., :k]
        right = left.mT @ self._wide
        lengths = torch.linalg.vector_norm(right, dim=-1).sqrt()
        lengths = torch.where(lengths > 0, lengths, 1.0)  # or a direction that W has nothing of would be divided by 0
        # Both factors get half of the scale, so that neither overflows a narrow dtype where W itself does not.
        halves = self._exponent // 2, self._exponent - self._exponent // 2
        powers = [self._wide.new_tensor(2.0**half) for half in halves]
        wide = left * lengths[:, None, :], right / lengths[:, :, None]
        u, v = ((x * power).to(self._dtype) for x, power in zip(wide, powers, strict=True))
        error, relative = self._proven(divided(widened(u), powers[0]), divided(widened(v), powers[1]))
        if self._transposed:
            u, v = v.mT, u.mT
        return Factors(u[0].contiguous(), v[0].contiguous(), error, relative)

    def _proven(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Proven bounds of the error of X Y, and of its share of ||W||_F."""
        if not (self._wide.any() or (x.any() and y.any())):
            return 0.0, 0.0
        residual = product_residual(self._wide, x, y)
        error = float(scaled_up(residual, self._wide.new_tensor([2.0**self._exponent])))
        if not (math.isfinite(error) and self._least_norm > 0):
            return math.nan, math.nan
        return error, float(residual) / self._least_norm * (1 + 4 * UNIT)
