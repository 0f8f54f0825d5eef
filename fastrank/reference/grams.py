"""Gram: the Gram matrix of each matrix of a stack, taken on the smaller side, in FP64.

    G = W W^T        W (b, r, n) with r <= n, any floating dtype;  G (b, r, r) FP64

The product of two numbers of at most 24 significant bits is exact in FP64, so G carries the rounding of the sums only:
|fl(G) - G| <= gamma_n |W| |W|^T, hence ||fl(G) - G||_2 <= (n + 2) u ||W||_F^2 with u = 2^-53. A threshold of
1e-3 ||W||_F on W is 1e-6 ||W||_F^2 on G: far above that, and close to the noise of an FP32 Gram.

FP64 matrices are first scaled by a power of two, so that no square leaves the range of FP64. Squares of narrower dtypes
cannot leave it.

After `torch.set_flush_denormal(True)` some of a CPU's threads read subnormal numbers as zero: the one that has asked
for it, and all that it has started since. Here subnormal numbers are read as integers wherever they could matter, so
that matrices are taken at the values they hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def widened(stack: Tensor) -> Tensor:
    """`stack`, of any floating dtype, in FP64, subnormal numbers included. FP64 is returned as it is."""
    wide = stack.double()
    if not _flushed(stack):
        return wide
    bits = stack.float().view(torch.int32)
    units = bits & 0x7FFFFFFF
    subnormal = units.double() * 2.0**-149
    return torch.where(units < 2**23, torch.where(bits < 0, -subnormal, subnormal), wide)


def _flushed(stack: Tensor) -> bool:
    """Whether subnormal elements of `stack` may become zero on the way to FP64. Those of FP16 do not: PyTorch converts
    FP16 to FP32 first, where they are not subnormal."""
    if not stack.is_cpu or stack.dtype not in (torch.float32, torch.bfloat16):
        return False
    units = stack.float().view(torch.int32) & 0x7FFFFFFF
    return bool(((units > 0) & (units < 2**23)).any())


def divided(values: Tensor, scale: Tensor) -> Tensor:
    """`values / scale`, FP64, subnormal numbers included. `scale`: powers of two, from 2^-1000 to 2^1000."""
    bits = values.view(torch.int64)
    units = bits & (2**63 - 1)
    subnormal = units.double() * 2.0**-537 * (2.0**-537 / scale)  # the factor 2^-1074 would be subnormal itself
    return torch.where(units < 2**52, torch.where(bits < 0, -subnormal, subnormal), values / scale)


def scaled_up(bound: Tensor, scale: Tensor) -> Tensor:
    """`bound * scale` `(b,)`, FP64, never rounded down. `scale`: powers of two, from 2^-1000 to 2^1000.

    Only a subnormal product is rounded at all. It is a whole number of 2^-1074, of which the bits are that number, and
    which is made as an integer, because threads that flush subnormal numbers would make it 0.
    """
    product = bound * scale
    units = (bound * 2.0**74 * (scale * 2.0**1000)).ceil().clamp(max=2.0**52)
    return torch.where(product < 2.0**-1022, units.long().view(torch.float64), product)


def normalized(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each matrix of an FP64 `stack` `(b, m, n)` by the power of two next to its largest element.

    Returns the scaled stack and the powers `(b,)`. The division is exact except for elements 2^-1022 of the largest,
    and no norm or square of the result overflows or vanishes. Matrices that are not finite stay as they are, with 1.
    """
    if not stack.numel():
        return stack, stack.new_ones(len(stack))
    largest = torch.linalg.vector_norm(stack, float("inf"), dim=(-2, -1))
    scale = power_of_two(largest)
    faint = largest < 2.0**-900  # subnormal numbers matter only here; if all elements are subnormal, this may be 0
    if stack.is_cpu and faint.any():
        units = (stack.view(torch.int64) & (2**63 - 1)).flatten(1).amax(-1)
        if (faint & (units > 0)).any():
            scale = torch.where((units > 0) & (units < 2**52), 2.0**-1000, scale)
            return divided(stack, scale[:, None, None]), scale
    return stack / scale[:, None, None], scale


