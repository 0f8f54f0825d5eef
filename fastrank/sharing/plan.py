"""Plan: which rank measures which matrix, which way it travels there, and what travels at the same time.

Every rank makes the same plan from the same declarations, without asking any other. All costs are therefore integers,
and all ties are broken by the order of matrices and ranks.

A step is over when the busiest rank is done, so the plan makes the load of the busiest rank small: the time of its
products, of its count, and of the bytes that it sends and receives, at nominal rates. Matrices are handed out one by
one, the most expensive first, each to the rank that is done with it first.

Which way a matrix travels follows from the same aim. Whole, it leaves nearly all of the work to its owner, and costs
the other ranks little. As a Gram it makes the owner's work short, but takes the time of all ranks that have a part:
with c of them, and P bytes of a packed Gram, about (c + 1) P bytes move, however long the long side is. A single large
matrix is better shared as a Gram, because the other ranks would be idle. Many matrices keep all ranks busy anyway, and
then the sum over all ranks decides. So the Gram's way is taken where it is shorter for the busiest rank and less work
for all ranks together. Where it is only the former, plans are made with the first 0, 1, 2, 4, ... of such matrices as
Grams, beginning with the one that would keep its owner busy for longest, and the best of these plans is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .costs import Cost, costs_of
from .holdings import Declared, Holding, Spans, agreed
from .traffic import Flow, Integers, Placement, Way, flows, packed_bytes

BUDGET = 256 << 20
"""Bytes that a rank receives in a round, unless they are of a single matrix."""


@dataclass(frozen=True)
class Plan:
    """Who measures what.

    Attributes:
        matrices: in the order that all ranks agree on.
        rounds: indices of the matrices that travel, by what travels at the same time. In a round a rank receives no
            more than `BUDGET` bytes, or those of one matrix. A matrix goes in the first round where there is room.
    """

    matrices: tuple[Placement, ...]
    rounds: tuple[tuple[int, ...], ...]

    @property
    def total(self) -> int:
        """Bytes that travel between ranks in a step."""
        return sum(int(flow.sent.sum()) for flow in self._flows)

    def sent(self, rank: int) -> int:
        """Bytes that a rank sends to other ranks in a step."""
        return int(self._by_rank[0][rank]) if rank < len(self._by_rank[0]) else 0

    def received(self, rank: int) -> int:
        """Bytes that a rank receives from other ranks in a step."""
        return int(self._by_rank[1][rank]) if rank < len(self._by_rank[1]) else 0

    def memory(self, rank: int) -> int:
        """Bytes that a rank needs at most beside its pieces, in the round that needs most.

        These are, in a round: all that it sends and all that it receives in both exchanges; a packed Gram for each
        matrix to whose Gram it contributes; of each matrix that it owns, the assembled matrix in its own dtype, or the
        packed Gram of the whole matrix; and, once, the full FP64 Gram of the largest order among those that it owns.
        Nothing of this is taken to be freed before the round ends. A local matrix needs its full Gram, and no round.
        Factors of a Gram, or its eigenvalues, come on top, as they do for a matrix that is not shared.
        """
        return int(self._by_rank[2][rank]) if rank < len(self._by_rank[2]) else 0

    def whole(self, indices: Sequence[int]) -> Plan:
        """A plan by which these matrices alone travel, whole, to the same owners."""
        matrices = tuple(replace(self.matrices[i], way="whole") for i in indices)
        ranks = 1 + max((rank for matrix in matrices for rank, _ in matrix.parts), default=0)
        rounds = tuple(tuple(indices[i] for i in own) for own in rounds_of(flows(matrices), ranks))
        changed = dict(zip(indices, matrices, strict=True))
        return Plan(tuple(changed.get(i, matrix) for i, matrix in enumerate(self.matrices)), rounds)

    @cached_property
    def _flows(self) -> list[Flow]:
        return flows(self.matrices)

    @cached_property
    def _by_rank(self) -> Integers:
        """Bytes sent, bytes received and bytes of memory `(3, ranks)`."""
        ranks = max((max((m.owner, *(rank for rank, _ in m.parts[-1:]))) for m in self.matrices), default=-1) + 1
        sent, received, memory = np.zeros((3, ranks), dtype=np.int64)
        for matrix in self.matrices:
            if matrix.way == "local":
                memory[matrix.owner] = max(memory[matrix.owner], 8 * matrix.order**2)
        for indices in self.rounds:
            held, square = np.zeros((2, ranks), dtype=np.int64)
            for i in indices:
                matrix, flow = self.matrices[i], self._flows[i]
                sent[flow.ranks] += flow.sent
                received[flow.ranks] += flow.received
                held[flow.ranks] += flow.sent + flow.received
                if matrix.way == "gram":
                    held[flow.ranks] += packed_bytes(matrix.order)
                held[matrix.owner] += packed_bytes(matrix.order) if matrix.way == "gram" else matrix.nbytes
                square[matrix.owner] = max(square[matrix.owner], 8 * matrix.order**2)
            np.maximum(memory, held + square, out=memory)
        return np.stack([sent, received, memory])


def make_plan(holdings: Sequence[Sequence[Holding]], last: Collection[str] = ()) -> Plan:
    """Decide which rank measures which matrix, and which way it travels there.

    Args:
        holdings: what each rank declares, by rank, each in its own order.
        last: names of the matrices that come behind all others, on each rank and together (default: none).

    Raises:
        ValueError: ranks differ about a matrix, no rank has some part of one, or pieces overlap without being equal.
    """
    declared = agreed(holdings, last)
    known: dict[Any, dict[Way, Cost]] = {}
    costs = []
    for matrix in declared:
        key = id(matrix.cut), matrix.dtype  # layers of one kind share their cut
        if key not in known:
            known[key] = costs_of(matrix)
        costs.append(known[key])
    ways, shares = _shared_out(declared, costs, len(holdings))
    parts: dict[Any, tuple[tuple[int, Spans], ...]] = {}
    placements = []
    for matrix, way, (ranks, owner) in zip(declared, ways, shares, strict=True):
        chosen = id(matrix.cut), ranks.tobytes()
        if chosen not in parts:
            parts[chosen] = tuple(sorted((r, p) for r, p in zip(ranks.tolist(), matrix.cut.pieces, strict=True) if p))
        shape, dtype = matrix.shape, matrix.dtype
        placements.append(Placement(matrix.name, shape, dtype, way, int(ranks[owner]), parts[chosen]))
    return Plan(tuple(placements), rounds_of(flows(placements), len(holdings)))


def _shared_out(
    declared: Sequence[Declared], costs: Sequence[dict[Way, Cost]], ranks: int
) -> tuple[list[Way], list[tuple[Integers, int]]]:
    """The way of each matrix; the rank that contributes each piece of it, and which of these is the owner."""
    ways = [_cheapest(cost) for cost in costs]
    undecided = [
        i
        for i, (way, cost) in enumerate(zip(ways, costs, strict=True))
        if way == "whole" and "gram" in cost and cost["gram"].busiest < cost["whole"].busiest
    ]
    undecided.sort(key=lambda i: (-costs[i]["whole"].busiest, i))
    counts = [0, *(1 << k for k in range(len(undecided).bit_length())), len(undecided)]
    best, limit = None, sys.maxsize
    for count in sorted({min(count, len(undecided)) for count in counts}):
        tried = list(ways)
        for i in undecided[:count]:
            tried[i] = "gram"
        chosen = [cost[way] for cost, way in zip(costs, tried, strict=True)]
        if best is not None and sum(cost.total for cost in chosen) >= limit * ranks:
            continue  # even if it were the same for all ranks
        handed = _handed_out([matrix.cut.holders for matrix in declared], chosen, ranks, limit)
        if handed is not None:
            limit, shares = handed
            best = tried, shares
    assert best is not None  # the first one
    return best


def _cheapest(cost: dict[Way, Cost]) -> Way:
    """The way that is at least as good both for the busiest rank and for all together; "whole" if none is."""
    if "local" in cost:
        return "local"
    gram, whole = cost.get("gram"), cost["whole"]
    return "gram" if gram and gram.busiest <= whole.busiest and gram.total <= whole.total else "whole"


def _handed_out(
    holders: Sequence[Integers], costs: Sequence[Cost], ranks: int, limit: int
) -> tuple[int, list[tuple[Integers, int]]] | None:
    """Who contributes and who owns, and the load of the busiest rank; None if that is not below `limit`.

    Of the replicas of a piece, the rank contributes that has least to do so far.
    """
    loads = np.zeros(ranks, dtype=np.int64)
    shares: list[tuple[Integers, int]] = [(loads, 0)] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i].busiest, i)):
        able = holders[i]
        by = able[:, 0] if able.shape[1] == 1 else able[np.arange(len(able)), loads[able].argmin(1)]
        load = loads[by]
        owning = load + costs[i].owning
        owner = int(owning.argmin())
        load += costs[i].contributing
        load[owner] = owning[owner]
        if load.max() >= limit:
            return None
        loads[by] = load
        shares[i] = by, owner
    return int(loads.max(initial=0)), shares


def rounds_of(flows: Sequence[Flow], ranks: int) -> tuple[tuple[int, ...], ...]:
    """Indices of matrices by round, see `Plan`."""
    rounds: list[list[int]] = []
    received = np.zeros((16, ranks), dtype=np.int64)
    for i, flow in enumerate(flows):
        if len(flow.ranks) < 2:
            continue
        receiving = flow.received > 0
        to, size = flow.ranks[receiving], flow.received[receiving]
        before = received[: len(rounds), to]
        room = ((before + size <= BUDGET) | (before == 0)).all(1)
        at = int(room.argmax()) if room.any() else len(rounds)
        if at == len(rounds):
            rounds.append([])
            if at == len(received):
                received = np.concatenate([received, np.zeros_like(received)])
        rounds[at].append(i)
        received[at, to] += size
    return tuple(map(tuple, rounds))
