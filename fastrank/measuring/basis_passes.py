"""Basis passes: which of the tracked matrices one launch multiplies with their bases, and what is carried of each.

The passes over the weights are what differs between matrices: a launch multiplies those of one dtype and one number of
columns k, in the optimizer's own pass where it can. All else is one launch of a kind for all matrices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..weights import Source

if TYPE_CHECKING:
    from ..kernels.launch import Tape
    from ..kernels.sketch import Sketches
    from ..kernels.sketch.table import Pass, View
    from ..kernels.step import Kind


class Basis(NamedTuple):
    """What is carried of one matrix (m, n) from step to step; see `reference.sketch.Basis` for the mathematics.

    There is a basis of either side, but only one of them is current: each step multiplies the matrix with the basis of
    one side, and makes that of the other side from the product.
    """

    right: Tensor
    """(n, k) FP32: V, the basis of the columns side."""
    left: Tensor
    """(m, k) FP32: U, the basis of the rows side."""
    kept: Tensor
    """(k,) int32: 1 for columns of the current basis that are orthonormal, 0 for the others (noise)."""
    top: Tensor
    """(k,) FP64: the first singular vector as last found, in coordinates of those columns; zero: not found yet."""


class BasisPass:
    """Matrices of one dtype and one number of columns k, which one launch multiplies with their bases.

    Attributes:
        sources: the matrices as they are now.
        is_whole: whether these make up their whole parameters, so that to step the ones is to step the others.
        parameters: `id`s of the parameters.
        kind: dtype and options of the step that the optimizer takes with all of them; None: it takes no such step.
        compiled: forms of the optimizer's step for which the kernel that steps and multiplies at once is compiled.
        stepped: `Source.state` of each matrix as a fused step leaves it; None: none has made the products.
    """

    def __init__(self, sketches: Sketches, given: Pass) -> None:
        self._sketches, self._pass = sketches, given
        self.indices, self.k = given.indices, given.k
        self.sources: list[Source] = []
        self.is_whole = False
        self.parameters: set[int] = set()
        self.kind: Kind | None = None
        self.compiled: set[object] = set()
        self.stepped: list[tuple[int, int]] | None = None
        self._tapes: dict[bool, tuple[object, Tape]] = {}

    def set(self, sources: Sequence[Source]) -> None:
        """Take the matrices of this pass from those of all passes, as they are now."""
        self.sources = [sources[i] for i in self.indices]
        self.parameters = {id(source.parameter) for source in self.sources}
        self.is_whole = _are_whole(self.sources)

    def multiply(self, addresses: Tensor) -> None:
        """Multiply the matrices, whose `addresses` `(all matrices,)` int64 are on the device."""
        self._play(False, addresses.data_ptr(), lambda: self._sketches.multiply(self._pass, addresses))

    def step(self, rows: Tensor, tables: Mapping[str, Tensor], kind: Kind, flags: Sequence[Tensor | None]) -> None:
        """Step the parameters and multiply what they become.

        Args:
            rows: `(all matrices,)` int64 on the device, of each matrix' parameter in the optimizer's `tables`.
            tables: `pointers`, `meta` and `hyper`, see `fastrank.kernels.step.descent`.
            kind: dtype and options of the step. flags: `grad_scale` and `found_inf`.
        """
        from ..kernels.step import sgd_sketch_

        given = [rows, *tables.values(), *flags]
        key = (kind, *(x if x is None else x.data_ptr() for x in given))
        scratch, (scale, found) = {**self._sketches.tensors, "rows": rows}, flags
        integers = self._sketches.integers
        self._play(True, key, lambda: sgd_sketch_(scratch, self._pass, tables, kind, scale, found, integers))

    def _play(self, fused: bool, key: object, body: Callable[[], None]) -> None:
        """Launches what `body` launches: as the last time, if the `key` is the same."""
        from ..kernels.launch import Tape

        last = self._tapes.get(fused)
        if last is None or last[0] != key:
            last = self._tapes[fused] = (key, Tape())
        last[1](body)


def same(sources: Sequence[Source], before: Sequence[Source]) -> bool:
    """Whether nothing has been replaced: the matrices are the very tensors of before, at the same addresses."""
    return sources is before or (len(sources) == len(before) and all(map(operator.is_, sources, before)))


def views_of(sources: Sequence[Source]) -> list[View]:
    """How each matrix lies in its parameter's memory; the index of a matrix is the key of its noise."""
    from ..kernels.sketch.table import View

    views = []
    for i, source in enumerate(sources):
        (m, n), (down, across) = source.matrix.shape, source.matrix.stride()
        views.append(View(source.offset or 0, m, n, down, across, i))
    return views


def _are_whole(sources: Sequence[Source]) -> bool:
    elements: dict[int, int] = {}
    for source in sources:
        if source.offset is None:
            return False
        elements[id(source.parameter)] = elements.get(id(source.parameter), 0) + source.matrix.numel()
    return all(elements[id(s.parameter)] == s.parameter.numel() for s in sources)