def power_of_two(largest: Tensor) -> Tensor:
    """The power of two next to each of `largest`, FP64; 1 where it is not finite."""
    exponent = torch.where(largest.isfinite(), torch.frexp(largest).exponent, 0)
    # Exponents stay clear of the ends of the range, where 2^exponent itself overflows or is subnormal. torch.ldexp is
    # not used, because older versions of PyTorch form 2^exponent in FP32 in it.
    return torch.exp2(exponent.clamp(-1000, 1000).double())


class Moments(NamedTuple):
    """What is needed of Gram matrices to bound ranks, the same for a stack and for a ragged batch."""

    trace: Tensor
    """(b,) FP64: ||W_scaled||_F^2; 0 where W is not finite."""
    scale: Tensor
    """(b,) FP64, powers of two; 1 unless W is FP64."""
    finite: Tensor
    """(b,) bool: every element of W is finite."""
    order: float | Tensor
    """r: one number for all matrices, or (b,)."""
    inner: float | Tensor
    """n, the length of the sums, with which the rounding of the Gram matrix grows: one number for all, or (b,)."""
    error: float | Tensor = 0.0
    """Bound of what the Gram matrix, in the spectral norm, and its trace are off by beside rounding: one number for all
    or (b,) FP64. It is not 0 where the Gram matrix is made from slices, see `reference.slices`."""


class Gram(NamedTuple):
    """Gram matrices of the *scaled* W: the caller's W is `W_scaled * scale`."""

    matrix: Tensor
    """(b, r, r) FP64; zero where the matrix is not finite, so that no solver meets a NaN."""
    trace: Tensor
    """(b,) FP64: ||W_scaled||_F^2."""
    scale: Tensor
    """(b,) FP64, powers of two; 1 unless W is FP64."""
    finite: Tensor
    """(b,) bool: every element of W is finite."""
    inner: int
    """n, the length of the sums, with which the rounding of `matrix` grows."""
    error: float | Tensor = 0.0
    """Bound of what `matrix` and `trace` are off by beside rounding, see `Moments`."""

    @property
    def moments(self) -> Moments:
        order, inner = float(self.matrix.shape[-1]), float(self.inner)
        return Moments(self.trace, self.scale, self.finite, order, inner, self.error)


def gram(stack: Tensor) -> Gram:
    """Gram matrices of a `stack` `(b, r, n)`, r <= n, of any floating dtype."""
    if stack.dtype == torch.float64:
        wide, scale = normalized(stack)
    else:
        wide = stack.double()
        scale = wide.new_ones(len(stack))
    product = _square(wide)
    trace = _trace(product)
    finite = trace.isfinite()
    if stack.is_cpu:
        # In larger matrices all subnormal numbers together are 2^-72 of the norm, which every error bound allows for.
        faint = trace < 2.0**-108 * stack.shape[-2] * stack.shape[-1]
        if not (faint | ~finite).any():
            return Gram(product, trace, scale, finite, stack.shape[-1])
        if faint.any() and _flushed(stack[faint]):
            product[faint] = _square(widened(stack[faint]))
            trace = _trace(product)
    product.masked_fill_(~finite[:, None, None], 0.0)
    return Gram(product, trace.masked_fill(~finite, 0.0), scale, finite, stack.shape[-1])


def _trace(product: Tensor) -> Tensor:
    return product.diagonal(dim1=-2, dim2=-1).sum(-1)


STRIP = 128
"""Rows of a Gram matrix that are computed at a time, only as far as the diagonal. On two cores this takes 25 to 40 %
less time than the whole product from r = 512 on, and no more time below."""


def _square(wide: Tensor) -> Tensor:
    """`wide @ wide.mT`, exactly symmetric, from little more than half of the products."""
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
