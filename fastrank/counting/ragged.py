"""Ragged batch on a CUDA device: matrices of any shapes, counted by a few launches of the kernels.

Matrices are not copied: the launches' tables point at them and are made once for the same tensors. Grams and factors
stand in one workspace, which is worked through in chunks where a budget says so. The host waits for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastrank import backend, ring
from fastrank.arrays import Matrices
from fastrank.batch import Group
from fastrank.bounds import UNIT, Shifts, judge, shifts, unpivoted_growth
from fastrank.metrics import RankBounds, Tolerance
from fastrank.packing import packed, workspace_bytes
from fastrank.reference.gram import Gram, Moments, power_of_two

if TYPE_CHECKING:
    from fastrank.kernels.launches import Launches

BUDGET = 2**30
"""Bytes that Grams, partial sums and factors may take at a time; one matrix may always take what it needs."""


class Chunk(NamedTuple):
    """Matrices that are in the workspace together, group after group."""

    groups: tuple[Group, ...]
    launches: Launches
    order: Tensor
    """(b,) FP64: r of each."""
    inner: Tensor
    """(b,) FP64: n of each."""

    @property
    def indices(self) -> list[int]:
        """Where each stands in the batch."""
        return [i for g in self.groups for i in g.indices]


class Grams(NamedTuple):
    """Of one group of a chunk."""

    group: Group
    rows: slice
    """Where the group stands in the chunk."""
    gram: Gram


Top = tuple[Tensor, Tensor]


class Lines(NamedTuple):
    """The two shifts of one tolerance, as the kernels are given them."""

    shifts: Shifts
    coefficients: Tensor
    """(b, 2, 2) FP64: slope and intercept of the upper bound's, then of the lower's."""

    @classmethod
    def of(cls, shifts: Shifts, trace: Tensor) -> Lines:
        """`trace` `(b,)` tells how many, and where."""
        numbers = (x for line in (shifts.upper, shifts.lower) for x in (line.slope, line.intercept))
        columns = [x.expand_as(trace) if isinstance(x, Tensor) else torch.full_like(trace, x) for x in numbers]
        return cls(shifts, torch.stack(columns, -1).view(-1, 2, 2))


class Counted(NamedTuple):
    """What came out for a chunk, in its own order."""

    chunk: Chunk
    moments: Moments
    bounds: list[RankBounds]


class RaggedBatch:
    """Counts of the same matrices, as often as they are asked for.

    Args:
        matrices: 2-D, of any strides and floating dtypes, on one device.
        tolerances: how many at a time, at most.
        keep: have every Gram in the workspace, whole, for others to work on.
        budget: bytes, see `BUDGET`.

    Attributes:
        empty: indices of matrices without elements, which no chunk has.
        places: where the chunks' matrices, one after the other and then the empty ones, belong: `(b,)` int64.
    """

    def __init__(
        self, matrices: Sequence[Tensor], tolerances: int = 1, *, keep: bool = False, budget: int = BUDGET
    ) -> None:
        from fastrank.kernels.launches import Launches

        self.device = matrices[0].device
        self.tolerances = tolerances
        self._signature = signature(matrices)
        self._workspace: Tensor | None = None
        self._lines: dict[tuple[int, Tolerance], Lines] = {}
        self.chunks = []
        for groups in packed(matrices, budget, partial(workspace_bytes, shifts=2 * tolerances, keep=keep)):
            members = [matrices[i] for g in groups for i in g.indices]
            order = torch.tensor([float(g.rows) for g in groups for _ in g.indices], dtype=torch.float64)
            inner = torch.tensor([float(g.columns) for g in groups for _ in g.indices], dtype=torch.float64)
            there = (x.to(self.device) for x in (order, inner))
            self.chunks.append(Chunk(groups, Launches(members, 2 * tolerances, keep), *there))
        self.empty = [i for i, matrix in enumerate(matrices) if not matrix.numel()]
        places = [i for c in self.chunks for g in c.groups for i in g.indices] + self.empty
        self.places = torch.tensor(places, dtype=torch.int64).argsort().to(self.device)

    def fits(self, matrices: Sequence[Tensor]) -> bool:
        """Whether these are the very matrices the tables point at."""
        return signature(matrices) == self._signature

    @property
    def groups(self) -> list[Group]:
        """Groups of all chunks."""
        return [g for chunk in self.chunks for g in chunk.groups]

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace."""
        return 8 * max((c.launches.size for c in self.chunks), default=0)

    def allocate(self) -> None:
        """Keep a workspace; without it every call takes one from PyTorch's allocator and gives it back."""
        self._workspace = self._new_workspace()

    def bounds(self, tolerances: Sequence[Tolerance]) -> list[RankBounds]:
        """Bounds of the numerical ranks `(b,)` for each tolerance, none of them relative to sigma_1.

        Raises `ValueError` for more tolerances than the batch was made for.
        """
        chunks = list(self.count(lambda chunk, moments, grams: [self.lines(chunk, moments, t) for t in tolerances]))
        return [self.in_order([c.bounds[i] for c in chunks]) for i in range(len(tolerances))]

    def count(self, wanted: Callable[[Chunk, Moments, Iterator[Grams]], list[Lines]]) -> Iterator[Counted]:
        """Counts chunk by chunk, in the chunk's own order.

        wanted: what to count, `Lines` for each tolerance, given a chunk, its moments and, if kept, its Grams. The
            traces of tiny matrices are known only after the count, unless all Grams are kept. More tolerances than
            the batch was made for raise `ValueError`: the workspace has no place for their factors.
        """
        workspace = self._new_workspace() if self._workspace is None else self._workspace
        for chunk in self.chunks:
            launches = chunk.launches
            trace = torch.zeros_like(chunk.order)
            largest = launches.largest()
            scale = None if largest is None else power_of_two(largest)
            launches.sum_grams(workspace, trace, scale)
            ones = torch.ones_like(trace) if scale is None else scale
            before = Moments(trace, ones, trace.isfinite(), chunk.order, chunk.inner)
            lines = wanted(chunk, before, self._grams(chunk, workspace, before))
            if len(lines) > self.tolerances:
                raise ValueError(f"tolerances: {len(lines)}, but this batch was made for {self.tolerances} at a time")
            counts, growth = launches.count(workspace, trace, scale, torch.cat([x.coefficients for x in lines], 1))
            finite = trace.isfinite()
            moments = before._replace(trace=trace.masked_fill(~finite, 0.0), finite=finite)
            each = [(counts[:, i], growth[:, i]) for i in range(counts.shape[1])]
            answers = zip(lines, each[::2], each[1::2], strict=True)
            yield Counted(chunk, moments, [judge(moments, x.shifts, upper, lower) for x, upper, lower in answers])

    def lines(self, chunk: Chunk, moments: Moments, tolerance: Tolerance, top: Top | None = None) -> Lines:
        """What to count for one tolerance; remembered where it is the same every time."""
        key = (id(chunk), tolerance)
        if key in self._lines:
            return self._lines[key]
        lines = Lines.of(shifts(moments, tolerance, unpivoted_growth(chunk.order), top), moments.trace)
        constant = tolerance.relative_to != "spectral" and not chunk.launches.scaled
        if constant and not ring.capturing(self.device):  # what a capture makes holds nothing before a replay
            self._lines[key] = lines
        return lines

    def top(self, chunk: Chunk, moments: Moments, vectors: Tensor, rows: Tensor) -> Tensor:
        """Lower bound of lambda_1 `(b,)` of a chunk that is in the workspace, whole, from about where it is.

        vectors: `(2, all matrices, width)` FP64; the chunk's `rows` of the first are started from, all are overwritten.
        """
        from fastrank.kernels.launches import PRODUCTS

        assert self._workspace is not None
        chunk.launches.multiply(self._workspace, moments.trace, vectors, rows)
        last, result = (vectors[i % 2, rows] for i in (PRODUCTS - 1, PRODUCTS))
        size = last.square().sum(-1)
        quotient = torch.where(size > 0, (last * result).sum(-1) / size, 0.0)
        # Rounding of the Gram's sums, and of the quotient's.
        return (quotient - UNIT * (moments.inner + 4 * moments.order + 64)).clamp(min=0) * moments.trace

    def in_order(self, parts: Sequence[RankBounds]) -> RankBounds:
        """Bounds of all chunks, in the order of the matrices; an empty matrix has rank 0."""
        columns = zip(*parts, strict=True) if parts else ((), (), ())
        kinds = (torch.int64, torch.int64, torch.int8)
        empty = [torch.zeros(len(self.empty), dtype=kind, device=self.device) for kind in kinds]
        return RankBounds(*(torch.cat([*c, e])[self.places] for c, e in zip(columns, empty, strict=True)))

    def _new_workspace(self) -> Tensor:
        return torch.empty(self.nbytes // 8, dtype=torch.float64, device=self.device)

    def _grams(self, chunk: Chunk, workspace: Tensor, moments: Moments) -> Iterator[Grams]:
        """Views of a group's Grams, `(b, r, r)`."""
        start = 0
        for g in chunk.groups:
            shape, offset = chunk.launches.shapes[start], chunk.launches.offsets[start]
            rows = slice(start, start := start + len(g.indices))
            stack = workspace[offset : offset + len(g.indices) * shape.order**2].view(-1, shape.order, shape.order)
            finite = moments.finite[rows]
            whole = stack[:, : g.rows, : g.rows].masked_fill(~finite[:, None, None], 0.0)
            trace = moments.trace[rows].masked_fill(~finite, 0.0)
            yield Grams(g, rows, Gram(whole, trace, moments.scale[rows], finite, g.columns))


def by_kernels(matrices: Matrices) -> bool:
    """Whether the kernels serve a call's input: all of it on one device of theirs, and not nothing."""
    data = matrices.data
    devices = {data.device} if isinstance(data, Tensor) else {matrix.device for matrix in data}
    return len(devices) == 1 and len(data) > 0 and backend.kernels_serve(devices.pop())


PLANS = 64
"""How many ragged batches are remembered between calls."""

_plans: OrderedDict[object, RaggedBatch] = OrderedDict()
_captured: list[RaggedBatch] = []


def planned(matrices: Matrices, *, keep: bool = False) -> RaggedBatch:
    """The ragged batch of these very matrices: made at the first call, remembered for the next ones.

    Raises:
        RuntimeError: a CUDA graph is being captured, and there was no first call before that.
    """
    data = matrices.data
    key = (isinstance(data, Tensor), tuple(signature([data] if isinstance(data, Tensor) else data)), keep)
    capturing = ring.capturing(data[0].device)
    if key not in _plans:
        if capturing:
            raise RuntimeError("A: call this once with the same tensors before capturing it in a CUDA graph")
        _plans[key] = RaggedBatch(list(data), keep=keep)
        if len(_plans) > PLANS:
            _plans.popitem(last=False)
    _plans.move_to_end(key)
    if capturing:
        _captured.append(_plans[key])  # the graph reads its tables as long as it lives
    return _plans[key]


def signature(matrices: Sequence[Tensor]) -> list[tuple[object, ...]]:
    """What tables depend on."""
    return [(m.data_ptr(), m.shape, m.stride(), m.dtype, m.device) for m in matrices]
