"""Residual: how far a matrix is from the product of its factors, whatever has made these.

What follows from ||A - X Y|| <= epsilon holds for any factors, however they were computed. So a proof that rests on a
residual needs to assume nothing of LAPACK, but only that products of matrices are sums of products (docs/proof.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIT = 2.0**-53
"""Unit roundoff u of FP64."""
PIECE = 64
"""Columns of X that are multiplied at a time: the shorter sums are, the less rounding there is to allow for."""
FAINT = 2.0**-480
"""More than what a norm of at most 2^40 numbers is short of because squares below 2^-1022 may become zero: 2^-491."""


def product_residual(a: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Proven upper bound `(b,)` of `||A - X Y||_F`, and so of its spectral norm, for FP64 `a` `(b, m, n)`, `x`
    `(b, m, k)` and `y` `(b, k, n)`; NaN or Inf where they are not finite.

    A product in an element is rounded, added to at most `PIECE` - 1 others in any order, and their sum is subtracted in
    one of q = ceil(k / PIECE) steps; that is min(k, PIECE) + q roundings at most, and the element of A itself takes q.
    So the error of the computed residual is at most gamma (|A| + |X| |Y|), of which the Frobenius norm is at most
    gamma (||A||_F + sum_j ||x_j|| ||y_j||). Two more terms are for the second order in u. A norm that is summed row by
    row is off by at most (m + n) u of it.
    """
    rest = a
    for columns, rows in zip(torch.split(x, PIECE, -1), torch.split(y, PIECE, -2), strict=True):
        rest = rest - columns @ rows
    (m, n), k = a.shape[-2:], x.shape[-1]
    lengths = (torch.linalg.vector_norm(x, dim=-2) + FAINT) * (torch.linalg.vector_norm(y, dim=-1) + FAINT)
    size = frobenius(a) + lengths.sum(-1) * (1 + UNIT * (m + n + k + 8))
    terms = min(k, PIECE) + -(-k // PIECE) + 2
    bound: Tensor = frobenius(rest) + UNIT * terms * size * (1 + 4 * UNIT)
    return bound * (1 + 4 * UNIT)


def frobenius(a: Tensor) -> Tensor:
    """Proven upper bound `(b,)` of ||A||_F, `a` `(b, m, n)` FP64: by the norms of rows, so that no square goes through
    more than m + n additions."""
    m, n = a.shape[-2:]
    norm: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(a, dim=-1), dim=-1)
    return norm * (1 + UNIT * (m + n + 16)) + FAINT
