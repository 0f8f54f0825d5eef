"""Measurer: the same matrices measured again and again, with what is kept from one time to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastrank import backend
from fastrank.batch import Group, group
from fastrank.measure import RaggedMeasurement, columns, measure, measure_ragged
from fastrank.metrics import Tolerance
from fastrank.ragged import RaggedBatch


class Measurer:
    """Measures the same matrices, or what has taken their places, time after time.

    Args:
        tolerances, spectrum: see `fastrank.measure.measure`.
        device: where answers go; if all matrices are there too, the kernels may serve.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device) -> None:
        self._tolerances, self._spectrum, self._device = tolerances, spectrum, device
        self._columns = len(columns(tolerances, spectrum))
        self._groups: list[tuple[Group, Tensor]] = []
        self._grouped_for: list[tuple[torch.Size, torch.dtype, torch.device]] = []
        self._ragged: RaggedBatch | None = None
        self._bases: dict[Group, Tensor | None] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the kernels' workspace."""
        return 0 if self._ragged is None else self._ragged.nbytes

    def measure(self, matrices: list[Tensor], due: bool) -> tuple[Tensor, Tensor | None]:
        """Values `(matrices, columns)` and, where due and recorded, all singular values end to end."""
        if self._by_kernels(matrices):
            batch = self._batch_of(matrices)
            m = measure_ragged(batch, matrices, self._tolerances, self._spectrum, due, self._bases)
        else:
            m = self._measure_groups(matrices, due)
        self._bases = m.bases  # only groups that still exist: a matrix of a new shape starts afresh
        wanted = due and "singular_values" in self._spectrum
        return m.values, torch.cat([m.sigma[i] for i in range(len(matrices))]) if wanted else None

    def bases(self) -> dict[int, Tensor]:
        """The warm start of each matrix that has one, by index."""
        known = ((g, basis) for g, basis in self._bases.items() if basis is not None)
        return {i: b for g, basis in known for i, b in zip(g.indices, basis, strict=True)}

    def load_bases(self, matrices: list[Tensor], bases: Mapping[int, Tensor]) -> None:
        """Start from `bases`, by index, of what are now these `matrices`."""
        groups = self._batch_of(matrices).groups if self._by_kernels(matrices) else group(matrices)
        self._bases = {
            g: torch.stack([bases[i] for i in g.indices]).to(matrices[g.indices[0]].device)
            for g in groups
            if all(i in bases for i in g.indices)
        }

    def _measure_groups(self, matrices: list[Tensor], due: bool) -> RaggedMeasurement:
        now = [(m.shape, m.dtype, m.device) for m in matrices]
        if now != self._grouped_for:
            self._groups = [(g, torch.tensor(g.indices, device=self._device)) for g in group(matrices)]
            self._grouped_for = now
        values = torch.empty(len(matrices), self._columns, dtype=torch.float64, device=self._device)
        sigma: dict[int, Tensor] = {}
        bases: dict[Group, Tensor | None] = {}
        for g, places in self._groups:
            m = measure(g.stack(matrices), self._tolerances, self._spectrum, due, self._bases.get(g))
            values[places] = m.values.to(self._device, non_blocking=True)
            bases[g] = m.basis
            if m.sigma is not None:
                sigma.update(zip(g.indices, m.sigma.to(self._device), strict=True))
        return RaggedMeasurement(values, sigma, bases)

    def _by_kernels(self, matrices: list[Tensor]) -> bool:
        return backend.kernels_serve(self._device) and all(m.device == self._device for m in matrices)

    def _batch_of(self, matrices: list[Tensor]) -> RaggedBatch:
        """Tables and workspace, made again only when a matrix is another or elsewhere."""
        if self._ragged is None or not self._ragged.fits(matrices):
            self._ragged = RaggedBatch(matrices, len(self._tolerances), keep=True)
            self._ragged.allocate()
        return self._ragged
