"""Moves: carries out what a plan says of the matrices that travel, so that their owners can measure them.

All ranks go through the same rounds in the same order, and in a round through the same exchanges: one for each dtype
of the matrices that go whole, and two for Grams. What goes where was worked out when the plan was made, so that an
exchange has no more to tell than the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..reference import Gram, packed_gram, packed_size, unpacked
from .plan import Plan
from .ranks import Ranks
from .traffic import Placement, slices

Views = Callable[[int], list[Tensor]]
"""The spans that this rank has of the matrix of an index, each a 2-D tensor."""


class _Transfer(NamedTuple):
    """An exchange. A rank's own share of a matrix is not in it."""

    sent: list[tuple[int, int, int]]
    """In the order in which they are sent: index of the matrix, and first and last element of what is sent of it."""
    received: list[tuple[int, int, int]]
    """In the order in which they come: the rank, the index of the matrix, and how many elements come."""
    sizes_sent: list[int]
    sizes_received: list[int]


class Arrived(NamedTuple):
    """What has come to this rank in a round, by index of the matrix."""

    whole: dict[int, Tensor]
    """Matrices, in memory that the next round writes."""
    grams: dict[int, Gram]
    """Grams, each a stack of one."""


class Moves:
    """The rounds of a plan, or of some of its matrices.

    Args:
        plan: that all ranks have made.
        ranks: the processes.
        chosen: indices of the matrices that travel (default: all that do).
        device: where the numbers are.
        space: memory to assemble matrices in, by dtype, which other moves of the same plan use at other times. What it
            lacks is added (default None: memory of its own).

    Attributes:
        targets: for each round the matrices that this rank is to assemble, by index, in lasting memory.
    """

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        device: torch.device,
        chosen: Sequence[int] | None = None,
        space: dict[str, Tensor] | None = None,
    ) -> None:
        self._plan, self._ranks, self._device = plan, ranks, device
        wanted = None if chosen is None else set(chosen)
        rounds = [[i for i in own if wanted is None or i in wanted] for own in plan.rounds]
        rounds = [own for own in rounds if own]
        self._whole = [_by_dtype([i for i in own if plan.matrices[i].way == "whole"], plan) for own in rounds]
        self._grams = [[i for i in own if plan.matrices[i].way == "gram"] for own in rounds]
        self._transfers = [{dtype: self._to_owners(own) for dtype, own in whole.items()} for whole in self._whole]
        self._to_adders = [self._slices_out(own) for own in self._grams]
        self._sums_in = [self._to_owners(own, grams=True) for own in self._grams]
        me, travelling = ranks.rank, [(i, plan.matrices[i]) for own in rounds for i in own]
        self._spans = {
            (rank, i): spans for i, matrix in travelling for rank, spans in matrix.parts if me in (rank, matrix.owner)
        }
        self._slices = {
            (rank, i): own
            for i, matrix in travelling
            if matrix.way == "gram"
            for (rank, _), own in zip(matrix.parts, slices(packed_size(matrix.order), len(matrix.parts)), strict=True)
            if me in (rank, matrix.owner)
        }
        self.targets = self._allocated({} if space is None else space)

    def __len__(self) -> int:
        return len(self._whole)

    def run(self, number: int, views: Views) -> Arrived:
        """Have the matrices of a round travel."""
        for dtype, transfer in self._transfers[number].items():
            self._assemble(number, dtype, transfer, views)
        grams = self._add_up(number, views) if self._grams[number] else {}
        return Arrived(self.targets[number], grams)

    def _assemble(self, number: int, dtype: str, transfer: _Transfer, views: Views) -> None:
        matrices, targets, me = self._plan.matrices, self.targets[number], self._ranks.rank
        for i in self._whole[number][dtype]:
            if matrices[i].owner == me:
                _place(targets[i], self._spans.get((me, i), ()), views(i))
        sent = [view for i, _, _ in transfer.sent for view in views(i)]
        for rank, i, came in self._exchange(sent, transfer, dtype):
            spans = self._spans[rank, i]
            pieces = torch.split(came, [span.numel for span in spans])
            _place(targets[i], spans, [x.view(span.shape) for x, span in zip(pieces, spans, strict=True)])

    def _add_up(self, number: int, views: Views) -> dict[int, Gram]:
        """The Grams of this rank's own matrices, each the sum of those of its parts, added in the order of ranks."""
        matrices, me = self._plan.matrices, self._ranks.rank
        mine = [i for i in self._grams[number] if (me, i) in self._slices]
        packed = {i: packed_gram(_long(matrices[i], views(i)), matrices[i].order) for i in mine}
        transfer = self._to_adders[number]
        came = self._exchange([packed[i][start:end] for i, start, end in transfer.sent], transfer)
        own = [(me, i, packed[i][slice(*self._slices[me, i])]) for i in mine]
        sums = {i: torch.zeros_like(x) for _, i, x in own}
        for _, i, addend in sorted([*came, *own], key=lambda addend: addend[:2]):
            sums[i] += addend  # in the order of ranks: the same bits at every run
        del packed, came, own
        transfer = self._sums_in[number]
        came = self._exchange([sums[i] for i, _, _ in transfer.sent], transfer)
        owned = [i for i in mine if matrices[i].owner == me]
        whole = {i: sums[i].new_empty(packed_size(matrices[i].order)) for i in owned}
        for rank, i, addend in [*came, *((me, i, sums[i]) for i in owned)]:
            whole[i][slice(*self._slices[rank, i])] = addend
        return {i: unpacked(target, matrices[i].order, max(matrices[i].shape)) for i, target in whole.items()}

    def _exchange(
        self, sent: Sequence[Tensor], transfer: _Transfer, dtype: str = "float64"
    ) -> list[tuple[int, int, Tensor]]:
        """What comes: the rank, the index of the matrix, and the numbers, flat."""
        nothing = torch.empty(0, dtype=getattr(torch, dtype), device=self._device)
        flat = torch.cat([nothing, *(x.reshape(-1) for x in sent)])
        came = self._ranks.exchange(flat, transfer.sizes_sent, transfer.sizes_received)
        pieces = torch.split(came, [numel for _, _, numel in transfer.received])
        return [(rank, i, piece) for (rank, i, _), piece in zip(transfer.received, pieces, strict=True)]

    def _to_owners(self, indices: Sequence[int], *, grams: bool = False) -> _Transfer:
        """What ranks with a part of each matrix send to its owner: the part, or their slice of the sum of Grams."""

        def sizes() -> Iterator[tuple[int, int, int, int, int]]:
            for i in indices:
                matrix = self._plan.matrices[i]
                ranges = slices(packed_size(matrix.order), len(matrix.parts)) if grams else []
                for place, (rank, spans) in enumerate(matrix.parts):
                    start, end = ranges[place] if grams else (0, sum(span.numel for span in spans))
                    yield rank, matrix.owner, i, start, end

        return self._transfer(sizes())

    def _slices_out(self, indices: Sequence[int]) -> _Transfer:
        """What ranks with a part of each matrix send to each other of its packed Gram."""

        def sizes() -> Iterator[tuple[int, int, int, int, int]]:
            for i in indices:
                matrix = self._plan.matrices[i]
                ranges = slices(packed_size(matrix.order), len(matrix.parts))
                for source, _ in matrix.parts:
                    for (rank, _), (start, end) in zip(matrix.parts, ranges, strict=True):
                        yield source, rank, i, start, end

        return self._transfer(sizes())

    def _transfer(self, sizes: Iterator[tuple[int, int, int, int, int]]) -> _Transfer:
        """An exchange of (from rank, to rank, index, first element, end)."""
        me, count = self._ranks.rank, self._ranks.size
        sent, received = [], []
        sizes_sent, sizes_received = [0] * count, [0] * count
        for source, to, i, start, end in sizes:
            if source == to:
                continue
            if source == me:
                sent.append((to, i, start, end))
                sizes_sent[to] += end - start
            if to == me:
                received.append((source, i, end - start))
                sizes_received[source] += end - start
        sent.sort()
        return _Transfer([what for _, *what in sent], sorted(received), sizes_sent, sizes_received)  # type: ignore[misc]

    def _allocated(self, space: dict[str, Tensor]) -> list[dict[int, Tensor]]:
        """Memory for the matrices that this rank assembles, which all rounds share."""
        me, matrices = self._ranks.rank, self._plan.matrices
        own = [
            {dtype: [i for i in indices if matrices[i].owner == me] for dtype, indices in whole.items()}
            for whole in self._whole
        ]
        found: list[dict[int, Tensor]] = [{} for _ in own]
        for dtype in sorted({dtype for each in own for dtype in each}):
            numel = [sum(_numel(matrices[i]) for i in each.get(dtype, ())) for each in own]
            if dtype not in space or len(space[dtype]) < max(numel):
                space[dtype] = torch.empty(max(numel), dtype=getattr(torch, dtype), device=self._device)
            for targets, each in zip(found, own, strict=True):
                at = 0
                for i in each.get(dtype, ()):
                    targets[i] = space[dtype][at : at + _numel(matrices[i])].view(matrices[i].shape)
                    at += _numel(matrices[i])
        return found


def _by_dtype(indices: Sequence[int], plan: Plan) -> dict[str, list[int]]:
    dtypes = sorted({plan.matrices[i].dtype for i in indices})
    return {dtype: [i for i in indices if plan.matrices[i].dtype == dtype] for dtype in dtypes}


def _numel(matrix: Placement) -> int:
    return matrix.shape[0] * matrix.shape[1]


def _place(target: Tensor, spans: Sequence[tuple[int, int, int, int]], views: Sequence[Tensor]) -> None:
    for (top, bottom, left, right), view in zip(spans, views, strict=True):
        target[top:bottom, left:right] = view


def _long(matrix: Placement, views: Sequence[Tensor]) -> list[Tensor]:
    """Parts that are cut along the long side, with the short side as rows."""
    return [view.mT if matrix.cuts_rows else view for view in views]
