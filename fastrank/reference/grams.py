"""Gram: the smaller-side Gram of each matrix of a stack, in FP64.

    G = W W^T        W (b, r, n) with r <= n, any floating dtype;  G (b, r, r) FP64

The product of two numbers of at most 24 significant bits is exact in FP64, so G carries the rounding of the sums only:
|fl(G) - G| <= gamma_n |W| |W|^T, hence ||fl(G) - G||_2 <= (n + 2) u ||W||_F^2 with u = 2^-53. A threshold of
1e-3 ||W||_F on W is 1e-6 ||W||_F^2 on G: far above that, and close to the noise of an FP32 Gram.

FP64 matrices are first scaled by a power of two so that no square leaves the range. The squares of narrower dtypes
cannot.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def normalized(stack: Tensor) -> tuple[Tensor, Tensor]:
    """FP64 `stack` `(b, m, n)` divided by the powers of two `(b,)` next to its largest elements, and those powers.

    The division is exact but for elements 2^-1022 of the largest, and no norm or square of what results overflows or
    vanishes. Matrices that are not finite are left as they are, with 1.
    """
    if not stack.numel():
        return stack, stack.new_ones(len(stack))
    scale = power_of_two(torch.linalg.vector_norm(stack, float("inf"), dim=(-2, -1)))
    return stack / scale[:, None, None], scale


def power_of_two(largest: Tensor) -> Tensor:
    """The power of two next to each of `largest`, FP64; 1 where it is not finite."""
    exponent = torch.where(largest.isfinite(), torch.frexp(largest).exponent, 0)
    # Short of the ends of the range, where 2^exponent itself overflows or is subnormal. Not torch.ldexp: older
    # versions of PyTorch form 2^exponent in FP32 there.
    return torch.exp2(exponent.clamp(-1000, 1000).double())


class Moments(NamedTuple):
    """What bounds need to know of Grams, be they a stack's or a ragged batch's."""

    trace: Tensor
    """(b,) FP64: ||W_scaled||_F^2; 0 where W is not finite."""
    scale: Tensor
    """(b,) FP64, powers of two; 1 unless W is FP64."""
    finite: Tensor
    """(b,) bool: every element of W is finite."""
    order: float | Tensor
    """r, of all or of each (b,)."""
    inner: float | Tensor
    """n, the length of the sums, of all or of each (b,): what the rounding of the Gram grows with."""


class Gram(NamedTuple):
    """`matrix` of the *scaled* W: the W of the caller is `W_scaled * scale`."""

    matrix: Tensor
    """(b, r, r) FP64; zero where the matrix is not finite, so that no solver meets a NaN."""
    trace: Tensor
    """(b,) FP64: ||W_scaled||_F^2."""
    scale: Tensor
    """(b,) FP64, powers of two; 1 unless W is FP64."""
    finite: Tensor
    """(b,) bool: every element of W is finite."""
    inner: int
    """n, the length of the sums: what the rounding of `matrix` grows with."""

    @property
    def moments(self) -> Moments:
        return Moments(self.trace, self.scale, self.finite, float(self.matrix.shape[-1]), float(self.inner))


def gram(stack: Tensor) -> Gram:
    """Gram of `stack` `(b, r, n)`, r <= n."""
    if stack.dtype == torch.float64:
        wide, scale = normalized(stack)
    else:
        wide = stack.double()
        scale = wide.new_ones(len(stack))
    product = _square(wide)
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    finite = trace.isfinite()
    product.masked_fill_(~finite[:, None, None], 0.0)
    return Gram(product, trace.masked_fill(~finite, 0.0), scale, finite, stack.shape[-1])


STRIP = 128
"""Rows of a Gram that are computed at a time, as far as the diagonal: 25 to 40 % less time than a whole product from
r = 512 on, on two cores, and no more below."""


def _square(wide: Tensor) -> Tensor:
    """`wide @ wide.mT`, exactly symmetric, from little more than one half of the products."""
    r = wide.shape[-2]
    if r <= STRIP:
        return wide @ wide.mT
    square = wide.new_empty(*wide.shape[:-1], r)
    for start in range(0, r, STRIP):
        end = min(start + STRIP, r)
        strip = wide[..., start:end, :] @ wide[..., :end, :].mT
        square[..., start:end, :end] = strip
        square[..., :start, start:end] = strip[..., :start].mT
    return square
