"""Thin: carries products with a few columns to the owners of matrices, and rows of the next bases back.

That is how a distributed power iteration goes. Each rank with a part of a matrix adds to the product only the rows that
its part reaches, and needs of the next basis just these rows again, as the next product is of the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .holdings import Spans
from .plan import Plan, rounds_of
from .ranks import Ranks
from .traffic import Integers, Sketch, flows, reach, sketch_flow


class Share(NamedTuple):
    """What the part of a rank adds to a sketch, or what all parts have added up to."""

    product: Tensor
    """The rows that the part reaches, or all of them, of the product: `(rows, k)` FP64."""
    norm: Tensor
    """The share of ||W||_F^2, `()` FP64."""


class _Block(NamedTuple):
    """Rows of a product, and of the next basis, that travel between the owner of a matrix and a rank with a part.

    They are those from `start` up to `end`, and have so many `numbers`.
    """

    matrix: int
    start: int
    end: int
    numbers: int


class ThinMoves:
    """What travels for some sketches at one time, which every rank knows from the plan.

    Args:
        plan: that all ranks have made. ranks: the processes.
        sketches: of a step, or of a round of it; the same on all ranks.
        device: where the numbers are.

    Attributes:
        pieces: what this rank has of these matrices, by index, where it has a part that counts.
    """

    def __init__(self, plan: Plan, ranks: Ranks, sketches: Sequence[Sketch], device: torch.device) -> None:
        self._ranks, self._device = ranks, device
        self._parts = {sketch.matrix: plan.matrices[sketch.matrix].parts for sketch in sketches}
        self.pieces: dict[int, Spans] = {}
        self._shapes: dict[int, tuple[int, int]] = {}
        self._reaches: dict[tuple[int, int], tuple[int, int]] = {}
        self._out: list[list[_Block]] = [[] for _ in range(ranks.size)]
        self._in: list[list[_Block]] = [[] for _ in range(ranks.size)]
        me = ranks.rank
        for i, columns, side, *_ in sketches:
            matrix = plan.matrices[i]
            if matrix.owner == me:
                self._shapes[i] = matrix.shape[side], columns
            for rank, piece in matrix.parts:
                if me not in (rank, matrix.owner):
                    continue
                if rank == me:
                    self.pieces[i] = piece
                start, end = self._reaches[rank, i] = reach(piece, side)
                block = _Block(i, start, end, (end - start) * columns)
                if rank != matrix.owner:
                    to, blocks = (matrix.owner, self._out) if rank == me else (rank, self._in)
                    blocks[to].append(block)

    def to_owners(self, own: Mapping[int, Share]) -> dict[int, Share]:
        """Bring the products together on the owners of the matrices, in the order of ranks.

        Args:
            own: the shares of this rank, by index.
        """
        sent = [torch.cat([own[b.matrix].product.flatten(), own[b.matrix].norm[None]]) for b in _flat(self._out)]
        came = self._exchange(sent, torch.float64, self._out, self._in, 1)
        shares = {(self._ranks.rank, i): share for i, share in own.items()}
        for rank, blocks in enumerate(self._in):
            for block in blocks:
                numbers = next(came)
                product = numbers[:-1].view(block.end - block.start, -1)
                shares[rank, block.matrix] = Share(product, numbers[-1])
        return {i: self._added_up(i, shares) for i in self._shapes}

    def from_owners(self, columns: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Send every rank with a part its rows of the next basis, by index of the matrix.

        Args:
            columns: the whole basis `(rows, k)` FP32 of each matrix that this rank owns.
        """
        sent = [columns[b.matrix][b.start : b.end].flatten() for b in _flat(self._in)]
        came = self._exchange(sent, torch.float32, self._in, self._out, 0)
        me = self._ranks.rank
        rows = {i: x[slice(*self._reaches[me, i])] for i, x in columns.items() if (me, i) in self._reaches}
        for block in _flat(self._out):
            rows[block.matrix] = next(came).view(block.end - block.start, -1)
        return rows

    def _added_up(self, i: int, shares: Mapping[tuple[int, int], Share]) -> Share:
        product = torch.zeros(self._shapes[i], dtype=torch.float64, device=self._device)
        norm = product.new_zeros(())
        for rank, _ in self._parts[i]:
            product[slice(*self._reaches[rank, i])] += shares[rank, i].product
            norm += shares[rank, i].norm
        return Share(product, norm)

    def _exchange(
        self,
        sent: Sequence[Tensor],
        dtype: torch.dtype,
        out: Sequence[Sequence[_Block]],
        in_: Sequence[Sequence[_Block]],
        more: int,
    ) -> Iterator[Tensor]:
        """What comes, block by block. Each has `more` numbers beside those of its rows."""
        sizes_out, sizes_in = ([sum(b.numbers + more for b in blocks) for blocks in each] for each in (out, in_))
        flat = torch.cat([torch.empty(0, dtype=dtype, device=self._device), *sent])
        came = self._ranks.exchange(flat, sizes_out, sizes_in)
        return iter(torch.split(came, [b.numbers + more for b in _flat(in_)]))


def _flat(blocks: Sequence[Sequence[_Block]]) -> list[_Block]:
    return [block for own in blocks for block in own]


def rounds_of_sketches(plan: Plan, sketches: Sequence[Sketch], ranks: int) -> list[list[Sketch]]:
    """The sketches by what travels at the same time, as the rounds of a plan are made."""
    traffic = [sketch_flow(plan.matrices[i], columns, side) for i, columns, side, *_ in sketches]
    return [[sketches[place] for place in own] for own in rounds_of(traffic, ranks)]


def bytes_sent(plan: Plan, sketches: Sequence[Sketch], ranks: int) -> Integers:
    """The bytes that each rank sends to others `(ranks,)` in a step in which some matrices are sketched, so that these
    are decided, and all others travel as planned."""
    found = np.zeros(ranks, dtype=np.int64)
    sketched = {sketch.matrix for sketch in sketches}
    travelling = [plan.matrices[i] for own in plan.rounds for i in own if i not in sketched]
    for flow in (*flows(travelling), *(sketch_flow(plan.matrices[i], k, side) for i, k, side, *_ in sketches)):
        found[flow.ranks] += flow.sent
    return found
