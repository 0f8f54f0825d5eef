"""Launches: which kernels count the ranks of a ragged batch, and which matrices each launch takes.

    sum_grams   `gram_`, one launch a dtype; `finish_`, where a Gram is summed in chunks or is to be whole; `trace_`
    multiply    `power_small_` and `power_`: vectors near the first eigenvectors
    shift       `shifts_`: where to count
    count       matrices small enough for `count.tiny`: `tiny_`, one launch a dtype and size, straight from W
                others, from their Grams: `factor_`, one program a matrix and shift, for r <= `ONE_PROGRAM_UP_TO`,
                and `factor_windows_`, many programs a matrix and shift, above

The plan is made once for a batch and kept. The size of every launch is known beforehand, and none waits for the host:
a CUDA graph can capture them all. How a matrix is cut into tiles and chunks depends on its own shape alone, so that it
gives the same bits whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..device import capability, current, to_device
from ..variant import Variant
from . import finish, gram, largest, ldl, ldl_windows, power, row, shifts, tiny
from .answers import Answers
from .largest import largest_
from .ldl import Problems
from .ldl_windows import factor_windows_
from .power import SMALL, power_, power_small_
from .shifts import shifts_
from .table import OFFSET, Shape, rows_of

Key = TypeVar("Key", bound=Hashable)

ONE_PROGRAM_UP_TO = 512
"""Largest order that one program factors. For few matrices of order 512 both ways take about 0.25 ms by estimate: one
program has a chain of 512 pivots and 45 MFLOP for its multiprocessor, many have 4 windows of 3 launches. Not
measured."""


def variants_of_counts(orders: Collection[int], dtypes: Collection[torch.dtype], device: torch.device) -> list[Variant]:
    """Every variant that a tracker's counts launch on `device`, for matrices of these orders and dtypes."""
    at = capability(device)
    found = [gram.gram_variant(dtype, dtype == torch.float64, gram.config(at)) for dtype in dtypes]
    found.append(finish.finish_variant(True, gram.config(at)))
    if any(dtype != torch.float64 for dtype in dtypes):
        found += [shifts.shifts_variant(gram.config(at).block), power.POWER, power.POWER_SMALL, row.ROW]
    if torch.float64 in dtypes:  # which are not sketched, nor is any matrix beside them
        found += [finish.TRACE, largest.LARGEST]
    if any(order <= ONE_PROGRAM_UP_TO for order in orders):
        found.append(ldl.variant_of(ldl.factor_kernel, ldl.config(at), IN_PLACE=False))
    if any(order > ONE_PROGRAM_UP_TO for order in orders):
        found += ldl_windows.variants_of(at)
    return found


