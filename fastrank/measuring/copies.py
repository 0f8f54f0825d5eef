"""Copies: lasting memory for matrices that cannot be views of their parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..device import UNPREPARED, capturing
from ..weights import Source


class Copies:
    """Memory that stays in its place, from step to step, for the matrices that are not views of their parameter.

    Where a parameter's strides allow no view, and where a layer makes its weight from other tensors, the matrix that is
    read is a copy, at another address each time. But the tables of the launches hold the addresses of matrices, and a
    CUDA graph that has captured a measurement makes the copy anew at each replay, at the address that it has captured.
    So the copies are kept here, one for each such matrix.
    """

    def __init__(self) -> None:
        self._of: dict[int, Tensor] = {}  # copies by the index of the matrix
        self._captured: list[Tensor] = []
        self._views: Sequence[Source] | None = None  # sources that are views, all of them

    @property
    def nbytes(self) -> int:
        return sum(copy.nbytes for copy in self._of.values())

    def settle(self, sources: Sequence[Source], *, write: bool) -> Sequence[Source]:
        """The same sources, with every copy moved into its lasting memory; views stay as they are.

        Memory is made for a matrix that is new, or has another shape, dtype or device, and receives its numbers.

        Args:
            sources: in the same order each time.
            write: let memory that was there already receive the present numbers, too.

        Raises:
            RuntimeError: a CUDA graph is being captured, and there is no memory for one of the copies yet.
        """
        if sources is self._views:
            return sources
        settled, before = list(sources), self._of
        self._of = {}
        for i, source in enumerate(sources):
            if source.offset is not None:
                continue
            matrix = source.matrix
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
            self._of[i], settled[i] = copy, source._replace(matrix=copy)
        self._views = None if self._of else sources
        return settled if self._of else sources
