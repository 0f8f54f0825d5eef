"""Source: a tracked matrix with the parameter that it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from .pieces import Piece
from .readable import is_sharded


class _Fields(NamedTuple):
    matrix: Tensor
    parameter: Tensor
    frozen: bool = False
    """Whether the parameter is not trained, and the matrix depends on nothing else."""
    absent: bool = False
    """Whether there is no such matrix, and `matrix` only stands in for it: all NaN."""
    piece: Piece | None = None
    """Which part of a matrix `matrix` is, where several processes share it out; None: it is the whole."""


class Source(_Fields):
    """A tracked matrix and its parameter, of which the matrix is a view or, where strides allow none, a copy.

    The matrix of an effective weight is a copy, too: its parameter is the first of those that it is made from. What is
    asked of a source again and again is found out once: a parameter that has other memory gets another source.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the whole matrix."""
        return self.piece.shape if self.piece is not None else (self.matrix.shape[0], self.matrix.shape[1])

    @cached_property
    def offset(self) -> int | None:
        """Where the matrix starts in the parameter, in elements; None if it is a copy, with memory of its own.

        None, too, if the parameter is a DTensor, which has no memory: no step is fused with the sketch of its matrix.
        """
        if is_sharded(self.parameter):
            return None
        shared = self.matrix.untyped_storage().data_ptr() == self.parameter.untyped_storage().data_ptr()
        return int(self.matrix.storage_offset() - self.parameter.storage_offset()) if shared else None

    @cached_property
    def layout(self) -> tuple[object, ...]:
        """All that the launches' tables depend on, except for the address."""
        return (self.matrix.shape, self.matrix.stride(), self.matrix.dtype, self.offset)

    def state(self, steps: int = 0) -> tuple[int, int]:
        """Address of the matrix and version of the parameter: equal states mean neither was replaced nor written.

        Whoever writes a parameter in place counts its version up. steps: counts that are still to come (default 0).
        """
        return self.matrix.data_ptr(), version_of(self.parameter) + steps


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written in place; -1 for one made under `torch.inference_mode`, which does not count."""
    return -1 if tensor.is_inference() else tensor._version


ON_EACH = (
    "make a RankTracker on each of them once the model is sharded, or analyse full checkpoints with `fastrank analyze`"
)
"""What to do in place of reading matrices that no process has whole."""


def refuse_pieces(names: Sequence[str], sources: Sequence[Source], cure: str = ON_EACH) -> None:
    """Raise `ValueError` if a matrix is not whole in this process, for those who need all of it.

    Args:
        names: of the matrices.
        sources: the matrices.
        cure: what to do instead, for the error (default: track the model, or analyse a checkpoint).
    """
    for name, source in zip(names, sources, strict=True):
        if source.piece is not None:
            raise ValueError(f"{name!r} is sharded over several processes: {cure}")
