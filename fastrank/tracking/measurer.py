"""Measurer: the same matrices measured again and again, with what is kept from one time to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import backend
from ..counting import Group, RaggedBatch, group
from ..device import capturing
from ..metrics import Tolerance
from .measure import RaggedMeasurement, columns, measure, measure_ragged
from .sketch_measurer import SketchMeasurer
from .source import Copies, Source

if TYPE_CHECKING:
    from ..optim import Descent


class Measurer:
    """Measures the same matrices, or what has taken their places, time after time.

    Args:
        tolerances, spectrum: see `fastrank.tracking.measure.measure`.
        device: where answers go; if all matrices are there too, the kernels may serve.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device) -> None:
        self._tolerances, self._spectrum, self._device = tolerances, spectrum, device
        self._columns = len(columns(tolerances, spectrum))
        self._groups: list[tuple[Group, Tensor]] = []
        self._grouped_for: list[tuple[torch.Size, torch.dtype, torch.device]] = []
        self._copies = Copies()
        self._ragged: RaggedBatch | None = None
        self._sketch = SketchMeasurer(tolerances, spectrum, device)
        self._bases: dict[Group, Tensor | None] = {}
        self._captured: list[tuple[RaggedBatch, dict[Group, Tensor | None]]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the kernels' workspace."""
        return self._sketch.nbytes + self._copies.nbytes + (0 if self._ragged is None else self._ragged.nbytes)

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """Announces a measurement after the step that is to come, which may `fuse` with it, or that none is."""
        there = sources is not None and self._by_sketch([source.matrix for source in sources])
        self._sketch.prepare(sources if there else None)

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Steps some parameters of a refreshed `descent` in a pass that measures as well; their `id`s."""
        return self._sketch.fuse(descent, grad_scale, found_inf)

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Values `(matrices, columns)` and, where due and recorded, all singular values end to end.

        found_inf: on CUDA, not 0 where the step was not taken: what is carried then stays as it is.
        """
        wanted = due and "singular_values" in self._spectrum
        matrices = [source.matrix for source in sources]
        if self._by_sketch(matrices):
            values, sigma = self._sketch.measure(sources, due, found_inf)
            return values, torch.cat([sigma[i] for i in range(len(matrices))]) if wanted else None
        # Only bases of groups that still exist are kept: a matrix of a new shape starts afresh.
        if self._by_kernels(matrices):
            matrices = [source.matrix for source in self._copies.settle(sources, write=True)]
            batch = self._batch_of(matrices)
            m = measure_ragged(batch, matrices, self._tolerances, self._spectrum, due, self._bases)
            self._bases = self._in_place(m.bases)
            if capturing(self._device):
                self._captured.append((batch, self._bases))  # the graph reads and writes them as long as it lives
        else:
            m = self._measure_groups(matrices, due)
            self._bases = m.bases
        return m.values, torch.cat([m.sigma[i] for i in range(len(matrices))]) if wanted else None

    def state(self) -> dict[str, Any] | None:
        """Of the sketches, if there are any. Waits for the device."""
        return self._sketch.state()

    def load(self, sources: Sequence[Source], state: Mapping[str, Any] | None, bases: Mapping[int, Tensor]) -> None:
        """Start from `state` and `bases`, by index, of what are now these. What another device left starts afresh."""
        matrices = [source.matrix for source in sources]
        if not self._by_sketch(matrices):
            self._load_bases(matrices, bases)
        elif state is not None:
            self._sketch.load(sources, state)

    def bases(self) -> dict[int, Tensor]:
        """The warm start of each matrix that has one and no sketch, by index."""
        known = ((g, basis) for g, basis in self._bases.items() if basis is not None)
        return {i: b for g, basis in known for i, b in zip(g.indices, basis, strict=True)}

    def _load_bases(self, matrices: list[Tensor], bases: Mapping[int, Tensor]) -> None:
        by_kernels = self._by_kernels(matrices)
        groups = self._batch_of(matrices).groups if by_kernels else group(matrices)
        loaded: dict[Group, Tensor | None] = {
            g: torch.stack([bases[i] for i in g.indices]).to(matrices[g.indices[0]].device)
            for g in groups
            if all(i in bases for i in g.indices)
        }
        self._bases = self._in_place(loaded) if by_kernels else loaded

    def _in_place(self, bases: dict[Group, Tensor | None]) -> dict[Group, Tensor | None]:
        """`bases` in the memory of the last ones: there a CUDA graph that has captured a step finds its warm start, and
        leaves the next."""
        for g, new in bases.items():
            old = self._bases.get(g)
            if old is not None and new is not None and (old.shape, old.device) == (new.shape, new.device):
                bases[g] = old.copy_(new)
        return bases

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

    def _by_sketch(self, matrices: list[Tensor]) -> bool:
        """Products of FP64 numbers are not exact in FP64: such matrices are counted without a sketch."""
        return self._by_kernels(matrices) and all(m.dtype != torch.float64 and m.numel() for m in matrices)

    def _by_kernels(self, matrices: list[Tensor]) -> bool:
        return backend.kernels_serve(self._device) and all(m.device == self._device for m in matrices)

    def _batch_of(self, matrices: list[Tensor]) -> RaggedBatch:
        """Tables and workspace, made again only when a matrix is another or elsewhere; `RuntimeError` in a capture."""
        if self._ragged is None or not self._ragged.fits(matrices):
            if capturing(self._device):
                raise RuntimeError("take one step with the same parameters before capturing it in a CUDA graph")
            self._ragged = RaggedBatch(matrices, len(self._tolerances), keep=True)
            self._ragged.allocate()
        return self._ragged
