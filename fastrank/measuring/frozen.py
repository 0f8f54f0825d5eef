"""FrozenRows: rows of matrices that nobody trains, which are measured when they have changed and repeated otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..device import capturing
from ..weights import Source, version_of

SETTLING = 16
"""Measurements of a matrix that has changed, on CUDA: a sketch finds sigma_1 the better the more steps it has seen."""


class Measures(Protocol):
    """Something that measures matrices; see `device_measurer.ChosenMeasurer`."""

    def measure(self, sources: Sequence[Source], due: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """Values `(matrices, columns)` FP64 and, if `due`, the singular values of each matrix, by index."""


class Unchanged:
    """Whether matrices are what they were when they were last looked at.

    One has changed when its parameter was replaced, or written in place as PyTorch counts it. On a CPU it is compared
    with a copy as well, which tells what is written past that count, through `.data`. On CUDA such a write is not
    noticed, because the host would have to wait for the comparison.
    """

    def __init__(self) -> None:
        self._states: list[tuple[int, int, tuple[object, ...]]] | None = None
        self._seen: list[Tensor] = []
        """What was measured: on a CPU a copy, elsewhere the parameter, whose memory nothing else can take meanwhile."""

    def since(self, sources: Sequence[Source]) -> bool:
        """Whether these are what the last call was given."""
        states = [(_memory(s).data_ptr(), version_of(s.parameter), s.layout) for s in sources]
        if states == self._states and all(map(_is_same, sources, self._seen)):
            return True
        self._states, self._seen = states, [_kept(source) for source in sources]
        return False


class FrozenRows:
    """Measures a list of frozen matrices when one of them has changed, and repeats the last rows otherwise.

    Args:
        measurer: that measures them.
        device: where the values are.
        metrics: how many of the last columns are metrics of the whole spectrum.
    """

    def __init__(self, measurer: Measures, device: torch.device, metrics: int) -> None:
        self._measurer, self._device, self._metrics = measurer, device, metrics
        self._unchanged = Unchanged()
        self._left = 0
        self._due = False
        self._last: tuple[Tensor, dict[int, Tensor]] | None = None

    def measure(self, sources: Sequence[Source], due: bool) -> tuple[Tensor, dict[int, Tensor]]:
        """As `Measures.measure`. What a CUDA graph captures is measured at each replay, changed or not."""
        if capturing(self._device):
            return self._measurer.measure(sources, due)
        if not self._unchanged.since(sources):
            self._due = False
            self._left = SETTLING if self._device.type == "cuda" else 1
        if self._left or (due and not self._due):
            self._last = self._measurer.measure(sources, due)
            self._left, self._due = max(0, self._left - 1), due
        assert self._last is not None
        values, sigma = self._last
        if self._due and not due and self._metrics:
            values = values.clone()
            values[:, -self._metrics :] = torch.nan
        return values, sigma if due else {}


def _memory(source: Source) -> Tensor:
    """What holds the numbers of a matrix: its parameter, of which the matrix may be a copy, or a shard of that."""
    return source.parameter if source.piece is None else source.matrix


def _kept(source: Source) -> Tensor:
    return source.matrix.clone() if source.matrix.device.type == "cpu" else source.parameter.detach()


def _is_same(source: Source, seen: Tensor) -> bool:
    """Whether a matrix is still the one that was seen, as far as PyTorch's count of its writes does not say."""
    matrix = source.matrix
    if matrix.device.type != "cpu":
        return not matrix.is_inference()  # of which writes are not counted
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[matrix.element_size()]
    return torch.equal(matrix.view(bits), seen.view(bits))  # NaN is the same as NaN
