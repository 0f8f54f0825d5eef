"""Traffic: where a matrix is measured and which way it gets there, and the bytes that travel for it.

    local   one rank has all of the matrix, and measures it. Nothing travels.
    whole   all ranks that have a part send it to the owner, as it is, who measures the assembled matrix.
    gram    only for parts that are cut along the long side, so that the Gram of the matrix is the sum of theirs. Each
            of the c ranks with a part makes its packed FP64 Gram, of P bytes, and divides it into c slices. In a first
            exchange the i-th of them sends its slice j to the j-th, who adds up what it gets; in a second one each
            sends its sum to the owner, who is one of them.

A matrix that is sketched goes none of these ways. Ranks with a part send the owner their share of its product with a
basis of k columns, and get their share of the next basis from it: see `Sketch`.

Whatever stays on a rank is no traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..reference import packed_size
from .holdings import ITEMSIZE, Spans

Way = Literal["local", "whole", "gram"]

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Where a matrix is measured, and which way it gets there.

    Attributes:
        name, shape, dtype: of the whole matrix, as declared.
        way: "local", "whole" or "gram".
        owner: the rank that measures it, one of those in `parts`, unless the matrix has no elements.
        parts: ranks that contribute, in order, with what of the matrix each of them contributes: each element once.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    way: Way
    owner: int
    parts: tuple[tuple[int, Spans], ...]

    @property
    def order(self) -> int:
        """r, the short side, which is the order of the Gram."""
        return min(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole matrix."""
        return self.shape[0] * self.shape[1] * ITEMSIZE[self.dtype]

    @property
    def cuts_rows(self) -> bool:
        """Whether every part consists of whole rows; else a matrix that goes as a Gram has parts of whole columns."""
        cols = self.shape[1]
        return all(span.right - span.left == cols for _, piece in self.parts for span in piece)


class Exchange(NamedTuple):
    """Bytes that ranks send and receive, each `(parts,)`."""

    sent: Integers
    received: Integers


class Flow(NamedTuple):
    """The bytes that the ranks with a part of a matrix send to other ranks and receive from these, each `(parts,)`."""

    ranks: Integers
    sent: Integers
    received: Integers


class Sketch(NamedTuple):
    """A sketch that is made of a matrix at a step. See `fastrank.reference.sketch` for what a sketch is.

    A rank with a part multiplies it with its rows of the basis, and sends the owner, in FP64, those rows of the product
    that its part reaches, and the part's share of ||W||_F^2. The owner adds up, and sends back those rows of the next
    basis, in FP32: a rank needs just these in the next sketch, which is of the other side.
    """

    matrix: int
    """Its index in the plan."""
    columns: int
    """k."""
    side: int
    """0: the product has the rows of the matrix, W V. 1: it has its columns, W^T U."""
    number: int = 0
    """How many sketches of this matrix there were before. The noise follows from it."""
    fresh: bool = False
    """The basis is noise, so that nothing is proven, and the next basis is what the sketch is made for."""


def reach(piece: Spans, side: int) -> tuple[int, int]:
    """From which row up to which one a part reaches; for side 1, from which column up to which one."""
    return min(span[2 * side] for span in piece), max(span[2 * side + 1] for span in piece)


def slices(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of each of `count` slices of `size` numbers; the first `size % count` are longer by one."""
    ends = np.cumsum(slice_sizes(size, count)).tolist()
    return list(zip([0, *ends], ends, strict=False))


def slice_sizes(size: int, count: int) -> Integers:
    """The lengths of `slices`, `(count,)`."""
    return size // count + (np.arange(count, dtype=np.int64) < size % count)


@lru_cache(maxsize=4096)
def packed_bytes(order: int) -> int:
    """P, the bytes of a packed Gram."""
    return 8 * packed_size(order)


def exchanged(way: Way, sizes: Integers, order: int, itemsize: int) -> tuple[Exchange, Exchange]:
    """The bytes that move for one matrix, for each rank with a part: if another rank is the owner, and if it is itself.

    Args:
        sizes: `(parts,)`, the elements of each part.
        order: r. itemsize: bytes of an element.
    """
    if way == "gram":
        size, own = packed_bytes(order), 8 * slice_sizes(packed_bytes(order) // 8, len(sizes))
        added = (len(sizes) - 1) * own
        # All slices but its own in the first exchange; its own, which is a sum by then, in the second.
        return Exchange(np.full_like(sizes, size), added), Exchange(size - own, added + size - own)
    nothing, nbytes = np.zeros_like(sizes), sizes * itemsize
    return Exchange(nbytes, nothing), Exchange(nothing, nbytes.sum() - nbytes)


def flows(matrices: Sequence[Placement]) -> list[Flow]:
    """The traffic of each matrix."""
    known: dict[int, tuple[Integers, Integers]] = {}  # matrices that are cut alike share their `parts`
    found = []
    for matrix in matrices:
        if id(matrix.parts) not in known:
            ranks = np.array([rank for rank, _ in matrix.parts], dtype=np.int64)
            numels = [sum(span.numel for span in piece) for _, piece in matrix.parts]
            known[id(matrix.parts)] = ranks, np.array(numels, dtype=np.int64)
        ranks, sizes = known[id(matrix.parts)]
        owner = ranks == matrix.owner
        contributor, owning = exchanged(matrix.way, sizes, matrix.order, ITEMSIZE[matrix.dtype])
        found.append(Flow(ranks, *(np.where(owner, *pair) for pair in zip(owning, contributor, strict=True))))
    return found


def sketch_flow(matrix: Placement, columns: int, side: int) -> Flow:
    """The traffic of a sketch with k `columns`, on one side: see `Sketch`."""
    ranks = np.array([rank for rank, _ in matrix.parts], dtype=np.int64)
    reaches = [reach(piece, side) for _, piece in matrix.parts]
    numbers = np.array([columns * (end - start) for start, end in reaches], dtype=np.int64)
    owner = ranks == matrix.owner
    product, basis = np.where(owner, 0, 8 * (numbers + 1)), np.where(owner, 0, 4 * numbers)
    return Flow(ranks, np.where(owner, basis.sum(), product), np.where(owner, product.sum(), basis))
