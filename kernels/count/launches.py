"""Launches: which kernels count the ranks of a ragged batch, and which matrices each launch takes.

    sum_grams   `Grams`, and `trace_`
    multiply    `power_small_` and `power_`: vectors near the first eigenvectors
    shift       `shifts_`: where to count
    count       matrices small enough for `count.tiny`: `tiny_`, one launch a dtype and size, straight from W
                others, from their Grams: `inertia.Factors`, in CUDA C++ (which serves small matrices too) or in Triton
    recount     `again_` and `inertia.Factors`: for r > 512, where factors have grown too much

The size of every launch is known beforehand, and none waits for the host: a CUDA graph can capture them all. How a
matrix is cut into tiles and chunks depends on its own shape alone: it gives the same bits whatever is beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..cuda import build
from ..device import capability, current, to_device
from ..inertia import Factors, Problems, growth_parts, variants_of_factors
from ..inertia.table import OFFSET, Shape, slices_size
from ..launch import AnyVariant
from . import again, finish, gram, largest, power, row, shifts, tiny
from .answers import Answers
from .grams import Grams, chunk_of, cuttable, sorted_out, variants_of_grams
from .largest import largest_
from .power import SMALL, power_, power_small_
from .shifts import shifts_


def variants_of_counts(
    matrices: Collection[tuple[torch.dtype, Shape]], device: torch.device, products: int = 0
) -> list[AnyVariant]:
    """Every variant that a tracker's counts launch on `device`, for matrices of these dtypes and shapes."""
    dtypes, orders = {dtype for dtype, _ in matrices}, [shape.order for _, shape in matrices]
    found = variants_of_grams(matrices, products, device)
    if any(dtype != torch.float64 for dtype in dtypes):
        found += [shifts.shifts_variant(gram.config(capability(device)).block)]
        found += [power.POWER, power.POWER_SMALL, row.ROW]
    if torch.float64 in dtypes:  # which are not sketched, nor is any matrix beside them
        found += [finish.TRACE, largest.LARGEST]
    found += [again.AGAIN] if any(order > again.ABOVE for order in orders) else []
    return [*found, *variants_of_factors(orders, device)]


