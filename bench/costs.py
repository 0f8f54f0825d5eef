"""What each operation has to do at least: bytes moved and flops, whoever does it and however.

These are counts of the cheapest way we know to a proven answer, not of an implementation, so that every provider of a
workload stands under the same roof; one that proves nothing may do with less. A matrix is r x n, r <= n; one that is
not is taken transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

Shapes = Iterable[tuple[int, int]]


class Cost(NamedTuple):
    bytes: float
    """Each input read once, each output written once."""
    flops: float
    """Multiplications and additions."""
    arithmetic: torch.dtype
    """Dtype whose matrix-product roof the flops stand under."""


def rank(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """Lower triangle of the FP64 Gram, r^2 n, and two LDL^T factorisations (the bracket), r^3 / 3 each."""
    return _over(shapes, dtype, lambda r, n: r * r * n + 2 * r**3 / 3)


def gram(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """Lower triangle of the FP64 Gram, r^2 n."""
    return _over(shapes, dtype, lambda r, n: r * r * n)


def spectrum(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """Lower triangle of the FP64 Gram, r^2 n, and its reduction to tridiagonal form, 4 r^3 / 3."""
    return _over(shapes, dtype, lambda r, n: r * r * n + 4 * r**3 / 3)


def norm(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """One product with the matrix and one with its transpose, 2 r n each: no iteration does with less."""
    return _over(shapes, dtype, lambda r, n: 4 * r * n)._replace(arithmetic=dtype)


def lowrank(shapes: Shapes, dtype: torch.dtype, k: int, power_iters: int) -> Cost:
    """The randomised SVD's products with k columns in the input's dtype: 2 + 2 `power_iters` passes of 2 r n k."""
    return _over(shapes, dtype, lambda r, n: (2 + 2 * power_iters) * 2 * r * n * k)._replace(arithmetic=dtype)


def step(parameters: int, dtype: torch.dtype) -> Cost:
    """SGD with momentum and weight decay: parameter, gradient and momentum read, parameter and momentum written."""
    return Cost(5 * dtype.itemsize * parameters, 6 * parameters, dtype)


def _over(shapes: Shapes, dtype: torch.dtype, flops: Callable[[int, int], float]) -> Cost:
    pairs = [(min(shape), max(shape)) for shape in shapes]
    return Cost(sum(r * n for r, n in pairs) * dtype.itemsize, sum(flops(r, n) for r, n in pairs), torch.float64)
