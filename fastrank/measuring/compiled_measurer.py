"""Compiled measurer: measures on a CPU by the kernels that Numba compiles, the matrices of all shapes in a few calls.

Every column of the history comes from one Gram of each matrix, but for a rank that its counts leave open, and the whole
spectrum, for which PyTorch computes all singular values.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..counting import CompiledBatch, Group, group, resolve_bounds, scaled_singular_values
from ..device import one_thread
from ..metrics import Status, Tolerance
from ..reference import TIGHT, exact_start, gram
from ..weights import Source
from .row import columns, metrics_of

EXACT = 1e-8
"""Relative error of sigma_1^2 at which the search for it ends, which is as much as is proven of it."""


class CompiledMeasurer:
    """Measures a list of matrices after each step, which are all on the CPU.

    Args:
        tolerances, spectrum: what a row has columns for, see `row.columns`.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str]) -> None:
        self._tolerances, self._spectrum = tolerances, spectrum
        self._more = len(columns(tolerances, spectrum)) - len(columns(tolerances, ()))
        self._batch: CompiledBatch | None = None
        self._kinds: list[tuple[torch.Size, torch.dtype]] = []
        self._matrices: list[Tensor] = []  # of the batch, if all are views: others would be kept alive by this

    @property
    def nbytes(self) -> int:
        """Bytes of the workspace. Grams and factors take at most `counting.compiled.GRAMS_AT_ONCE`, or those of the
        largest matrix, and each thread has factors of its own."""
        return 0 if self._batch is None else self._batch.nbytes

    def measure(self, sources: Sequence[Source], due: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """Measures all matrices: ranks, norms and, if it is `due`, the whole spectrum.

        Returns:
            Values `(matrices, columns)` FP64, see `row.columns`, in memory that the next call writes; and, if `due`,
            the singular values `(r,)` FP64 of each matrix, by its index.
        """
        matrices = [source.matrix for source in sources]
        batch = self._batch_of(matrices, all(source.offset is not None for source in sources))
        batch.measure(tops=True)
        values = torch.from_numpy(batch.values)
        if batch.unsettled:
            self._settle(batch, matrices, values)
        sigma: dict[int, Tensor] = {}
        if due:
            for g in group(matrices):
                with one_thread(g.rows):
                    of_group, scale = self._singular_values(batch, g, matrices)
                sigma.update(zip(g.indices, of_group * scale[:, None], strict=True))
                for i, metric in enumerate(metrics_of(of_group, self._spectrum, scale)):
                    values[list(g.indices), values.shape[1] - self._more + i] = metric
        elif self._more:
            values[:, -self._more :] = torch.nan
        if not self._matrices:
            batch.moved(())
        return values, sigma

    def warm_starts(self) -> dict[int, Tensor]:
        """The first eigenvector `(r, 1)` of the Gram of each matrix, by its index."""
        if self._batch is None:
            return {}
        vectors = torch.from_numpy(self._batch.vectors)
        return {i: vectors[own, None].clone() for i, own in enumerate(self._batch.places)}

    def load(self, sources: Sequence[Source], starts: Mapping[int, Tensor]) -> None:
        """Go on from the warm starts `starts`, by index, with the matrices as they are now. Of a basis the last vector
        is taken, which belongs to the largest eigenvalue."""
        batch = self._batch_of([source.matrix for source in sources], False)
        for i, own in enumerate(batch.places):
            start = starts.get(i)
            fits = start is not None and start.shape[0] == own.stop - own.start
            batch.vectors[own] = start[:, -1].double().numpy() if start is not None and fits else 0.0
        batch.moved(())
        self._matrices = []

    def _batch_of(self, matrices: list[Tensor], views: bool) -> CompiledBatch:
        """The batch, which is made again when a matrix has got another shape or dtype."""
        same = len(matrices) == len(self._matrices) and all(map(operator.is_, matrices, self._matrices))
        if self._batch is not None and same:
            return self._batch
        kinds = [(matrix.shape, matrix.dtype) for matrix in matrices]
        if self._batch is None or kinds != self._kinds:
            self._batch, self._kinds = CompiledBatch(matrices, self._tolerances, self._more, exact=EXACT), kinds
        else:
            self._batch.moved(matrices)
        self._matrices = matrices if views else []
        return self._batch

    def _singular_values(self, batch: CompiledBatch, g: Group, matrices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of a group of matrices, see `scaled_singular_values`. The batch's Grams are used where it still has them,
        and they are of no FP64 matrix."""
        if not batch.keeps_grams or matrices[g.indices[0]].dtype == torch.float64:
            return scaled_singular_values(g.stack(matrices))
        sigma, finite = torch.full((len(g.indices), g.rows), torch.nan, dtype=torch.float64), batch.finite
        for row, i in zip(sigma, g.indices, strict=True):
            if finite[i]:
                row.copy_(torch.linalg.eigvalsh(batch.gram(i)).clamp_(min=0).sqrt_().flip(0))
        return sigma, torch.from_numpy(batch.scale[list(g.indices)])

    def _settle(self, batch: CompiledBatch, matrices: Sequence[Tensor], values: Tensor) -> None:
        """Have singular values decide what the counts have left open, and sigma_1 where there is no proof of it."""
        lower, upper = batch.bounds[..., 0], batch.bounds[..., 1]
        undecided = (lower != upper) | (batch.status == Status.FALLBACK)
        if undecided.any():
            for i, tolerance in enumerate(self._tolerances):
                settled = resolve_bounds(batch.rank_bounds(i), matrices, tolerance)
                values[:, 2 * i], values[:, 2 * i + 1] = settled.lower.double(), settled.upper.double()
                batch.status[:, i] = settled.status.numpy()
            values[:, 2 * len(self._tolerances) + 3] = torch.from_numpy(batch.status).amax(1).double()
        for i in np.flatnonzero(batch.without_top()).tolist():
            with one_thread(min(matrices[i].shape)):
                g = gram((matrices[i].mT if batch.tall[i] else matrices[i])[None])
                top = exact_start(g.matrix, slack=TIGHT)
                sigma = torch.where(top.certified, top.value.sqrt(), torch.nan)
                norms = torch.cat([sigma, g.trace.sqrt()]) * g.scale
            at = 2 * len(self._tolerances)
            values[i, at], values[i, at + 1] = metrics.stable_rank(norms[1], norms[0]), norms[0]


def compile_for_cpu() -> None:
    """Have Numba compile the kernels, or load them from where it keeps them on disk."""
    CompiledBatch([torch.ones(1, 1, device="cpu")], [Tolerance()]).measure(tops=True)
