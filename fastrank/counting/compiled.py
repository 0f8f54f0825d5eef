"""Compiled batch: a ragged batch on a CPU, counted by the kernels that Numba compiles (`fastrank.kernels.cpu`).

A chunk of the matrices is worked on at a time, so that their Grams stay in the caches. How many threads share the work
changes no bit of an answer, and neither does what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..metrics import RankBounds, Tolerance
from ..reference import normalized
from .bounds import LARGEST_TAU, absolute_tau, factor
from .workspace import Workspace

GRAMS_AT_ONCE = 8 * 2**20
"""Bytes of Grams, of which each takes about 4 r^2, that a chunk may have; one matrix may have more."""
FLOPS_A_THREAD = 2e7
"""Least work for one more thread: half a millisecond. Less is not worth waiting for one on a busy machine."""
Given = Callable[[slice], NDArray[np.float64]]
"""Lower and upper bound `(b', 2)` of tau^2 of a slice of the matrices, whose sigma_1 is known by then."""


class CompiledBatch:
    """Matrices on a CPU.

    Args:
        matrices: a stack `(b, m, n)`, or 2-D tensors of any shapes, floating dtypes and strides.
        tolerances: of the ranks; may be none.
        exact: relative error of sigma_1^2 at which the search for it ends (default 1e-13). What is proven is 1e-8, or
            more where rounding does not allow it.
        workspace: where Grams and factors are (default: memory of its own).
        more: columns that `values` has for metrics of the whole spectrum (default 0).

    Attributes:
        found: `(b, 4)` FP64: ||W||_F^2, and of sigma_1^2 an approximation and both bounds, all over scale^2.
        unsettled: how many matrices have open bounds, or no proven sigma_1, where tolerances were given.
        scale: `(b,)` FP64, powers of two; 1 unless W is FP64.
        bounds: `(b, T, 2)` int64, lower and upper bound of the ranks; status: `(b, T)` int8, of `Status`.
        values: `(b, 2 T + 4 + more)` FP64: rows of the history, see `fastrank.measuring.row`; NaN in the last columns.
        tall: `(b,)` bool: there are more rows than columns, and W^T W is the Gram.
        vectors: first eigenvectors of the Grams, one after the other, each padded to a multiple of 8: where the search
            for sigma_1 starts. Zeros at first.
    """

    def __init__(
        self,
        matrices: Tensor | Sequence[Tensor],
        tolerances: Sequence[Tolerance] = (),
        more: int = 0,
        *,
        exact: float = 1e-13,
        workspace: Workspace | None = None,
    ) -> None:
        from ..kernels.cpu import call, gram, tiles, work

        self._exact, self._work, self._call = exact, work, call.Work
        self._kinds_of = {torch.float32: gram.FP32, torch.float64: gram.FP64}
        self._matrices, self._tolerances, self._placed = matrices, tolerances, False
        shapes = [matrices.shape[1:]] * len(matrices) if isinstance(matrices, Tensor) else [m.shape for m in matrices]
        sides = np.array(shapes, np.int64).reshape(-1, 2)
        self.tall = sides[:, 0] > sides[:, 1]
        sides.sort(axis=1)
        self._orders, self._inners = sides[:, 0], sides[:, 1]
        b, t = len(sides), max(1, len(tolerances))
        padded = -(-self._orders // 8) * 8
        self._sizes, self._side = tiles.size(self._orders), tiles.SIDE
        self._table = np.zeros((b, work.FIELDS), np.int64)
        self._table[:, work.ORDER], self._table[:, work.INNER] = self._orders, self._inners
        self._table[:, work.VECTOR] = np.cumsum(padded) - padded
        self._kinds = _kinds(tolerances)
        self._given = np.zeros((b, t, 2))
        self._counts, self.bounds = np.zeros((b, t, 2), np.int64), np.zeros((b, t, 2), np.int64)
        self.status, self.scale = np.zeros((b, t), np.int8), np.ones(b)
        self.values = np.full((b, 2 * t + 4 + more), np.nan)
        self.vectors, self.found = np.zeros(int(padded.sum())), np.zeros((b, 4))
        self._chunks = list(self._divided())
        self._space = workspace or Workspace()
        self._grams = self._space.array("grams", max((int(self._sizes[c].sum()) for c in self._chunks), default=0))
        self._flops = float((self._orders**2 * (self._inners + self._orders * (len(self._kinds) + 1.0))).sum())
        self._share = work.scratch_size(int(self._orders.max(initial=0)), int(self._inners.max(initial=0)))
        self._scratch = np.empty(0)
        self._prepared: dict[tuple[int, ...], Any] = {}
        self.unsettled = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace, and of what is written about each matrix."""
        found = (self.found, self.values, self.vectors, self._counts, self.bounds)
        return sum(array.nbytes for array in (self._table, *found, self._grams, self._scratch))

    @property
    def places(self) -> list[slice]:
        """Where `vectors` has the eigenvector of each matrix."""
        starts = self._table[:, self._work.VECTOR].tolist()
        return [slice(start, start + order) for start, order in zip(starts, self._orders.tolist(), strict=True)]

    def moved(self, matrices: Tensor | Sequence[Tensor]) -> None:
        """Take other matrices of the same shapes and dtypes."""
        self._matrices, self._placed = matrices, False

    def renewed(self, matrices: Tensor | Sequence[Tensor], tolerances: Sequence[Tolerance]) -> None:
        """Be what would newly be made of other matrices of the same shapes and dtypes, and as many tolerances."""
        self.moved(matrices)
        self._tolerances, self._kinds[:] = tolerances, _kinds(tolerances)
        self.found.fill(0.0)
        self.vectors.fill(0.0)

    def measure(self, *, tops: bool = False, given: Given | None = None) -> None:
        """Measure the matrices as they are now.

        Args:
            tops: find sigma_1. It has to be known for a tolerance that is relative to it.
            given: tau^2 itself, where there are no tolerances; sigma_1 is found first.
        """
        work, threads, self.unsettled = self._work, self._threads(), 0
        for chunk in self._chunks:
            kept = self._place(chunk)  # so that what the table points to stays there
            for i, tolerance in enumerate(self._tolerances):
                if tolerance.relative_to == "absolute":
                    tau = absolute_tau(tolerance, torch.from_numpy(self.scale[chunk])).clamp(max=LARGEST_TAU)
                    self._given[chunk, i] = tau.square().numpy()[:, None]
            self._counts[chunk] = 0  # another thread may look at the lower bound before there is one
            last = work.PHASES if self._tolerances or given is not None else work.COUNTS
            if tops and given is None:
                self.unsettled += self._run(chunk, work.GRAMS, last, threads)
            else:
                self._run(chunk, work.GRAMS, work.TOPS if given is None else work.COUNTS, threads)
                if given is not None:
                    self._given[chunk, 0] = given(chunk)
                self.unsettled += self._run(chunk, work.COUNTS, last, threads)
            kept.clear()

    def rank_bounds(self, tolerance: int = 0) -> RankBounds:
        """The bounds for one tolerance. They share their memory with this batch."""
        lower, upper = self.bounds[:, tolerance, 0], self.bounds[:, tolerance, 1]
        return RankBounds(*map(torch.from_numpy, (lower, upper, self.status[:, tolerance])))

    @property
    def keeps_grams(self) -> bool:
        """Whether the Grams of all matrices are still there after `measure`, because they are one chunk."""
        return len(self._chunks) <= 1

    @property
    def finite(self) -> NDArray[np.bool_]:
        """`(b,)`: whether all elements of a matrix are, once it has been measured."""
        return np.isfinite(self.found[:, self._work.TRACE])

    def gram(self, i: int) -> Tensor:
        """The lower triangle `(r, r)` of the Gram of matrix `i`, as long as no other chunk has been worked on since."""
        order, at, side = int(self._orders[i]), int(self._table[i, self._work.GRAM]), self._side
        dense = np.zeros((-(-order // side) * side,) * 2)
        for start in range(0, order, side):
            end = start + side
            dense[start:end, :end] = self._grams[at : at + side * end].reshape(end, side).T
            at += side * end
        return torch.from_numpy(np.tril(dense)[:order, :order])

    def without_top(self) -> NDArray[np.bool_]:
        """`(b,)`: whether sigma_1 was looked for and not proven."""
        return np.asarray(self.found[:, self._work.HIGH] > self.found[:, self._work.LOW] * self._work.TIGHT)

    def _divided(self) -> Iterator[slice]:
        start, size = 0, 0
        for i, own in enumerate(self._sizes.tolist()):
            if i > start and 8 * (size + own) > GRAMS_AT_ONCE:
                yield slice(start, i)
                start, size = i, 0
            self._table[i, self._work.GRAM] = size
            size += own
        if len(self._sizes):
            yield slice(start, len(self._sizes))

    def _threads(self) -> int:
        """How many threads are worth having; each has a part of the workspace."""
        threads = min(torch.get_num_threads(), int(self._flops / FLOPS_A_THREAD) + 1)
        if len(self._scratch) < threads * self._share:
            self._scratch = self._space.array("scratch", threads * self._share)
        return threads

    def _run(self, chunk: slice, first: int, last: int, threads: int) -> int:
        """The phases from `first` up to `last`, for a chunk."""
        key = (chunk.start, threads)
        if key not in self._prepared:
            arrays = self._arrays(chunk) | {"bands": self._bands(chunk, threads)}
            self._prepared[key] = self._call(threads, self._exact, **arrays)
        return int(self._prepared[key].run(first, last, torch.get_num_threads()))

    def _arrays(self, own: slice) -> dict[str, NDArray[Any]]:
        """What the kernels read and write of a chunk."""
        of_matrices: dict[str, NDArray[Any]]
        of_matrices = {"table": self._table, "found": self.found, "scale": self.scale, "given": self._given}
        of_matrices |= {"counts": self._counts, "bounds": self.bounds, "status": self.status, "values": self.values}
        shared = {"kinds": self._kinds, "grams": self._grams, "vectors": self.vectors, "scratch": self._scratch}
        return {name: array[own] for name, array in of_matrices.items()} | shared

    def _bands(self, own: slice, threads: int) -> NDArray[np.int64]:
        """Tasks for the Grams of a chunk, the longest first. One that would keep the others waiting is cut up."""
        tiles = -(-self._orders[own] // 8)
        if threads == 1:
            whole = np.zeros((len(tiles), 3), np.int64)
            whole[:, 0], whole[:, 2] = np.arange(len(tiles)), tiles
            return whole
        flops = self._orders[own] ** 2.0 * self._inners[own]
        parts = np.ceil(flops * threads / max(flops.sum(), 1.0)).clip(1)
        tasks = []
        for i in np.argsort(-flops / parts, kind="stable").tolist():
            count, part = int(tiles[i]), int(parts[i])
            # the columns of a triangle, in parts of equal areas
            cuts = [*(round(count * (1 - (1 - j / part) ** 0.5) / 4) * 4 for j in range(part)), count]
            tasks += [(i, *ends) for ends in pairwise(cuts)]
        return np.array(tasks, np.int64).reshape(-1, 3)

    def _place(self, chunk: slice) -> list[Tensor]:
        """Write where the matrices of a chunk are; returns the copies that are read in place of matrices."""
        if self._placed:
            return []
        taken, rows, copies = self._matrices[chunk], [], []
        for i, stack in enumerate([taken] if isinstance(taken, Tensor) else taken, chunk.start):
            read = stack
            if stack.dtype == torch.float64:
                read, scale = normalized(stack if stack.ndim > 2 else stack[None])
                self.scale[i : i + len(scale)] = scale.numpy()
            elif stack.dtype != torch.float32:
                read = stack.float()
            if read is not stack:
                copies.append(read)  # with a leading axis, if it is FP64
            strides = read.stride()[-2:]
            rows.append((read.data_ptr(), self._kinds_of[read.dtype], *(strides[::-1] if self.tall[i] else strides)))
        own, work = self._table[chunk], self._work
        own[:, (work.ADDRESS, work.KIND, work.ROW_STRIDE, work.COLUMN_STRIDE)] = rows
        if isinstance(taken, Tensor):
            own[:, work.ADDRESS] += np.arange(len(taken)) * (read.stride(0) * read.itemsize)
        self._placed = len(own) == len(self._table) and not copies
        return copies


def _kinds(tolerances: Sequence[Tolerance]) -> NDArray[np.float64]:
    """Kind of each tolerance for the kernels, and the square of its value. Where there is none, tau is given."""
    from ..kernels.cpu import shifts

    kind = {"frobenius": shifts.FROBENIUS, "spectral": shifts.SPECTRAL, "absolute": shifts.GIVEN}
    pairs = [(kind[tolerance.relative_to], factor(tolerance) ** 2) for tolerance in tolerances]
    return np.array(pairs or [(shifts.GIVEN, 0.0)], np.float64)
