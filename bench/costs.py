"""What each operation has to do: bytes that nobody can do without, and the flops of a proven answer.

A time below the floor that follows from these counts is refused as wrong (`roofs.ALLOWANCE`), so no right way of doing
the operation may do with less than is counted against it.

- Bytes count against every provider. Whoever has not read each element cannot know the answer: the one that was left
  out could be as large as it likes. Outputs count where they are as large as the inputs.
- Flops count only against a provider that says in which arithmetic its products have to be (`Provider.products`). The
  others may be right by any means: FP32, TF32 or integer products, a sketch, a good guess. So a rival's floor is its
  bytes alone, though its answer is checked like every other. Flops are also what the amount of work is told by, from
  which the time of a larger workload is foreseen.
- Proofs are assumed to be made in FP64, on the units that FP64 matrix products run on. Products that are exact on
  other units (of INT8, in slices) may take less than this floor where FP64 is slow: a provider whose Grams are made of
  these has the floor of its bytes alone (`Provider.needs_products`).

A matrix is r x n, r <= n; one that is not is taken transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

Shapes = Iterable[tuple[int, int]]


class Cost(NamedTuple):
    bytes: float
    """Each input read once; outputs of the inputs' size written once."""
    flops: float
    """Multiplications and additions."""


def rank(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """Lower triangle of the Gram, r^2 n, and two LDL^T factorisations, r^3 / 3 each.

    Two, because a proof is a bracket: equal counts a little below tau and a little above it. One factorisation proves a
    count for some threshold near tau, and its pivots do not tell how near the next singular value is.
    """
    return _over(shapes, dtype, lambda r, n: r * r * n + 2 * r**3 / 3)


def gram(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """Lower triangle of the Gram, r^2 n; what is written may stay in a cache, and does not count."""
    return _over(shapes, dtype, lambda r, n: r * r * n)


def spectrum(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """Lower triangle of the Gram, r^2 n, and its reduction to tridiagonal form, 4 r^3 / 3."""
    return _over(shapes, dtype, lambda r, n: r * r * n + 4 * r**3 / 3)


def norm(shapes: Shapes, dtype: torch.dtype) -> Cost:
    """One product with the matrix and one with its transpose, 2 r n each."""
    return _over(shapes, dtype, lambda r, n: 4 * r * n)


def lowrank(shapes: Shapes, dtype: torch.dtype, k: int, power_iters: int) -> Cost:
    """The randomised SVD's products with k columns: 2 + 2 `power_iters` passes of 2 r n k."""
    return _over(shapes, dtype, lambda r, n: (2 + 2 * power_iters) * 2 * r * n * k)


def step(parameters: int, dtype: torch.dtype) -> Cost:
    """SGD with momentum and weight decay: parameter, gradient and momentum read, parameter and momentum written.

    20 bytes an element in FP32, for parameters that no cache keeps from one step to the next.
    """
    return Cost(5 * dtype.itemsize * parameters, 6 * parameters)


def _over(shapes: Shapes, dtype: torch.dtype, flops: Callable[[int, int], float]) -> Cost:
    pairs = [(min(shape), max(shape)) for shape in shapes]
    return Cost(sum(r * n for r, n in pairs) * dtype.itemsize, sum(flops(r, n) for r, n in pairs))
