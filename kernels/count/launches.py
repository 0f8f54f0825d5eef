"""Launches: which kernels count the ranks of a ragged batch, and which matrices each launch takes.

    sum_grams   `gram_`, one launch a dtype; `finish_`, where a Gram is summed in chunks or is to be whole; `trace_`
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
from . import gram, largest, ldl, ldl_windows, power, tiny
from .largest import largest_
from .ldl import Problems
from .ldl_windows import factor_windows_
from .power import power_
from .table import OFFSET, Shape, rows_of

Key = TypeVar("Key", bound=Hashable)

ONE_PROGRAM_UP_TO = 512
"""Largest order that one program factors. For few matrices of order 512 both ways take about 0.25 ms by estimate: one
program has a chain of 512 pivots and 45 MFLOP for its multiprocessor, many have 4 windows of 3 launches. Not
measured."""
PRODUCTS = 8
"""Products of each Gram with a vector in search of lambda_1, see `count.power`. The square of the vector's error in
direction i falls by (lambda_i / lambda_1)^16. In training with layers of 100 x 100, k = 16 and noisy steps, sigma_1 is
known to 1e-4 in 85 to 100 % of the steps, depending on the layer, and without any products in 2 to 18 %."""


def variants_of_counts(orders: Collection[int], dtypes: Collection[torch.dtype], device: torch.device) -> list[Variant]:
    """Every variant that `Launches(..., keep=True)` may launch on `device`, for matrices of these orders and dtypes."""
    at = capability(device)
    found = [gram.gram_variant(dtype, dtype == torch.float64, gram.config(at)) for dtype in dtypes]
    found += [gram.finish_variant(True, gram.config(at)), gram.TRACE, power.POWER]
    if torch.float64 in dtypes:
        found.append(largest.LARGEST)
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

    Attributes:
        shapes: `Shape` of each matrix.
        table: `(b, FIELDS)` int64 on the device. A CUDA graph that has captured a launch reads it, and lists that only
            this object holds: it must not outlive them.
        decided: `(b,)` int32 on the device. The caller sets it, in place, where it knows the rank of a matrix already:
            kernels then skip the matrix, its count is 0 and its trace keeps its value.
        size: FP64 elements of the workspace: Grams, partial sums of Grams, and S factors a Gram, in this order.
        offsets: where the Gram of each matrix begins in the workspace, in elements; meaningless where none is stored.
    """

    def __init__(self, matrices: Sequence[Tensor], shifts: int, keep: bool) -> None:
        self.device = matrices[0].device
        self.shapes = [Shape.of(matrix) for matrix in matrices]
        self.decided = torch.zeros(len(matrices), dtype=torch.int32, device=self.device)
        self.keep = keep
        at = capability(self.device)
        block = gram.config(at).block
        configs = {} if keep else {i: tiny.config(shape.rows, at) for i, shape in enumerate(self.shapes)}
        loose = {i: config for i, config in configs.items() if config is not None}
        stored = [i for i in range(len(matrices)) if i not in loose]
        chunks = [gram.chunk_of(shape, block) for shape in self.shapes]
        pointers = [matrix.data_ptr() for matrix in matrices]
        table, self._gram, self._partial = rows_of(pointers, self.shapes, chunks, stored)
        self.table, self.offsets = to_device(table, self.device), table[:, OFFSET.value].tolist()
        self.size = self._gram * (1 + shifts) + self._partial
        self.parts = max(ldl.growth_parts(shape.order, at) for shape in self.shapes)

        dtypes = [matrix.dtype for matrix in matrices]
        self._fp64 = self._ids([i for i, dtype in enumerate(dtypes) if dtype == torch.float64])
        by_dtype = _sorted_out(stored, lambda i: dtypes[i])
        listed = {d: gram.tiles_of(self.shapes, ids, chunks, block) for d, ids in by_dtype.items()}
        self._tiles = {d: to_device(tiles, self.device) for d, tiles in listed.items()}
        cut = [i for i in stored if keep or self.shapes[i].columns > chunks[i]]
        whole = [shape.columns for shape in self.shapes]
        self._finish = to_device(gram.tiles_of(self.shapes, cut, whole, block), self.device)
        self._stored = self._ids(stored)
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
        grams, partial = workspace[: self._gram], workspace[self._gram : self._gram + max(self._partial, 1)]
        with current(self.device):
            for dtype, tiles in self._tiles.items():
                gram.gram_(
                    grams, partial, self.table, tiles, self.decided, scale if dtype == torch.float64 else None, dtype
                )
            if len(self._finish):
                gram.finish_(grams, partial, self.table, self._finish, self.decided, self.keep)
            if len(self._stored):
                gram.trace_(trace, self.table, self._stored, self.decided, grams)

    def multiply(self, workspace: Tensor, trace: Tensor, vectors: Tensor, rows: Tensor) -> None:
        """Replaces x by G x / trace `PRODUCTS` times, see `count.power`; needs the whole Grams (`keep`).

        Args:
            workspace, trace: as `sum_grams` left them.
            vectors: `(2, all matrices, width)` FP64, overwritten: x is read from `vectors[0]`, the products go to
                `vectors[1]`, back to `vectors[0]`, and so on.
            rows: `(b,)` integers, the row of `vectors` that belongs to each matrix of this batch.
        """
        places = rows.to(torch.int32)
        with current(self.device):
            for i in range(PRODUCTS):
                source, to = vectors[i % 2], vectors[(i + 1) % 2]
                power_(to, source, places, self.table, self.decided, trace, workspace)

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
        factors = workspace[self._gram + self._partial :]
        problems = Problems(
            self.table, self.decided, coefficients, trace, workspace[: self._gram], factors, counts, growth
        )
        with current(self.device):
            for (dtype, config), ids in self._tiny.items():
                tiny.tiny_(problems, ids, scale if dtype == torch.float64 else None, dtype, config)
            if len(self._one):
                ldl.factor_(problems, self._one)
            for order, ids in self._many.items():
                factor_windows_(problems, ids, order)
        return counts, growth.sum(-1)

    def _ids(self, ids: list[int]) -> Tensor:
        """`ids` on the device, the largest matrices first: what takes longest starts first."""
        ordered = sorted(ids, key=lambda i: (self.shapes[i].order, self.shapes[i].columns), reverse=True)
        return to_device(torch.tensor(ordered, dtype=torch.int32), self.device)


def _sorted_out(ids: Sequence[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for i in ids:
        found.setdefault(key(i), []).append(i)
    return found