def workspace_bytes(matrix: Tensor, shifts: int, keep: bool) -> int:
    """Bytes of workspace that `Launches` needs for a 2-D `matrix`: its Gram, partial sums of it, a factor a shift."""
    shape, at = Shape.of(matrix), capability(matrix.device)
    if not keep and tiny.config(shape.rows, at) is not None:
        return 0
    chunks = -(-shape.columns // gram.chunk_of(shape, gram.config(at).block))
    return 8 * shape.order**2 * (1 + shifts + chunks - 1)


class Launches:
    """What is launched for one batch.

    Args:
        matrices: b of them, 2-D, on one device, with no side of 0 and of the dtypes in `limits.DTYPES`. Their memory is
            read at every launch: the caller keeps it alive.
        shifts: how many eigenvalue counts each matrix gets, S below.
        keep: store every Gram whole, both triangles, for others to read. Then `tiny_`, which stores none, is not used.
        only: indices of the matrices that this object counts; None: all. All others have a row in the table too, so
            that tensors `(b, ...)` can be those of all matrices, shared by several such objects.
        decided: `(b,)` int32, see below; None: zeros of its own.

    Attributes:
        shapes: `Shape` of each matrix.
        table: `(b, FIELDS)` int64 on the device. A CUDA graph that has captured a launch reads it, and lists that only
            this object holds: it must not outlive them.
        decided: `(b,)` int32 on the device. The caller sets it, in place, where it knows the rank of a matrix already:
            kernels then skip the matrix, its count is 0 and its trace keeps its value.
        size: FP64 elements of the workspace: Grams, partial sums of Grams, and S factors a Gram, in this order.
        offsets: where the Gram of each matrix begins in the workspace, in elements; meaningless where none is stored.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        shifts: int,
        keep: bool,
        *,
        only: Sequence[int] | None = None,
        decided: Tensor | None = None,
    ) -> None:
        self.device = matrices[0].device
        self.shapes = [Shape.of(matrix) for matrix in matrices]
        zeros = torch.zeros(len(matrices), dtype=torch.int32, device=self.device)
        self.decided = zeros if decided is None else decided
        self.keep = keep
        mine = range(len(matrices)) if only is None else only
        at = capability(self.device)
        block = gram.config(at).block
        configs = {} if keep else {i: tiny.config(self.shapes[i].rows, at) for i in mine}
        loose = {i: config for i, config in configs.items() if config is not None}
        stored = [i for i in mine if i not in loose]
        chunks = [gram.chunk_of(shape, block) for shape in self.shapes]
        pointers = [matrix.data_ptr() for matrix in matrices]
        table, self._gram, self._partial = rows_of(pointers, self.shapes, chunks, stored)
        self.table, self.offsets = to_device(table, self.device), table[:, OFFSET.value].tolist()
        self.size = self._gram * (1 + shifts) + self._partial
        self.parts = max(ldl.growth_parts(shape.order, at) for shape in self.shapes)

        dtypes = [matrix.dtype for matrix in matrices]
        self._fp64 = self._ids([i for i in mine if dtypes[i] == torch.float64])
        by_dtype = _sorted_out(stored, lambda i: dtypes[i])
        listed = {d: gram.tiles_of(self.shapes, ids, chunks, block) for d, ids in by_dtype.items()}
        self._tiles = {d: to_device(tiles, self.device) for d, tiles in listed.items()}
        cut = [i for i in stored if keep or self.shapes[i].columns > chunks[i]]
        whole = [shape.columns for shape in self.shapes]
        self._finish = to_device(gram.tiles_of(self.shapes, cut, whole, block), self.device)
        self._stored = self._ids(stored)
        self._small = self._ids([i for i in stored if self.shapes[i].order <= SMALL])
        self._large = self._ids([i for i in stored if self.shapes[i].order > SMALL])
        squares = self._gram // finish.SMALLEST.value
        self._squares = torch.empty(squares, dtype=torch.float64, device=self.device) if keep else None
        tiny_ones = _sorted_out(list(loose), lambda i: (dtypes[i], loose[i]))
        self._tiny = {key: self._ids(ids) for key, ids in tiny_ones.items()}
        self._one = self._ids([i for i in stored if self.shapes[i].order <= ONE_PROGRAM_UP_TO])
        many = _sorted_out(
            [i for i in stored if self.shapes[i].order > ONE_PROGRAM_UP_TO], lambda i: self.shapes[i].order
        )
        self._many = {order: self._ids(ids) for order, ids in many.items()}

    @property
    def scaled(self) -> bool:
        """Whether there are FP64 matrices: each of them is divided by a power of two of its own."""
        return len(self._fp64) > 0

    def largest(self) -> Tensor | None:
        """Largest magnitude `(b,)` FP64 of each FP64 matrix, 0 for other dtypes; None if no matrix is FP64."""
        if not self.scaled:
            return None
        largest = torch.zeros(len(self.shapes), dtype=torch.float64, device=self.device)
        with current(self.device):
            largest_(largest, self.table, self._fp64)
        return largest

    def sum_grams(self, workspace: Tensor, trace: Tensor, scale: Tensor | None) -> None:
        """Writes the Grams that are stored into `workspace`, and their traces into `trace`.

        Args:
            workspace: `(size,)` FP64. trace: `(b,)` FP64.
            scale: `(b,)` FP64 powers of two that FP64 matrices are divided by; None if there are no FP64 matrices.
        """
        self.make_grams(workspace, scale)
        self.finish_grams(workspace)
        with current(self.device):
            if len(self._stored):
                finish.trace_(trace, self.table, self._stored, self.decided, workspace[: self._gram])

    def make_grams(self, workspace: Tensor, scale: Tensor | None = None) -> None:
        """The first part of `sum_grams`, which alone reads the matrices: the sums of products, chunk by chunk."""
        grams, partial = self._parts_of(workspace)
        with current(self.device):
            for dtype, tiles in self._tiles.items():
                divisor = scale if dtype == torch.float64 else None
                gram.gram_(grams, partial, self.table, tiles, self.decided, divisor, dtype)

    def finish_grams(self, workspace: Tensor) -> None:
        """The second part of `sum_grams`: whole Grams, without their traces."""
        grams, partial = self._parts_of(workspace)
        with current(self.device):
            if len(self._finish):
                finish.finish_(grams, partial, self.table, self._finish, self.decided, self._squares)

    def multiply(self, workspace: Tensor, vectors: Tensor, proof: Tensor) -> None:
        """Brings vectors nearer to the first eigenvectors, see `count.power`; needs the whole Grams (`keep`).

        Args:
            workspace: as `finish_grams` left it.
            vectors: `(2, b, width)` FP64, overwritten: the first x is read from `vectors[0]`. In the end `vectors[0]`
                has the last x, and `vectors[1]` has G x / ||x||.
            proof: as of `shifts_`.
        """
        grams = workspace[: self._gram]
        with current(self.device):
            if len(self._small):
                power_small_(vectors, self.table, self._small, self.decided, grams)
            if len(self._large):
                power_(vectors, self.table, self._large, self.decided, grams, proof)

    def shift(
        self, workspace: Tensor, vectors: Tensor, noise: Tensor, tolerances: Tensor, proof: Tensor, answers: Answers
    ) -> None:
        """Says where to count, for S / 2 - 1 tolerances and sigma_1, and prepares `answers`; see `shifts_`.

        workspace, vectors: as `multiply` left them; needs the whole Grams (`keep`).
        """
        assert self._squares is not None
        given = (vectors, noise, tolerances, proof, self.table, self._stored, self.decided)
        with current(self.device):
            shifts_(answers, *given, workspace[: self._gram], self._squares)

    def count(
        self, workspace: Tensor, trace: Tensor, scale: Tensor | None, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Counts the eigenvalues of each Gram above each shift. `sum_grams` comes first.

        Args:
            workspace: as `sum_grams` left it; the factors are written behind the Grams.
            trace: `(b,)` FP64 of `sum_grams`; those of the matrices that `tiny_` counts are written here.
            scale: as of `sum_grams`.
            coefficients: `(b, S, 2)` FP64, slope and intercept: shift = slope * trace + intercept.

        Returns:
            counts `(b, S)` int64 and growth of the factors `(b, S)` FP64, see `count.ldl`.
        """
        b, shifts = coefficients.shape[:2]
        counts = torch.zeros(b, shifts, dtype=torch.int64, device=self.device)
        growth = torch.zeros(b, shifts, self.parts, dtype=torch.float64, device=self.device)
        self.factor(self.problems(workspace, trace, coefficients, counts, growth), scale)
        return counts, growth.sum(-1)

    def problems(
        self, workspace: Tensor, trace: Tensor, coefficients: Tensor, counts: Tensor, growth: Tensor
    ) -> Problems:
        """What `factor` takes: the Grams of `workspace`, the place of the factors in it, and what else is given."""
        grams, factors = workspace[: self._gram], workspace[self._gram + self._partial :]
        return Problems(self.table, self.decided, coefficients, trace, grams, factors, counts, growth)

    def factor(self, problems: Problems, scale: Tensor | None = None) -> None:
        """Counts as `count` does, into what `problems` has: its growth is 0 before."""
        with current(self.device):
            for (dtype, config), ids in self._tiny.items():
                tiny.tiny_(problems, ids, scale if dtype == torch.float64 else None, dtype, config)
            if len(self._one):
                ldl.factor_(problems, self._one)
            for order, ids in self._many.items():
                factor_windows_(problems, ids, order)

    def _parts_of(self, workspace: Tensor) -> tuple[Tensor, Tensor]:
        """The Grams and the partial sums in a workspace; the latter are never empty, so that they have an address."""
        return workspace[: self._gram], workspace[self._gram : self._gram + max(self._partial, 1)]

    def _ids(self, ids: list[int]) -> Tensor:
        """`ids` on the device, the largest matrices first: what takes longest starts first."""
        ordered = sorted(ids, key=lambda i: (self.shapes[i].order, self.shapes[i].columns), reverse=True)
        return to_device(torch.tensor(ordered, dtype=torch.int32), self.device)


def _sorted_out(ids: Sequence[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for i in ids:
        found.setdefault(key(i), []).append(i)
    return found
