"""Pieces: which part of a matrix this process has, where several processes share the matrix out.

A piece is a tuple of disjoint rectangles, `Span`s, whose elements follow each other, each row by row. That of a
`DTensor` is one span or none, or several where two axes of a mesh shard the same axis of the weight unevenly. That of a
flattened parameter of the older `FullyShardedDataParallel` may begin and end in the midst of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .boxes import Box
from .readable import is_sharded

Run = tuple[int, int]
"""First index of consecutive ones, and their end."""
Runs = tuple[Run, ...]


class Span(NamedTuple):
    """A rectangle of a matrix: rows from `top` up to `bottom`, columns from `left` up to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the rectangle."""
        return self.bottom - self.top, self.right - self.left

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return (self.bottom - self.top) * (self.right - self.left)


class Piece(NamedTuple):
    """The part of a matrix that this process has."""

    shape: tuple[int, int]
    """(rows, cols) of the whole matrix."""
    spans: tuple[Span, ...]
    """Empty: it has nothing of it."""

    def views(self, local: Tensor) -> list[Tensor]:
        """The spans of `local`, which is the piece itself: 1-D where it begins or ends in the midst of a row, else
        `(rows, cols)` of the elements that are here."""
        if local.ndim == 1:
            sizes = [span.numel for span in self.spans]
            return [x.view(span.shape) for x, span in zip(torch.split(local, sizes), self.spans, strict=True)]
        tops, lefts = sorted({span.top for span in self.spans}), sorted({span.left for span in self.spans})
        rows = [next(s.shape[0] for s in self.spans if s.top == top) for top in tops]
        cols = [next(s.shape[1] for s in self.spans if s.left == left) for left in lefts]
        return [view for strip in torch.split(local, rows) for view in torch.split(strip, cols, dim=1)]


class Part(NamedTuple):
    """What this process has of a weight that is shared out: of a DTensor, or of a flattened parameter."""

    local: Tensor
    shape: tuple[int, ...]
    """Of the whole weight."""
    runs: tuple[tuple[Run, ...], ...]
    """Of a DTensor: which indices of each axis are here. Empty of a flattened parameter."""
    first: int = 0
    """Of a flattened parameter: which element of the weight, row by row, is the first one here."""

    def cut(self, box: Box) -> tuple[Tensor, Piece]:
        """The piece of the matrix in `box`, and where it is in that.

        Raises:
            ValueError: the piece is no small number of rectangles.
        """
        return self._cut_block(box) if self.runs else self._cut_flat(box)

    def _cut_block(self, box: Box) -> tuple[Tensor, Piece]:
        local, within = self.local, []
        for axis, (start, stop) in enumerate(zip(box.starts, box.stops, strict=True)):
            picks, at, own = [], 0, []
            for first, end in self.runs[axis]:
                low, high = max(first, start), min(end, stop)
                if low < high:
                    picks.append(local.narrow(axis, at + low - first, high - low))
                    own.append((low - start, high - start))
                at += end - first
            if not own:
                return local.new_empty(0, 0), Piece(box.shape, ())
            local = picks[0] if len(picks) == 1 else torch.cat(picks, axis)
            within.append(tuple(own))
        sizes = box.sizes
        columns = _joined([within[axis] for axis in box.columns], [sizes[axis] for axis in box.columns])
        spans = tuple(Span(*rows, *cols) for rows in within[box.rows] for cols in columns)
        return box.flattened(local, box.columns), Piece(box.shape, spans)

    def _cut_flat(self, box: Box) -> tuple[Tensor, Piece]:
        (start, end), *more = _joined(
            [((start, stop),) for start, stop in zip(box.starts, box.stops, strict=True)], self.shape
        )
        if more or box.columns != tuple(range(box.rows + 1, len(self.shape))):
            raise ValueError(f"shape {self.shape} is flattened, and its matrices are not one after the other in it")
        low, high = max(start, self.first), min(end, self.first + self.local.numel())
        if low >= high:
            return self.local.new_empty(0), Piece(box.shape, ())
        local = self.local.flatten()[low - self.first : high - self.first]
        spans = _rows_of(low - start, high - start, box.shape[1])
        return local.view(spans[0].shape) if len(spans) == 1 else local, Piece(box.shape, spans)


def _joined(runs: Sequence[Sequence[Run]], sizes: Sequence[int]) -> list[Run]:
    """Runs of the index that several axes of these sizes have together, the last of which runs fastest."""
    found = list(runs[0])
    for own, size in zip(runs[1:], sizes[1:], strict=True):
        if tuple(own) == ((0, size),):
            found = [(start * size, stop * size) for start, stop in found]
        elif all(stop - start == 1 for start, stop in found):
            found = [(start * size + low, start * size + high) for start, _ in found for low, high in own]
        else:
            raise ValueError("the columns that are here do not follow each other: the axes of a kernel are sharded")
    return found


def _rows_of(start: int, end: int, cols: int) -> tuple[Span, ...]:
    """The elements from `start` up to `end` of a matrix with `cols` columns, row by row, as rectangles."""
    first, last = start // cols, (end - 1) // cols
    if first == last:
        return (Span(first, first + 1, start - first * cols, end - first * cols),)
    cuts = [start, -(-start // cols) * cols, end // cols * cols, end]
    spans = []
    for low, high in pairwise(cuts):
        if low < high:
            left, whole = low % cols, (high - low) % cols == 0 and low % cols == 0
            right = cols if whole else left + high - low
            spans.append(Span(low // cols, low // cols + max(1, (high - low) // cols), left, right))
    return tuple(spans)


def part_of(weight: Tensor) -> Part:
    """What this process has of a DTensor.

    Raises:
        ValueError: its elements are sums that are still to be made.
    """
    tensor: Any = weight
    local = local_of(weight)
    if any(placement.is_partial() for placement in tensor.placements):
        raise ValueError(f"its placements are {tensor.placements}: redistribute() it to whole or sharded ones first")
    shape = tuple(weight.shape)
    runs = tuple(_runs(tensor.device_mesh, tensor.placements, shape, axis, local.device) for axis in range(len(shape)))
    sizes = tuple(sum(stop - start for start, stop in own) for own in runs)
    if sizes != tuple(local.shape):
        if local.numel():
            raise ValueError(f"its placements {tensor.placements} ask for {sizes} here, not {tuple(local.shape)}")
        local = local.new_empty(sizes)
    return Part(local, shape, runs)


def local_of(weight: Tensor) -> Tensor:
    """The shard of a DTensor in this process: the same object as long as it has the same memory."""
    with torch.no_grad():
        tensor: Any = weight
        local: Tensor = tensor.to_local()
    return local.detach() if local.requires_grad else local


def whole(tensor: Tensor) -> Tensor:
    """All numbers of a tensor, detached. A DTensor is gathered, for which all ranks of its mesh have to call this."""
    if not is_sharded(tensor):
        return tensor.detach()
    sharded: Any = tensor.detach()
    gathered: Tensor = sharded.full_tensor()
    return gathered


def summed(weight: Tensor) -> Tensor:
    """A DTensor with no sums that are still to be made, for which all ranks of its mesh have to call this."""
    from torch.distributed.tensor import Replicate

    tensor: Any = weight
    if not any(placement.is_partial() for placement in tensor.placements):
        return weight
    placements = [Replicate() if placement.is_partial() else placement for placement in tensor.placements]
    made: Tensor = tensor.redistribute(placements=placements)
    return made


def placed_as(tensor: Tensor, weight: Tensor | None) -> Tensor:
    """A tensor where a weight is. A gradient of a DTensor may be placed in another way, as sums that the optimizer's
    step makes: then all ranks of the mesh have to call this, as they have to take that step."""
    if weight is None or not (is_sharded(tensor) and is_sharded(weight)):
        return tensor
    own: Any = tensor
    place: Any = weight
    if own.device_mesh != place.device_mesh or own.placements == place.placements:
        return tensor
    placed: Tensor = own.redistribute(place.device_mesh, place.placements)
    return placed


@cache
def _runs(mesh: Any, placements: tuple[Any, ...], shape: tuple[int, ...], axis: int, device: torch.device) -> Runs:
    """Which indices along an axis of a DTensor are in this process: PyTorch's own answer, for the indices themselves,
    because the places of shards that are sharded again are not for others to guess."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    size = shape[axis]
    if mesh.get_coordinate() is None:
        return ()
    sharded = [hasattr(placement, "dim") and placement.dim % len(shape) == axis for placement in placements]
    if not any(sharded):
        return ((0, size),)
    along: list[Any] = []
    for placement, own in zip(placements, sharded, strict=True):
        if not own:
            along.append(Replicate())
        elif hasattr(placement, "split_factor"):  # as FSDP shards what is sharded along this axis already
            along.append(type(placement)(0, split_factor=placement.split_factor))
        else:
            along.append(type(placement)(0))
    indices = torch.arange(size, device=device)
    mine = distribute_tensor(indices, mesh, along, src_data_rank=None).to_local().tolist()
    runs: list[Run] = []
    for index in mine:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return tuple(runs)
