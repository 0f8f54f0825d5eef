"""Sketch groups: which of the tracked matrices are sketched by the same launches, and what is carried of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..device_table import DeviceTable
from .source import Source

if TYPE_CHECKING:
    from ..kernels.sketch import Sketches
    from ..kernels.sketch.table import View


class Basis(NamedTuple):
    """What is carried of one matrix: bases of both sides, one of which is stale, and see `reference.sketch.Basis`."""

    right: Tensor
    """(n, k) FP32."""
    left: Tensor
    """(m, k) FP32."""
    kept: Tensor
    top: Tensor


class BasisGroup:
    """Matrices of one dtype and k."""

    def __init__(self, indices: list[int], sketches: Sketches, device: torch.device) -> None:
        from ..kernels.device import to_device

        self.indices, self.sketches = indices, sketches
        self.places = to_device(torch.tensor(indices, dtype=torch.int32), device)
        self.addresses, self.rows = DeviceTable(device), DeviceTable(device)
        self.compiled: set[object] = set()
        """Forms of a step for which the kernel that makes the product as well is there."""
        self.stepped: list[tuple[int, int]] | None = None
        """What a step that has made the product as well leaves behind, see `Source.state`; None: none has."""


def indices_of(sources: Sequence[Source], ks: Sequence[int]) -> Iterable[tuple[tuple[torch.dtype, int], list[int]]]:
    """Dtype and k of each group, and which of the matrices it has."""
    members: dict[tuple[torch.dtype, int, bool], list[int]] = {}
    for i, (source, k) in enumerate(zip(sources, ks, strict=True)):
        # No step is fused with the sketch of a copy, which must not keep that of its neighbours from being.
        members.setdefault((source.matrix.dtype, k, source.offset is None), []).append(i)
    return [((dtype, k), indices) for (dtype, k, _), indices in members.items()]


def views_of(sources: Sequence[Source], indices: Sequence[int]) -> list[View]:
    """How each matrix of a group stands in its parameter's memory; its noise is keyed by its index."""
    from ..kernels.sketch.table import View

    views = []
    for i in indices:
        (m, n), (down, across) = sources[i].matrix.shape, sources[i].matrix.stride()
        views.append(View(sources[i].offset or 0, m, n, down, across, i))
    return views


def are_whole(sources: Sequence[Source]) -> bool:
    """Whether the matrices are all there is of their parameters, so that stepping them steps those."""
    elements: dict[int, int] = {}
    for source in sources:
        if source.offset is None:
            return False
        elements[id(source.parameter)] = elements.get(id(source.parameter), 0) + source.matrix.numel()
    return all(elements[id(s.parameter)] == s.parameter.numel() for s in sources)
