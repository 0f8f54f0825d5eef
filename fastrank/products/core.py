"""Core of a product: a small matrix with the singular values of the product of two thin factors, which is not formed.

    B (m, r) = Q_B R_B        A^T (n, r) = Q_A R_A        B A = Q_B (R_B R_A^T) Q_A^T

Q_B and Q_A have orthonormal columns, so the singular values of the core R_B R_A^T, at most r x r, are those of B A, but
for zeros. With them its rank, norms, stable rank, effective rank and energy rank are those of the product.

Householder's QR decomposition in FP64 is exact for factors that differ by c m r 2^-53 ||B||_F at most (Higham, Accuracy
and Stability of Numerical Algorithms, 2nd edition, theorem 19.4). By Weyl's theorem singular values are then off by at
most c' (m + n) r 2^-53 ||B||_F ||A||_F; in practice that is 1e-15 ||B||_F ||A||_F. What counts of that is how much
larger it is than ||B A||_F: where the factors cancel to less than `CANCELLED` of the product of their norms, the core
is NaN, and the product has a row without numbers. Above that, singular values are exact to 1e-9 ||B A||_F.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import normalized, widened
from ..weights import whole

CANCELLED = 2.0**-20
"""Part of ||B||_F ||A||_F below which the norm of a product is not trusted."""
RANGE = 900.0
"""The largest exponent, up or down, of the factors' scales together: all of the core stays in the range of FP64."""


class Triangle(NamedTuple):
    """What is needed of a stack of tall factors."""

    matrix: Tensor
    """(..., min(m, r), r) FP64: R of the QR decomposition, over the scale."""
    scale: Tensor
    """(...) FP64, powers of two."""
    norm: Tensor
    """(...) FP64: Frobenius norm, over the scale; NaN where the factor is not finite."""

    def repeated(self, times: int) -> Triangle:
        """Each matrix of a stack `(b, ...)` this many times, in its place."""
        return Triangle(*(x.repeat_interleave(times, 0) for x in self))


def triangle(tall: Tensor) -> Triangle:
    """The triangular factor of each matrix of `tall` `(..., m, r)`, of any floating dtype."""
    wide, scale = normalized(widened(tall).flatten(0, -3) if tall.ndim > 2 else widened(tall)[None])
    finite = torch.isfinite(wide).flatten(1).all(1)
    wide = torch.where(finite[:, None, None], wide, 0.0)
    norm = torch.linalg.matrix_norm(wide).masked_fill(~finite, torch.nan)
    upper = torch.linalg.qr(wide, mode="r").R if wide.shape[-2] > wide.shape[-1] else wide
    batch = tall.shape[:-2]
    return Triangle(upper.reshape(*batch, *upper.shape[1:]), scale.reshape(batch), norm.reshape(batch))


def join(left: Triangle, right: Triangle) -> Tensor:
    """The core of `B A` from the triangles of `B` and of `A^T`; NaN where it cannot be trusted."""
    small = left.matrix @ right.matrix.mT
    most = left.norm * right.norm
    doubtful = (most > 0) & (torch.linalg.matrix_norm(small) < CANCELLED * most)
    exponent = left.scale.log2() + right.scale.log2()
    doubtful |= most.isnan() | ((most > 0) & (exponent.abs() > RANGE))
    whole = small * left.scale[..., None, None] * right.scale[..., None, None]
    return whole.masked_fill(doubtful[..., None, None], torch.nan)


@torch.no_grad()
def core(left: Tensor, right: Tensor) -> Tensor:
    """A small matrix with the singular values of `left @ right`, without forming that: give it to `track`.

        track={"layer.ba": lambda model: fastrank.products.core(model.layer.up, model.layer.down)}

    Args:
        left, right: `(..., m, r)` and `(..., r, n)`, of any floating dtype, on one device; leading axes are a stack.
            DTensors are gathered, for which all their ranks have to call this.

    Returns:
        `(..., min(m, r), min(n, r))` FP64, on the same device: rank, norms and whole spectrum are those of the product,
        and full rank is that of a product of these factors. NaN where a factor is not finite, and where the factors
        cancel to less than 2^-20 of the product of their Frobenius norms. The host does not wait for a CUDA device.

    Raises:
        ValueError: the shapes do not fit.
    """
    if left.ndim < 2 or right.ndim < 2 or left.shape[-1] != right.shape[-2] or left.shape[:-2] != right.shape[:-2]:
        raise ValueError(f"core: factors of shapes {tuple(left.shape)} and {tuple(right.shape)} do not multiply")
    return join(triangle(whole(left)), triangle(whole(right).mT))
