"""Orthonormalise the columns of a product by Cholesky-QR, and keep every column that can be kept.

    C = Y^T Y = D C_s D,   D = diag(sqrt(c_jj)),   C_s = L_s diag(d_s) L_s^T,   Q = Y D^-1 L_s^-T diag(d_s)^-1/2

Column j is dead if d_s,j <= `DEAD`: all but 2^-18 of its length is in the span of the columns before it, and noise
takes its place. `fastrank.reference.sketch.next_basis` instead compares pivots with the largest one and replaces the
smallest by noise; here, columns that are far smaller than the first one are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .residual import UNIT
from .sketch import DEAD, factor


class Orthonormal(NamedTuple):
    """The result of one pass."""

    columns: Tensor
    """(b, r, k) FP32: orthonormal where `kept`, else standard normal numbers over sqrt(r)."""
    kept: Tensor
    """(b, k) bool: columns that are not dead."""
    pivots: Tensor
    """(b, k) FP64: squared length of the part of each column that is not in the span of the columns before it."""


def unit_gram(product: Tensor) -> tuple[Tensor, Tensor]:
    """C_s `(b, k, k)`, the Gram matrix of the columns of `product` scaled to unit length, and their norms `(b, k)`. C_s
    is zero wherever a column that is zero or not finite takes part."""
    gram = product.mT @ product
    size = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    usable = (size > 0) & size.isfinite()
    both = usable[:, :, None] & usable[:, None, :]
    inverse = torch.where(usable, 1 / size, 0.0)
    return torch.where(both, gram * inverse[:, :, None] * inverse[:, None, :], 0.0), size


def orthonormal(product: Tensor, noise: Tensor) -> Orthonormal:
    """Orthonormalise the columns of `product` `(b, r, k)` FP64; `noise` `(b, r, k)`, normal, replaces dead columns."""
    gram, size = unit_gram(product)
    k = gram.shape[-1]
    lower, d = factor(gram, torch.full_like(size[:, 0], UNIT * k))
    usable = (size > 0) & size.isfinite()
    kept = usable & (d > DEAD)
    size = torch.where(usable, size, 1.0)
    unit = torch.where(usable[:, None, :], product / size[:, None, :], 0.0)
    q = torch.linalg.solve_triangular(lower, unit.mT, upper=False, unitriangular=True).mT
    q = (q / torch.where(kept, d, 1.0).sqrt()[:, None, :]).float()
    columns = torch.where(kept[:, None, :], q, noise / product.shape[-2] ** 0.5)
    return Orthonormal(columns, kept, d * size.square())