def workspace_bytes(matrix: Tensor, shifts: int, keep: bool, products: int = 0) -> int:
    """Bytes of workspace that `Launches` needs for a 2-D `matrix`: its Gram, partial sums of it, a factor a shift. Its
    slices are where the factors are later."""
    shape, at = Shape.of(matrix), capability(matrix.device)
    sliced = cuttable(matrix.dtype, shape, products)
    if not (keep or sliced) and _tiny_config(shape, matrix.device) is not None:
        return 0
    chunks = -(-shape.columns // chunk_of(shape, sliced, at))
    slices = slices_size(shape) if sliced else 0
    return 8 * shape.order**2 * chunks + max(8 * shape.order**2 * shifts, slices)


class Launches:
    """What is launched for one batch.

    Args:
        matrices: b of them, 2-D, on one device, with no side of 0 and of the dtypes in `limits.DTYPES`. Their memory is
            read at every launch: the caller keeps it alive.
        shifts: how many eigenvalue counts each matrix gets, S below.
        keep: store every Gram whole, both triangles, for others to read. Then `tiny_`, which stores none, is not used.
        pairs: how many pairs of them are of tolerances, see `Problems`; None: all.
        only: indices of the matrices that this object counts; None: all. All others have a row in the table too, so
            that tensors `(b, ...)` can be those of all matrices, shared by several such objects.
        decided: `(b,)` int32, see below; None: zeros of its own.
        products: how many products of INT8 slices, 10 or 13, make the Gram of a matrix that is not FP64; `tiny_` then
            counts none of these matrices. 0 (default): all Grams are made in FP64.

    Attributes:
        shapes: `Shape` of each matrix.
        table: `(b, FIELDS)` int64 on the device. A CUDA graph that has captured a launch reads it, and lists that only
            this object holds: it must not outlive them.
        decided: `(b,)` int32 on the device. The caller sets it, in place, where it knows the rank of a matrix already:
            kernels then skip the matrix, its count is 0 and its trace keeps its value.
        size: FP64 elements of the workspace: Grams, partial sums of Grams, and S factors a Gram, in this order. Slices
            are where the factors are later.
        offsets: where the Gram of each matrix begins in the workspace, in elements; meaningless where none is stored.
    """

    def __init__(
        self, matrices: Sequence[Tensor], shifts: int, keep: bool, *, pairs: int | None = None,
        only: Sequence[int] | None = None, decided: Tensor | None = None, products: int = 0,
    ) -> None:  # fmt: skip
        self.device = matrices[0].device
        self.shapes = [Shape.of(matrix) for matrix in matrices]
        self.decided = torch.zeros(len(matrices), dtype=torch.int32, device=self.device) if decided is None else decided
        self.keep = keep
        mine = range(len(matrices)) if only is None else only
        dtypes = [matrix.dtype for matrix in matrices]
        configs = {}
        if not keep:
            others = [i for i in mine if not cuttable(dtypes[i], self.shapes[i], products)]
            configs = {i: _tiny_config(self.shapes[i], self.device) for i in others}
        loose = {i: config for i, config in configs.items() if config is not None}
        stored = [i for i in mine if i not in loose]
        pointers = [matrix.data_ptr() for matrix in matrices]
        self._grams = Grams(pointers, self.shapes, dtypes, stored, keep, products, self.decided)
        self.table, self.offsets = self._grams.on_device, self._grams.table[:, OFFSET.value].tolist()
        self._gram, self._partial = self._grams.size, self._grams.partial
        self.size = self._gram + self._partial + max(self._gram * shifts, -(-self._grams.slices // 8))
        self.parts = max(growth_parts(shape.order, self.device) for shape in self.shapes)

        self._fp64 = self._ids([i for i in mine if dtypes[i] == torch.float64])
        self._stored = self._ids(stored)
        self._small = self._ids([i for i in stored if self.shapes[i].order <= SMALL])
        self._large = self._ids([i for i in stored if self.shapes[i].order > SMALL])
        tiny_ones = sorted_out(list(loose), lambda i: (dtypes[i], loose[i]))
        self._tiny = {key: self._ids(ids) for key, ids in tiny_ones.items()}
        rows = [shape.rows for shape in self.shapes]
        large = [i for i in stored if rows[i] > again.ABOVE]
        pairs = shifts // 2 if pairs is None else pairs
        made = {len(ids): Factors(rows, ids, self.device, shifts, pairs=pairs) for ids in (stored, large)}
        self._factors, self._again = made[len(stored)], made[len(large)]
        self._grown = self._ids(large)

    @property
    def error(self) -> Tensor:
        """`(b,)` FP64: bounds of what slices have changed in the last Grams, see `Grams.error`."""
        return self._grams.error

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
        with current(self.device):
            self._grams.make(*self._parts_of(workspace), workspace[self._gram + self._partial :], scale)

    def finish_grams(self, workspace: Tensor) -> None:
        """The second part of `sum_grams`: whole Grams, without their traces."""
        with current(self.device):
            self._grams.finish(*self._parts_of(workspace))

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
        assert self._grams.squares is not None
        given = (vectors, noise, tolerances, proof, self.table, self._stored, self.decided)
        with current(self.device):
            shifts_(answers, *given, workspace[: self._gram], self._grams.squares, self.error)

    def count(
        self, workspace: Tensor, trace: Tensor, scale: Tensor | None, coefficients: Tensor, limits: Tensor, pairs: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Counts the eigenvalues of each Gram above each shift. `sum_grams` comes first.

        Args:
            workspace: as `sum_grams` left it; the factors are written behind the Grams.
            trace: `(b,)` FP64 of `sum_grams`; those of the matrices that `tiny_` counts are written here.
            scale: as of `sum_grams`.
            coefficients: `(b, S, 2)` FP64, slope and intercept: shift = slope * trace + intercept. Overwritten.
            limits: `(b, S, 2)` FP64, the same of growth that is believed. pairs: as of `ldl.Problems`; 0: count once.

        Returns:
            counts `(b, S)` int64, growth of the factors `(b, S)` FP64, see `inertia.ldl`, and its limit.
        """
        counts = torch.zeros(coefficients.shape[:2], dtype=torch.int64, device=self.device)
        growth = coefficients.new_zeros(*counts.shape, self.parts)
        self.factor(problems := self.problems(workspace, trace, coefficients, counts, growth, pairs), scale)
        believed = (limits[..., 0] * trace[:, None] + limits[..., 1]).contiguous()
        if pairs:
            self.recount(problems, believed)
        return counts, growth.sum(-1), believed

    def problems(
        self, workspace: Tensor, trace: Tensor, coefficients: Tensor, counts: Tensor, growth: Tensor, pairs: int
    ) -> Problems:
        """What `factor` takes: the Grams of `workspace`, the place of the factors in it, and what else is given."""
        places = workspace[: self._gram], workspace[self._gram + self._partial :]
        progress = self._factors.progress(counts.shape[1])
        return Problems(self.table, self.decided, coefficients, trace, *places, counts, growth, pairs, progress)

    def factor(self, problems: Problems, scale: Tensor | None = None) -> None:
        """Counts as `count` does at first, into what `problems` has: its counts and growth are 0 before."""
        with current(self.device):
            for (dtype, config), ids in self._tiny.items():
                tiny.tiny_(problems, ids, scale if dtype == torch.float64 else None, dtype, config)
            self._factors.launch(problems)

    def recount(self, problems: Problems, limits: Tensor) -> None:
        """Counts large matrices again where factors have grown beyond `limits` `(b, S)` FP64; see `again.again_`."""
        with current(self.device):
            if len(self._grown):
                again.again_(problems, limits, self._grown)
                self._again.launch(problems._replace(progress=self._again.progress(limits.shape[1])))

    def _parts_of(self, workspace: Tensor) -> tuple[Tensor, Tensor]:
        """The Grams and the partial sums in a workspace; the latter are never empty, so that they have an address."""
        return workspace[: self._gram], workspace[self._gram : self._gram + max(self._partial, 1)]

    def _ids(self, ids: list[int]) -> Tensor:
        """`ids` on the device, the largest matrices first: what takes longest starts first."""
        ordered = sorted(ids, key=lambda i: (self.shapes[i].order, self.shapes[i].columns), reverse=True)
        return to_device(torch.tensor(ordered, dtype=torch.int32), self.device)


def _tiny_config(shape: Shape, device: torch.device) -> tiny.Config | None:
    """How `tiny_` counts matrices of this shape; None if it does not: in CUDA C++ a count from the Gram is faster."""
    return None if build.serves(device) else tiny.config(shape.rows, capability(device))
