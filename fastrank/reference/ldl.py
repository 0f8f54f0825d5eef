"""Inertia: the number of positive eigenvalues of symmetric matrices, without their eigenvalues.

By Sylvester's law A = L D L^T has as many positive eigenvalues as D, so one factorisation (r^3/3 flops) counts the
eigenvalues of G above tau^2 when it is given A = G - tau^2 I.

The computed factors are exact for a matrix A + E with ||E||_2 <= (r + 64) u (||A||_F + growth), where
growth = sum_j |D|_j ||L_j||^2 bounds || |L| |D| |L^T| ||_2 (Higham, Accuracy and Stability of Numerical Algorithms,
theorems 9.3 and 11.3; p(n) there is linear). Growth is measured from the factors, never assumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .power import UNIT

BLOCK = 32
"""Columns that `unpivoted_inertia` eliminates one by one."""


def inertia(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Number of positive eigenvalues, and growth, of symmetric FP64 `matrices` `(b, r, r)`; reads the lower triangles.

    Returns:
        count `(b,)` int64 and growth `(b,)` FP64; growth is infinite where the factors cannot be trusted at all.
    """
    factors, pivots, _ = torch.linalg.ldl_factor_ex(matrices)
    return count_ldl_(factors, pivots)


def count_ldl_(factors: Tensor, pivots: Tensor) -> tuple[Tensor, Tensor]:
    """The same from LAPACK's Bunch-Kaufman factors, which are zero above the diagonal and are overwritten.

    D has 1 x 1 and 2 x 2 blocks, the latter marked by negative pivots. Bunch-Kaufman takes a 2 x 2 block only where its
    determinant is negative: one positive, one negative eigenvalue.
    """
    d = factors.diagonal(dim1=-2, dim2=-1).clone()
    below = factors.diagonal(-1, -2, -1)
    factors.diagonal(dim1=-2, dim2=-1).zero_()
    paired = pivots < 0
    if factors.shape[-1] < 2 or not paired.any():
        return _answer((d > 0).sum(-1), (d.abs() * (_squares(factors) + 1)).sum(-1))
    first = paired & (paired.cumsum(-1) % 2 == 1)
    second = paired & ~first
    # The coupling of a 2 x 2 block stands where L's subdiagonal would: it belongs to D.
    coupling = torch.where(first[..., :-1], below, 0.0)
    below.masked_fill_(first[..., :-1], 0.0)
    size = d.abs()
    size[..., :-1] += coupling.abs()
    size[..., 1:] += coupling.abs()
    indefinite = d[..., :-1] * d[..., 1:] < coupling.square()
    trusted = (indefinite | ~first[..., :-1]).all(-1)
    growth = torch.where(trusted, (size * (_squares(factors) + 1)).sum(-1), torch.inf)
    return _answer(((d > 0) & ~paired).sum(-1) + second.sum(-1), growth)


def unpivoted_inertia(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """What `inertia` returns, from factors that are made without pivoting, as the kernels make theirs.

    It is what they are measured against where the growth itself matters: without pivoting it is larger, and differs
    from shift to shift. A pivot of less than `UNIT` sum_j |a_jj| becomes that, as in `fastrank.kernels.count`.
    """
    a = matrices.clone()
    d = torch.zeros(matrices.shape[:-1], dtype=matrices.dtype, device=matrices.device)
    _factor_(a, d, UNIT * a.diagonal(dim1=-2, dim2=-1).abs().sum(-1))
    return _answer((d > 0).sum(-1), (d.abs() * (_squares(a.tril(-1)) + 1)).sum(-1))


def _factor_(a: Tensor, d: Tensor, floor: Tensor) -> None:
    """L of `a` `(b, r, r)`, written below its diagonal, and D, written to `d` `(b, r)`: halves, down to few columns."""
    r = a.shape[-1]
    if r <= BLOCK:
        for j in range(r):
            pivot = a[:, j, j]
            d[:, j] = torch.where(pivot.abs() < floor, torch.where(pivot < 0, -floor, floor), pivot)
            column = a[:, j + 1 :, j].clone()
            a[:, j + 1 :, j] /= d[:, j, None]
            a[:, j + 1 :, j + 1 :] -= a[:, j + 1 :, j, None] * column[:, None, :]
        return
    half = -(-r // (2 * BLOCK)) * BLOCK
    first, below, rest = a[:, :half, :half], a[:, half:, :half], a[:, half:, half:]
    _factor_(first, d[:, :half], floor)
    scaled = torch.linalg.solve_triangular(first.mT, below, upper=True, left=False, unitriangular=True)
    below.copy_(scaled / d[:, None, :half])
    rest.baddbmm_(scaled, below.mT, alpha=-1)
    _factor_(rest, d[:, half:], floor)


def _squares(lower: Tensor) -> Tensor:
    """Sums of squares of the columns of `lower`, without a copy as large as `lower`."""
    norms: Tensor = torch.linalg.vector_norm(lower, dim=-2)
    return norms.square()


def _answer(count: Tensor, growth: Tensor) -> tuple[Tensor, Tensor]:
    return count, growth.nan_to_num(torch.inf, torch.inf)
