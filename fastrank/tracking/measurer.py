"""Measurer: the way in which tracked matrices are measured after a step, chosen anew each time.

sketches   on a CUDA device that the kernels serve: `SketchMeasurer`
counts     there as well, where a matrix is FP64 or empty: `CountMeasurer`
stacks     everywhere else, by PyTorch: `StackMeasurer`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import backend
from ..metrics import Tolerance
from .count_measurer import CountMeasurer
from .sketch_measurer import SketchMeasurer
from .source import Source
from .stack_measurer import StackMeasurer

if TYPE_CHECKING:
    from ..optim import Descent


class Measurer:
    """Measures the same matrices, or others in their places, time after time.

    Args:
        tolerances: of the ranks, at least one.
        spectrum: metrics of the whole spectrum that a row has columns for, of `row.SPECTRUM`.
        device: where the values go; if all matrices are there too, the kernels may serve.
    """

    def __init__(self, tolerances: Sequence[Tolerance], spectrum: Sequence[str], device: torch.device) -> None:
        self._spectrum, self._device = spectrum, device
        self._stacks = StackMeasurer(tolerances, spectrum, device)
        self._counts = CountMeasurer(tolerances, spectrum, device)
        self._sketches = SketchMeasurer(tolerances, spectrum, device)
        self._without_sketch: StackMeasurer | CountMeasurer = self._stacks
        """Which of the two was asked last."""

    @property
    def nbytes(self) -> int:
        """Bytes on the device that the kernels work in."""
        return self._sketches.nbytes + self._counts.nbytes

    def prepare(self, sources: Sequence[Source] | None) -> None:
        """Announce that the coming step will be measured, which may then `fuse` with it; None: that it will not be."""
        self._sketches.prepare(sources if sources is not None and self._by_sketch(sources) else None)

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Step some parameters of a refreshed `descent` in the pass that sketches them; return their `id`s."""
        return self._sketches.fuse(descent, grad_scale, found_inf)

    def measure(
        self, sources: Sequence[Source], due: bool, found_inf: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Measure all matrices, after a step.

        Args:
            sources: the matrices with their parameters.
            due: measure the whole spectrum as well.
            found_inf: on CUDA, not 0 where the step was not taken: what is carried to the next then stays as it is.

        Returns:
            Values `(matrices, columns)` FP64, see `row.columns`; and, where due and recorded, the singular values of
            all matrices, end to end.
        """
        if self._by_sketch(sources):
            values, sigma = self._sketches.measure(sources, due, found_inf)
        elif self._by_kernels(sources):
            self._without_sketch = self._counts
            values, sigma = self._counts.measure(sources, due)
        else:
            self._without_sketch = self._stacks
            values, sigma = self._stacks.measure([source.matrix for source in sources], due)
        recorded = due and "singular_values" in self._spectrum
        return values, torch.cat([sigma[i] for i in range(len(sources))]) if recorded else None

    def state(self) -> dict[str, Any] | None:
        """All that the sketches carry, if there are any. Waits for the device."""
        return self._sketches.state()

    def warm_starts(self) -> dict[int, Tensor]:
        """Where the search for sigma_1 goes on, of each matrix that has one and no sketch, by index."""
        return self._without_sketch.warm_starts()

    def load(self, sources: Sequence[Source], state: Mapping[str, Any] | None, starts: Mapping[int, Tensor]) -> None:
        """Go on from `state` and `warm_starts`, of what are now these. What another device left starts afresh."""
        if not self._by_sketch(sources):
            if self._by_kernels(sources):
                self._without_sketch = self._counts
                self._counts.load(sources, starts)
            else:
                self._without_sketch = self._stacks
                self._stacks.load([source.matrix for source in sources], starts)
        elif state is not None:
            self._sketches.load(sources, state)

    def _by_sketch(self, sources: Sequence[Source]) -> bool:
        """Products of FP64 numbers are not exact in FP64: such matrices are counted without a sketch."""
        exact = all(s.matrix.dtype != torch.float64 and s.matrix.numel() for s in sources)
        return self._by_kernels(sources) and exact

    def _by_kernels(self, sources: Sequence[Source]) -> bool:
        return backend.kernels_serve(self._device) and all(s.matrix.device == self._device for s in sources)
