"""Source: a tracked matrix with its parameter, and memory that lasts for matrices that are copies of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing


class Source(NamedTuple):
    """A tracked matrix, and the parameter it is a view of."""

    matrix: Tensor
    parameter: Tensor

    @property
    def offset(self) -> int | None:
        """Where it starts in the parameter, in elements; None if it has memory of its own."""
        shared = self.matrix.untyped_storage().data_ptr() == self.parameter.untyped_storage().data_ptr()
        return int(self.matrix.storage_offset() - self.parameter.storage_offset()) if shared else None

    @property
    def layout(self) -> tuple[object, ...]:
        """What tables depend on, but for the address."""
        return (self.matrix.shape, self.matrix.stride(), self.matrix.dtype, self.offset)

    def state(self, steps: int = 0) -> tuple[int, int]:
        """Address, and the parameter's version, which whoever writes it in place counts up; after so many steps."""
        return self.matrix.data_ptr(), self.parameter._version + steps


class Copies:
    """Where the matrices are that have memory of their own, time after time.

    Where a parameter's strides allow no view, its matrix is a copy, made at another place whenever it is asked for.
    Tables of launches point at matrices, and a CUDA graph that has captured a measurement copies anew at each replay:
    here such a matrix stays in its place.
    """

    def __init__(self) -> None:
        self._of: dict[int, Tensor] = {}
        self._captured: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        return sum(copy.nbytes for copy in self._of.values())

    def settle(self, sources: Sequence[Source], *, write: bool) -> list[Source]:
        """The same sources, copies moved here. Where there is one of the same shape, it is overwritten only if asked.

        Raises:
            RuntimeError: a CUDA graph is being captured, and there is no memory for one of the copies yet.
        """
        settled, before = list(sources), self._of
        self._of = {}
        for i, (matrix, parameter) in enumerate(sources):
            if sources[i].offset is not None:
                continue
            in_capture = capturing(matrix.device)
            copy = before.get(i)
            if copy is None or (copy.shape, copy.dtype, copy.device) != (matrix.shape, matrix.dtype, matrix.device):
                if in_capture:
                    raise RuntimeError(UNPREPARED)
                copy = torch.empty_like(matrix, memory_format=torch.contiguous_format).copy_(matrix)
            elif write:
                copy.copy_(matrix)
            if in_capture:
                self._captured.append(copy)  # the graph writes and reads it as long as it lives
            self._of[i], settled[i] = copy, Source(copy, parameter)
        return settled
