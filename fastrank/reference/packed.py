"""Packed Grams: the Gram of a matrix, or of some of its columns, in the form in which it travels between processes.

    G = W W^T        W (r, n) of at most 32 bits an element;  G as strips of its lower triangle, end to end, FP64

A strip has `STRIP` rows, each up to the last column of the strip's own tile on the diagonal, so that little more than
half of G is made, held and sent. The Gram of a matrix is the sum of those of its parts, if these are cut between
columns: in whatever order the n products of an element are added up, here and in the sum over the parts, the rounding
is at most n u |W| |W|^T (Rump and Jeannerod, 2014), which is what every bracket allows for a Gram.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .grams import STRIP, Gram, widened

COLUMNS_AT_ONCE = 4096
"""Columns that are widened to FP64 at a time."""


def strips(order: int) -> list[tuple[int, int]]:
    """First row, and end, of each strip."""
    return [(start, min(start + STRIP, order)) for start in range(0, order, STRIP)]


def packed_size(order: int) -> int:
    """How many numbers a packed Gram of this order has."""
    return sum((end - start) * end for start, end in strips(order))


def packed_gram(parts: Sequence[Tensor], order: int) -> Tensor:
    """The sum of the Grams of `parts` `(order, n_i)`, packed: `(packed_size(order),)` FP64. Not finite if they are not.

    Subnormal numbers are read as integers where they could matter, as in `gram`.
    """
    packed = _added_up(parts, order, torch.Tensor.double)
    elements = sum(part.numel() for part in parts)
    if packed.is_cpu and packed_diagonal(packed, order).sum() < 2.0**-108 * elements:
        return _added_up(parts, order, widened)
    return packed


def _added_up(parts: Sequence[Tensor], order: int, widen: Callable[[Tensor], Tensor]) -> Tensor:
    packed = torch.zeros(packed_size(order), dtype=torch.float64, device=parts[0].device if parts else "cpu")
    for part in parts:
        for columns in torch.split(part, COLUMNS_AT_ONCE, dim=1):
            wide, at = widen(columns), 0
            for start, end in strips(order):
                strip = packed[at : at + (end - start) * end].view(end - start, end)
                strip.addmm_(wide[start:end], wide[:end].mT)
                at += strip.numel()
    return packed


def packed_diagonal(packed: Tensor, order: int) -> Tensor:
    """The diagonal `(order,)` of a packed Gram."""
    pieces, at = [packed.new_empty(0)], 0
    for start, end in strips(order):
        strip = packed[at : at + (end - start) * end].view(end - start, end)
        pieces.append(strip.diagonal(start))
        at += strip.numel()
    return torch.cat(pieces)


def unpacked(packed: Tensor, order: int, inner: int) -> Gram:
    """A packed Gram of one matrix as a stack of one.

    inner: n of the whole matrix.
    """
    square = packed.new_empty(1, order, order)
    at = 0
    for start, end in strips(order):
        strip = packed[at : at + (end - start) * end].view(end - start, end)
        tile = strip[:, start:]
        square[0, start:end, :start] = strip[:, :start]
        square[0, :start, start:end] = strip[:, :start].mT
        square[0, start:end, start:end] = tile.tril() + tile.tril(-1).mT  # BLAS may round its halves differently
        at += strip.numel()
    trace = square.diagonal(dim1=-2, dim2=-1).sum(-1)
    finite = trace.isfinite()
    square.masked_fill_(~finite[:, None, None], 0.0)
    return Gram(square, trace.masked_fill(~finite, 0.0), torch.ones_like(trace), finite, inner)
