"""Of which rank the factors of a matrix have to be: by a tolerance of its rank, or by an error that is allowed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import linalg
from ..metrics import Status, Tolerance
from .factor import Factored, Factors

FINE = 1e-5
"""Errors below which singular values are not taken from a Gram matrix, which knows them to about 1e-8 sigma_1 each."""


class Found(NamedTuple):
    """What came of a matrix."""

    k: int | None
    """The rank that its factors have or would need, at least 1; None where there is none."""
    factors: Factors | None
    """None where the matrix is kept as it is."""
    reason: str
    """Why it is kept; empty where it is not."""


def most(m: int, n: int) -> int:
    """The largest rank of which factors of a matrix `(m, n)` have fewer numbers than it: k (m + n) < m n."""
    return max(0, (m * n - 1) // (m + n))


def by_tolerance(matrix: Tensor, tolerance: Tolerance) -> Found:
    """Factors of the numerical rank, the number of singular values above tau; where that is not certified, of the upper
    bound. What they leave of W has singular values of at most tau, or a little more where a sketch has found them
    and where factors are rounded."""
    bounds = linalg.rank_bounds(matrix, tolerance)
    if bounds.status == Status.NONFINITE:
        return Found(None, None, "not finite")
    k = max(1, int(bounds.upper))  # a layer of no columns is none
    if k > most(*matrix.shape):
        return _not_worth_it(k)
    source = Factored(matrix)
    factors = source.cut(k, sketched=source.sketches(k))
    return Found(k, factors, "") if math.isfinite(factors.error) else _too_coarse(k, matrix)


def by_error(matrix: Tensor, error: float) -> Found:
    """Factors of the least rank whose proven error is at most a share `error` of ||W||_F, as far as singular values and
    what rounding adds tell which that is: no rank is tried for which these two leave no room."""
    sigma = linalg.svdvals(matrix, accurate=error < FINE)
    if not sigma.isfinite().all() and matrix.isfinite().all():  # norms beyond FP64: shares are the same
        sigma = linalg.svdvals(matrix * 2.0**-100)
    if not sigma.isfinite().all():
        return Found(None, None, "not finite")
    squares = (sigma / sigma[0]).square() if sigma[0] > 0 else sigma
    # tails[k]: what the nearest matrix of rank k leaves of ||W||_F^2, as a share of it.
    tails = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    tails = tails / tails[0] if tails[0] > 0 else tails
    k = max(1, _first_below(tails, error**2))
    if k > most(*matrix.shape):
        return _not_worth_it(k)
    source = Factored(matrix)
    if source.sketches(k) and (factors := source.cut(k, sketched=True)).relative_error <= error:
        return Found(k, factors, "")
    while k <= most(*matrix.shape):
        factors = source.cut(k)
        if factors.relative_error <= error:
            return Found(k, factors, "")
        left = error**2 - (factors.relative_error**2 - float(tails[k]))  # what rounding leaves to the tail
        if not left >= 0:  # or it is NaN
            return _too_coarse(k, matrix)
        k = max(k + 1, _first_below(tails, left))
    return _not_worth_it(k)


def _first_below(tails: Tensor, share: float) -> int:
    return int((tails > share).sum())


def _not_worth_it(k: int) -> Found:
    return Found(k, None, f"rank {k} saves nothing")


def _too_coarse(k: int, matrix: Tensor) -> Found:
    return Found(k, None, f"{str(matrix.dtype).removeprefix('torch.')} is too coarse for its factors")
