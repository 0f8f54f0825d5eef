"""Source: a tracked matrix with its parameter; and Copies: lasting memory for matrices that cannot be views of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing


class Source(NamedTuple):
    """A tracked matrix and its parameter, of which the matrix is a view or, where strides allow none, a copy."""

    matrix: Tensor
    parameter: Tensor

    @property
    def offset(self) -> int | None:
        """Where the matrix starts in the parameter, in elements; None if it is a copy, with memory of its own."""
        shared = self.matrix.untyped_storage().data_ptr() == self.parameter.untyped_storage().data_ptr()
        return int(self.matrix.storage_offset() - self.parameter.storage_offset()) if shared else None

    @property
    def layout(self) -> tuple[object, ...]:
        """All that the launches' tables depend on, except for the address."""
        return (self.matrix.shape, self.matrix.stride(), self.matrix.dtype, self.offset)

    def state(self, steps: int = 0) -> tuple[int, int]:
        """Address of the matrix and version of the parameter: equal states mean neither was replaced nor written.

        Whoever writes a parameter in place counts its version up. steps: counts that are still to come (default 0).
        """
        return self.matrix.data_ptr(), self.parameter._version + steps


class Copies:
    """Memory that stays in its place, from step to step, for the matrices that are not views of their parameter.

    Where a parameter's strides allow no view, `matrices_of` makes a copy, at another address each time. But the tables
    of the launches hold the addresses of matrices, and a CUDA graph that has captured a measurement makes the copy anew
    at each replay, at the address that it has captured. So the copies are kept here, one for each such matrix.
    """

    def __init__(self) -> None:
        self._of: dict[int, Tensor] = {}  # copies by the index of the matrix
        self._captured: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        return sum(copy.nbytes for copy in self._of.values())

    def settle(self, sources: Sequence[Source], *, write: bool) -> list[Source]:
        """The same sources, with every copy moved into its lasting memory; views stay as they are.

        Memory is made for a matrix that is new, or has another shape, dtype or device, and receives its numbers.

        Args:
            sources: in the same order each time.
            write: let memory that was there already receive the present numbers, too.

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
