"""Count measurer: measures on a CUDA device by counts alone, without sketches.

`ChosenMeasurer` chooses it if a matrix is empty, or FP64: nothing could be proven from the sketch of an FP64 matrix.

Every column of the history comes from the Gram of each matrix (but the whole spectrum of an FP64 matrix from the matrix
itself): the ranks by the law of inertia, sigma_1 by a power iteration, warm-started with the last step's basis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..counting import Chunk, GroupGrams, RaggedBatch, ShiftPair, scaled_singular_values
from ..device import capturing
from ..metrics import Tolerance
from ..reference import Moments, TopEigenvalue
from ..weights import Source
from .copies import Copies
from .row import metrics_of, row_of
from .stack_measurer import WarmStarts, by_group, by_matrix, interval_of, measure_stack, top_of


class CountMeasurer:
    """Measures a list of matrices after each step; any of them may have been replaced since the last step.

    Args:
        tolerances, spectrum: what a row has columns for, see `row.columns`.
        device: where all matrices are; the kernels serve it.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device) -> None:
        self._tolerances, self._spectrum, self._device = tolerances, spectrum, device
        self._copies = Copies()
        self._batch: RaggedBatch | None = None
        self._starts: WarmStarts = {}
        self._captured: list[tuple[RaggedBatch, WarmStarts]] = []  # what captured CUDA graphs read and write

    @property
    def nbytes(self) -> int:
        """Bytes of the kernels' workspace, and of copies of matrices."""
        return self._copies.nbytes + (0 if self._batch is None else self._batch.nbytes)

    def measure(self, sources: Sequence[Source], due: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """Measures all matrices: ranks, norms and, if it is `due`, the whole spectrum.

        Returns:
            Values `(matrices, columns)` FP64, see `row.columns`; and, if `due`, the singular values `(r,)` FP64 of each
            matrix, by its index.
        """
        matrices = [source.matrix for source in self._copies.settle(sources, write=True)]
        batch = self._batch_of(matrices)
        sigma: dict[int, Tensor] = {}
        starts: WarmStarts = {}
        tops: list[Tensor] = []
        spectra: list[list[Tensor]] = []
        values = []

        def wanted(chunk: Chunk, moments: Moments, grams: Iterator[GroupGrams]) -> list[ShiftPair]:
            """Finds sigma_1 (and the spectrum) of a chunk's matrices; says where to count, for each tolerance."""
            found = []
            for group, _, g in grams:
                found.append(top_of(g, self._starts.get(group)))
                starts[group] = found[-1].basis
                if due:
                    of_group, scale = scaled_singular_values(group.stack(matrices), g)
                    sigma.update(zip(group.indices, of_group * scale[:, None], strict=True))
                    spectra.append(metrics_of(of_group, self._spectrum, scale))
            value, certified = (torch.cat(x) for x in list(zip(*found, strict=True))[:2])
            tops.append(torch.where(certified, value.sqrt(), torch.nan))
            top = interval_of(TopEigenvalue(value, certified, value), moments.trace)
            return [batch.shift_pair(chunk, moments, t, top) for t in self._tolerances]

        for counted in batch.count(wanted):
            metrics_ = [torch.cat(x) for x in zip(*spectra, strict=True)]
            values.append(row_of(counted.moments, counted.bounds, tops.pop(), self._spectrum, metrics_))
            spectra.clear()
        if batch.empty:
            nothing = matrices[0].new_empty(len(batch.empty), 0, 1)
            values.append(measure_stack(nothing, self._tolerances, self._spectrum, due, None).values)
            sigma.update({i: values[-1].new_empty(0) for i in batch.empty if due})
        self._starts = self._in_place(starts)
        if capturing(self._device):
            self._captured.append((batch, self._starts))  # the graph reads and writes them as long as it lives
        return torch.cat(values)[batch.places], sigma

    def warm_starts(self) -> dict[int, Tensor]:
        """The warm start `(r, k)` of each matrix that has one, by its index."""
        return by_matrix(self._starts)

    def load(self, sources: Sequence[Source], starts: Mapping[int, Tensor]) -> None:
        """Go on from the warm starts `starts`, by index, of the matrices that `sources` now has."""
        matrices = [source.matrix for source in sources]
        self._starts = self._in_place(by_group(self._batch_of(matrices).groups, matrices, starts))

    def _in_place(self, starts: WarmStarts) -> WarmStarts:
        """Copies `starts` into the memory of the last step's warm starts, where shapes allow, and returns these: a CUDA
        graph that has captured a step reads its warm start there, and leaves the next one there."""
        for g, new in starts.items():
            old = self._starts.get(g)
            if old is not None and new is not None and (old.shape, old.device) == (new.shape, new.device):
                starts[g] = old.copy_(new)
        return starts

    def _batch_of(self, matrices: list[Tensor]) -> RaggedBatch:
        """The batch with its tables and workspace. It is made again only when a matrix has been replaced or moved;
        `RuntimeError` if that happens while a CUDA graph is captured."""
        if self._batch is None or not self._batch.fits(matrices):
            if capturing(self._device):
                raise RuntimeError("take one step with the same parameters before capturing it in a CUDA graph")
            self._batch = RaggedBatch(matrices, len(self._tolerances), keep=True)
            self._batch.allocate()
        return self._batch
