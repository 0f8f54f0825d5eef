"""Slices: Gram matrices from numbers that are cut into signed 8-bit integers, exactly as the kernels make them.

    W = sum over p of 2^(top - 125 - 8 p) A_p + dW              A_p (b, r, n) whole numbers from -128 to 127, p = 1 to 4
    I = sum over i + j <= LAST of 256^(LAST - i - j) A_i A_j^T
    G = 2^(top_a + top_b - 250 - 8 LAST) I = W W^T - E

The twin of `fastrank.kernels.count.cut` and `integer_gram`, in INT64: same slices, same integers, and the same G bit
for bit, because only the conversion of I to FP64 rounds. `fastrank.kernels.slices` says what a slice is.

E is bounded by what was measured: with Frobenius norms of dW and of the A_p in units of W,

    ||E||_F, |tr E| <= 2 ||A|| ||dW|| + ||dW||^2 + sum over i + j > LAST of ||A_i|| ||A_j||,       A = W - dW
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .grams import Gram

NOT_FINITE = 0x7F800000
SLICES = 4
LAST = {10: 5, 13: 6}
"""Largest i + j of the products that are not left out, by how many these are."""


class Slices(NamedTuple):
    """A stack of matrices, cut."""

    parts: Tensor
    """(b, 4, r, n) INT64: A_p."""
    top: Tensor
    """(b, r) INT64, of each row; `NOT_FINITE` where the row is not finite."""
    cut: Tensor
    """(b,) FP64: ||dW||_F, never too small."""

    def norms(self) -> Tensor:
        """||A_p||_F, `(b, 4)` FP64, in units of W."""
        squares = self.parts.square().sum(-1).double()
        units = [torch.exp2(2.0 * (self._finite_top - 125 - 8 * p).double()) for p in range(1, squares.shape[1] + 1)]
        return (squares * torch.stack(units, 1)).sum(-1).sqrt()

    @property
    def _finite_top(self) -> Tensor:
        return self.top.masked_fill(self.top == NOT_FINITE, 1)


def top_of(largest: Tensor) -> Tensor:
    """The exponent, as FP32 stores it, that numbers are cut below whose largest magnitude has these bits, INT64."""
    normal = largest.float().view(torch.int32).long() - (149 << 23)
    return torch.where(largest == 0, 1, (torch.where(largest < 0x800000, normal, largest) + 0x10101) >> 23)


def fixed_point(w: Tensor, top: Tensor, slices: int) -> tuple[Tensor, Tensor]:
    """X, INT64, of FP32 numbers `w`, and |dw| in units of X, FP64; or, below 2^-37, more than that, but at most 2^-36.

    top: of whatever shares one, as `top_of` returns it; broadcast over `w`.
    """
    bits = w.view(torch.int32).long()
    magnitude = bits & 0x7FFFFFFF
    field = (magnitude >> 23).clamp(min=1)
    significand = magnitude - ((field - 1) << 23)
    down = top - field + (25 - 8 * slices)
    by = down.clamp(0, 25)
    x = torch.where(down <= 0, significand << (-down).clamp(0, 31), (significand + (1 << (by - 1).clamp(min=0))) >> by)
    rest = torch.where(down <= 0, 0, torch.where(down > 25, significand, significand - (x << by)))
    return torch.where(bits < 0, -x, x), rest.abs() * torch.exp2(-down.clamp(0, 60).double())


def parts_of(x: Tensor, slices: int) -> list[Tensor]:
    """The slices of X, the first first."""
    shifted = x + sum(128 << 8 * (slices - p) for p in range(2, slices + 1))
    parts = [((shifted >> 8 * (slices - p)) & 0xFF) - 128 for p in range(2, slices + 1)]
    return [shifted >> 8 * (slices - 1), *parts]


def cut(stack: Tensor) -> Slices:
    """The slices of a `stack` `(b, r, n)`, FP32, BF16 or FP16."""
    wide = stack.float()
    largest = (wide.view(torch.int32).long() & 0x7FFFFFFF).amax(-1)
    top = top_of(largest)
    x, off = fixed_point(wide, top[..., None], SLICES)
    unit = torch.exp2((top - 125 - 8 * SLICES).double())
    lost = (off.square().sum(-1).sqrt() * unit).square().sum(-1).sqrt() * (1 + 2.0**-8)
    return Slices(torch.stack(parts_of(x, SLICES), 1), top.masked_fill(largest >= NOT_FINITE, NOT_FINITE), lost)


def integers(cut: Slices, products: int) -> Tensor:
    """I, `(b, r, r)` INT64."""
    a, last = cut.parts, LAST[products]
    total = a.new_zeros(len(a), a.shape[2], a.shape[2])
    for i in range(1, SLICES + 1):
        for j in range(1, min(SLICES, last - i) + 1):
            total += 256 ** (last - i - j) * _product(a[:, i - 1], a[:, j - 1])
    return total


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T, INT64. Sums of up to 2^38 products of two slices are exact in FP64, whose products are quick."""
    return (a.double() @ b.double().mT).long()


def error_of(cut: Slices, trace: Tensor, products: int) -> Tensor:
    """Bound `(b,)` FP64 of ||E||_F and of |tr E|, for the trace of G as it is computed; 0 where that is not finite."""
    norms = dict(enumerate(cut.norms().unbind(-1), 1))
    left_out = sum((norms[i] * norms[j] for i in norms for j in norms if i + j > LAST[products]), trace * 0.0)
    norm = (trace + left_out).sqrt()
    error = (left_out + (2 * norm + cut.cut) * cut.cut) * (1 + 2.0**-20)
    return torch.where(trace.isfinite(), error, 0.0)


def integer_gram(stack: Tensor, products: int = 10) -> Gram:
    """Gram matrices of a `stack` `(b, r, n)`, r <= n, FP32, BF16 or FP16, as `grams.gram` returns them.

    products: of slices that each is made of, 10 (default) or 13.
    """
    found = cut(stack)
    scale = torch.exp2(
        (found.top - (125 + 4 * LAST[products])).double().masked_fill(found.top == NOT_FINITE, torch.nan)
    )
    product = integers(found, products).double() * scale[:, :, None] * scale[:, None, :]
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    finite = trace.isfinite()
    error = error_of(found, trace, products)
    product.masked_fill_(~finite[:, None, None], 0.0)
    ones = torch.ones_like(trace)
    return Gram(product, trace.masked_fill(~finite, 0.0), ones, finite, stack.shape[-1], error)
