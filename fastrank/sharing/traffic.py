"""Traffic: where a matrix is measured and which way it gets there, and the bytes that travel for it.

    local   one rank has all of the matrix, and measures it. Nothing travels.
    whole   all ranks that have a part send it to the owner, as it is, who measures the assembled matrix.
    gram    only for parts that are cut along the long side, so that the Gram of the matrix is the sum of theirs. Each
            of the c ranks with a part makes its packed FP64 Gram, of P bytes, and divides it into c slices. In a first
            exchange the i-th of them sends its slice j to the j-th, who adds up what it gets; in a second one each
            sends its sum to the owner, who is one of them.

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
