"""Ragged batch on a CUDA device: ranks of matrices of any shapes, counted by a few launches of the kernels.

Matrices are not copied: the kernels' tables point at them, and are made once for the same tensors. Gram matrices and
factors share one workspace. A batch that would exceed its budget is counted in chunks. The host waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..device import capturing
from ..metrics import RankBounds, Tolerance
from ..reference import Gram, Moments, power_of_two
from .batch import Group
from .bounds import Affine, Shifts, judge, shifts
from .growth import unpivoted
from .packing import packed

if TYPE_CHECKING:
    from ..kernels.count import Launches

BUDGET = 2**30
"""Bytes that Gram matrices, partial sums and factors may take at a time; one matrix may always take what it needs."""


class Chunk(NamedTuple):
    """Matrices that are in the workspace together, group after group. Its tensors `(b,)` are in this order."""

    groups: tuple[Group, ...]
    launches: Launches
    order: Tensor
    """(b,) FP64: r of each matrix."""
    inner: Tensor
    """(b,) FP64: n of each matrix."""

    @property
    def indices(self) -> list[int]:
        """Position of each matrix in the batch."""
        return [i for g in self.groups for i in g.indices]


class GroupGrams(NamedTuple):
    """Gram matrices of one group of a chunk."""

    group: Group
    rows: slice
    """Where the group's matrices stand in the chunk's tensors."""
    gram: Gram


Top = tuple[Tensor, Tensor]
"""Lower and upper bound `(b,)` of lambda_1."""


class ShiftPair(NamedTuple):
    """The two shifts above which the kernels count for one tolerance, in the form that the kernels take."""

    coefficients: Tensor
    """(b, 2, 2) FP64: slope and intercept of the shift for the upper bound of the rank, then for the lower bound."""
    limits: Tensor
    """(b, 2, 2) FP64: the same of the largest growth that is believed at either shift."""

    @classmethod
    def of(cls, shifts: Shifts, trace: Tensor) -> ShiftPair:
        """Write `shifts` out for each matrix; `trace` `(b,)` gives the number of matrices and the device."""

        def written(*lines: Affine) -> Tensor:
            numbers = (x for line in lines for x in (line.slope, line.intercept))
            columns = [x.expand_as(trace) if isinstance(x, Tensor) else torch.full_like(trace, x) for x in numbers]
            return torch.stack(columns, -1).view(-1, 2, 2)

        return cls(written(shifts.upper, shifts.lower), written(shifts.limit, shifts.limit))


class Counted(NamedTuple):
    """The result of counting a chunk, in the chunk's order."""

    chunk: Chunk
    moments: Moments
    bounds: list[RankBounds]
    """One for each `ShiftPair`."""


