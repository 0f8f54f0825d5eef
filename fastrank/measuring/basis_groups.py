"""Basis groups: which of the tracked matrices are sketched by the same launches, and what is carried of each.

`Bases` divides the matrices into such groups, and runs the launches of a step group by group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..device_table import DeviceTable
from ..weights import Source

if TYPE_CHECKING:
    from ..kernels.sketch import Sketches
    from ..kernels.sketch.table import View


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


class BasisGroup:
    """Matrices of one dtype and one number of columns k, which are sketched by the same launches.

    Args:
        indices: of the matrices, in the whole batch.
        sketches: their bases and the launches.
        device: where they are.

    Attributes:
        places: `(b,)` int32, `indices` on the device.
        addresses: table of the matrices' addresses.
        rows: table that says, for each matrix, in which row of the `Descent`'s tables its parameter stands.
    """

    def __init__(self, indices: list[int], sketches: Sketches, device: torch.device) -> None:
        from ..kernels.device import to_device

        self.indices, self.sketches = indices, sketches
        self.places = to_device(torch.tensor(indices, dtype=torch.int32), device)
        self.addresses, self.rows = DeviceTable(device), DeviceTable(device)
        self.compiled: set[object] = set()
        """Forms of the optimizer's step for which the kernel that steps and sketches at once is compiled."""
        self.stepped: list[tuple[int, int]] | None = None
        """`Source.state` of each matrix as the fused step leaves it; None: no fused step has made the product."""


def indices_of(sources: Sequence[Source], ks: Sequence[int]) -> Iterable[tuple[tuple[torch.dtype, int], list[int]]]:
    """Divides matrices, with `ks` columns each, into groups; returns ((dtype, k), indices of its matrices) of each."""
    members: dict[tuple[torch.dtype, int, bool], list[int]] = {}
    for i, (source, k) in enumerate(zip(sources, ks, strict=True)):
        # No step is fused with the sketch of a copy (offset None), and a group is fused as a whole or not at all: hence
        # copies have groups of their own.
        members.setdefault((source.matrix.dtype, k, source.offset is None), []).append(i)
    return [((dtype, k), indices) for (dtype, k, _), indices in members.items()]


def views_of(sources: Sequence[Source], indices: Sequence[int]) -> list[View]:
    """How each matrix of a group lies in its parameter's memory; the index of a matrix is the key of its noise."""
    from ..kernels.sketch.table import View

    views = []
    for i in indices:
        (m, n), (down, across) = sources[i].matrix.shape, sources[i].matrix.stride()
        views.append(View(sources[i].offset or 0, m, n, down, across, i))
    return views


def are_whole(sources: Sequence[Source]) -> bool:
    """Whether the matrices together make up their whole parameters, so that to step the ones is to step the others."""
    elements: dict[int, int] = {}
    for source in sources:
        if source.offset is None:
            return False
        elements[id(source.parameter)] = elements.get(id(source.parameter), 0) + source.matrix.numel()
    return all(elements[id(s.parameter)] == s.parameter.numel() for s in sources)
