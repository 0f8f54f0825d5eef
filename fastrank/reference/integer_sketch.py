"""Integer sketch: the sketch as the kernels make it from INT8 slices, where FP64 units are few.

    Y = W' V'        V' = V in units of 2^-22;  W' = W, the elements of a row of `TILE` columns in units they share

Sums of integers are exact, and the sums over tiles are made in FP64, in the kernels' order: the bits are theirs. V' is
the basis as far as any proof goes. What is proven of W' = W - dW holds for W with a share `CUT` of ||W||_F^2 to spare:
an element is off by at most 2^-31 (1 + 2^-7.9) of the largest of its row of a tile, so that ||dW||_F <= e ||W||_F with
e = sqrt(TILE) 2^-31 (1 + 2^-7.9) < 2.65e-9, and no square of a singular value moves by more than 2 e (1 + 2 e) of
||W||_F^2 (docs/proof.md, "Products by integers").
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grams import widened
from .sketch import Basis, Sketched
from .slices import NOT_FINITE, fixed_point, top_of

TILE = 32
"""Columns of W whose elements, in one row, share a unit."""
UNITS = 2.0**22
"""Of an element of a basis: so many are 1."""
CUT = 5.3e-9
"""Share of ||W||_F^2 by which proofs allow for W' in place of W."""


def rounded(basis: Basis) -> Basis:
    """The basis V' that is multiplied: cut to [-1, 1], as no orthonormal column is larger, and rounded to nearest."""
    return basis._replace(columns=((basis.columns.clamp(-1, 1) * UNITS).round() / UNITS))


def products(stack: Tensor, basis: Basis, chunk: int | None = None) -> Tensor:
    """Products `(chunks, b, r, k)` FP64 over chunks of so many columns of `stack` `(b, r, n)`, a multiple of `TILE`;
    over all columns by default. A row that is not finite has products that are NaN."""
    columns = (rounded(basis).columns.double() * UNITS).long()
    narrow, n = stack.float(), stack.shape[-1]
    partial = []
    for begin in range(0, n, chunk or n):
        end = min(begin + (chunk or n), n)
        total = torch.zeros(*stack.shape[:2], columns.shape[-1], dtype=torch.float64)
        for i in range(begin, end, TILE):
            tile = narrow[..., i : min(i + TILE, end)].contiguous()
            largest = (tile.view(torch.int32).long() & 0x7FFFFFFF).amax(-1, keepdim=True)
            top = top_of(largest)
            x, _ = fixed_point(tile, top, 4)
            value = x @ columns[:, i : min(i + TILE, end)]
            unit = torch.exp2((top - 157).double()).where(largest < NOT_FINITE, torch.nan)
            total = total + value.double() * unit / UNITS
        partial.append(total)
    return torch.stack(partial)


def sketch(stack: Tensor, basis: Basis, chunk: int | None = None) -> Sketched:
    """As `sketch.sketch` of a `rounded` basis."""
    product = torch.zeros((), dtype=torch.float64)
    for partial in products(stack, basis, chunk):
        product = product + partial
    return Sketched(product, product.mT @ product, widened(stack).square().sum(-1).sum(-1), CUT)