class RaggedBatch:
    """Counts the ranks of the same matrices as often as it is asked to.

    Args:
        matrices: 2-D tensors of any strides and floating dtypes, on one device.
        tolerances: the largest number of tolerances to count for at a time (default 1).
        keep: store the whole Gram matrix of every matrix in the workspace, so that the caller can work on it.
        budget: bytes, see `BUDGET`.
        products: how many products of INT8 slices make the Gram matrix of a matrix that is not FP64, 10 or 13; 0
            (default): it is made in FP64.

    Attributes:
        empty: indices of matrices without elements, which are in no chunk.
        places: `(b,)` int64, position of each matrix of the batch in the order of the chunks, which `empty` follows.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        tolerances: int = 1,
        *,
        keep: bool = False,
        budget: int = BUDGET,
        products: int = 0,
    ) -> None:
        from ..kernels.count import Launches, workspace_bytes

        self.device = matrices[0].device
        self.tolerances, self._products = tolerances, products
        self._signature = signature(matrices)
        self._workspace: Tensor | None = None
        self._shift_pairs: dict[tuple[int, Tolerance], ShiftPair] = {}
        self.chunks = []
        for groups in packed(matrices, budget, lambda m: workspace_bytes(m, 2 * tolerances, keep, products)):
            members = [matrices[i] for g in groups for i in g.indices]
            order = torch.tensor([float(g.rows) for g in groups for _ in g.indices], dtype=torch.float64)
            inner = torch.tensor([float(g.columns) for g in groups for _ in g.indices], dtype=torch.float64)
            on_device = (x.to(self.device) for x in (order, inner))
            self.chunks.append(Chunk(groups, Launches(members, 2 * tolerances, keep, products=products), *on_device))
        self.empty = [i for i, matrix in enumerate(matrices) if not matrix.numel()]
        places = [i for c in self.chunks for g in c.groups for i in g.indices] + self.empty
        self.places = torch.tensor(places, dtype=torch.int64).argsort().to(self.device)

    def fits(self, matrices: Sequence[Tensor]) -> bool:
        """Whether `matrices` are the very tensors that the tables point at."""
        return signature(matrices) == self._signature

    @property
    def groups(self) -> list[Group]:
        """Groups of all chunks, one after the other."""
        return [g for chunk in self.chunks for g in chunk.groups]

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace."""
        return 8 * max((c.launches.size for c in self.chunks), default=0)

    def allocate(self) -> None:
        """Keep a workspace from now on; without this, every call takes one from PyTorch's allocator and returns it."""
        self._workspace = self._new_workspace()

    def bounds(self, tolerances: Sequence[Tolerance]) -> list[RankBounds]:
        """Bounds of the numerical ranks `(b,)` for each tolerance. No tolerance may be relative to sigma_1.

        Raises `ValueError` for more tolerances than the batch was made for.
        """
        chunks = list(
            self.count(lambda chunk, moments, grams: [self.shift_pair(chunk, moments, t) for t in tolerances])
        )
        return [self.in_order([c.bounds[i] for c in chunks]) for i in range(len(tolerances))]

    def count(self, wanted: Callable[[Chunk, Moments, Iterator[GroupGrams]], list[ShiftPair]]) -> Iterator[Counted]:
        """Count chunk by chunk, and yield the results in each chunk's own order.

        wanted: called with a chunk, its moments and its Gram matrices, which are there only if they are kept. Returns
            what to count, a `ShiftPair` for each tolerance. Unless Gram matrices are kept, the traces of tiny matrices
            are not among the moments yet: they are known after the count. More tolerances than the batch was made for
            raise `ValueError`, because the workspace has no place for their factors.
        """
        workspace = self._new_workspace() if self._workspace is None else self._workspace
        for chunk in self.chunks:
            launches = chunk.launches
            trace = torch.zeros_like(chunk.order)
            largest = launches.largest()
            scale = None if largest is None else power_of_two(largest)
            launches.sum_grams(workspace, trace, scale)
            ones = torch.ones_like(trace) if scale is None else scale
            error = launches.error if self._products else 0.0
            before = Moments(trace, ones, trace.isfinite(), chunk.order, chunk.inner, error)
            pairs = wanted(chunk, before, self._grams(chunk, workspace, before))
            if len(pairs) > self.tolerances:
                raise ValueError(f"tolerances: {len(pairs)}, but this batch was made for {self.tolerances} at a time")
            coefficients, limits = (torch.cat(x, 1) for x in zip(*pairs, strict=True))
            counts, growth, limits = launches.count(workspace, trace, scale, coefficients, limits, len(pairs))
            finite = trace.isfinite()
            moments = before._replace(trace=trace.masked_fill(~finite, 0.0), finite=finite)
            each = [(counts[:, i], growth[:, i]) for i in range(counts.shape[1])]
            places = range(0, len(each), 2)
            yield Counted(chunk, moments, [judge(moments, limits[:, i : i + 2], *each[i : i + 2]) for i in places])

    def shift_pair(self, chunk: Chunk, moments: Moments, tolerance: Tolerance, top: Top | None = None) -> ShiftPair:
        """The shifts for one tolerance; remembered if they do not depend on the values of the matrices."""
        key = (id(chunk), tolerance)
        if key in self._shift_pairs:
            return self._shift_pairs[key]
        pair = ShiftPair.of(shifts(moments, tolerance, unpivoted(chunk.order), top), moments.trace)
        constant = tolerance.relative_to != "spectral" and not chunk.launches.scaled and not self._products
        if constant and not capturing(self.device):  # a tensor made in a capture has no values before a replay
            self._shift_pairs[key] = pair
        return pair

    def in_order(self, parts: Sequence[RankBounds]) -> RankBounds:
        """Put the bounds of all chunks into the order of the matrices; an empty matrix has rank 0."""
        columns = zip(*parts, strict=True) if parts else ((), (), ())
        kinds = (torch.int64, torch.int64, torch.int8)
        empty = [torch.zeros(len(self.empty), dtype=kind, device=self.device) for kind in kinds]
        return RankBounds(*(torch.cat([*c, e])[self.places] for c, e in zip(columns, empty, strict=True)))

    def _new_workspace(self) -> Tensor:
        return torch.empty(self.nbytes // 8, dtype=torch.float64, device=self.device)

    def _grams(self, chunk: Chunk, workspace: Tensor, moments: Moments) -> Iterator[GroupGrams]:
        """Gram matrices `(b, r, r)` of each group, zero where a matrix is not finite."""
        start = 0
        for g in chunk.groups:
            shape, offset = chunk.launches.shapes[start], chunk.launches.offsets[start]
            rows = slice(start, start := start + len(g.indices))
            stack = workspace[offset : offset + len(g.indices) * shape.order**2].view(-1, shape.order, shape.order)
            finite = moments.finite[rows]
            whole = stack[:, : g.rows, : g.rows].masked_fill(~finite[:, None, None], 0.0)
            trace = moments.trace[rows].masked_fill(~finite, 0.0)
            error = moments.error[rows] if isinstance(moments.error, Tensor) else moments.error
            yield GroupGrams(g, rows, Gram(whole, trace, moments.scale[rows], finite, g.columns, error))


def signature(matrices: Sequence[Tensor]) -> list[tuple[object, ...]]:
    """What the tables of a batch depend on: with an equal signature they can be used again."""
    return [(m.data_ptr(), m.shape, m.stride(), m.dtype, m.device) for m in matrices]
