"""Tasks: in which order `ldl.cu` makes the tiles of its problems, and the memory in which its blocks hear of others.

A problem of r rows has n = ceil(r / 64) rows of tiles, and a task for each tile but those just below the diagonal,
which are made along with the tile beside them. A block takes the next task of the list that no other has taken, and
waits in it for earlier ones: a list is right where each task comes after those that it depends on. Here the columns of
tiles of a problem follow each other. Among problems, those that bound a rank from above come last, as they need not be
counted where the others have found full rank; else the one with the longest way to go comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..device import to_device

TILE = 64
FIELDS = 6
"""Fields of a task: matrix, shift, row and column of its tile, where the counters of the problem's tiles begin, and its
pivots."""


class Tasks(NamedTuple):
    """The tasks of a list of problems. They depend on sizes alone, and are only read: launches may share them."""

    tasks: Tensor
    """(n, FIELDS) int32, on the device"""
    tiles: int
    """Tiles of all problems."""
    pivots: int
    """Pivots of all problems, TILE for each row of tiles."""

    @classmethod
    def of(cls, rows: Sequence[int], ids: Sequence[int], shifts: int, pairs: int, device: torch.device) -> Tasks:
        """For the matrices `ids` and `shifts` each; of the first `pairs` pairs of shifts the first one comes last.

        rows: r of each matrix, by its index, at least 1.
        """
        parts, tile, pivot = [torch.empty(0, FIELDS + 2, dtype=torch.int32)], 0, 0
        by_size: dict[int, list[int]] = {}
        for i in ids:
            by_size.setdefault(-(-rows[i] // TILE), []).append(i)
        for n, of_size in by_size.items():
            way = _way(n)
            count = len(of_size) * shifts
            problem = torch.arange(count, dtype=torch.int32)
            made = torch.zeros(count, len(way), FIELDS + 2, dtype=torch.int32)
            made[:, :, 0] = torch.tensor(of_size, dtype=torch.int32).repeat_interleave(shifts)[:, None]
            made[:, :, 1] = (problem % shifts)[:, None]
            made[:, :, 2:4] = way
            made[:, :, 4] = (tile + problem * (n * (n + 1) // 2))[:, None]
            made[:, :, 5] = (pivot + problem * (n * TILE))[:, None]
            made[:, :, 6] = ((problem % shifts // 2 < pairs) & (problem % shifts % 2 == 0))[:, None]
            made[:, :, 7] = way[:, 1] - n  # the more columns of tiles are left, the earlier
            parts.append(made.flatten(0, 1))
            tile, pivot = tile + count * (n * (n + 1) // 2), pivot + count * n * TILE
        listed = torch.cat(parts)
        order = (listed[:, 6].long() * 2**32 + listed[:, 7]).argsort(stable=True)
        return cls(to_device(listed[order, :FIELDS].contiguous(), device), tile, pivot)

    @property
    def many(self) -> bool:
        """Whether a problem has more than one task."""
        return self.tiles > len(self.tasks)

    def progress(self) -> Progress:
        """Memory for launches of these tasks, one after the other."""
        device = self.tasks.device
        zeros = torch.zeros(self.tiles + 1, dtype=torch.int32, device=device)
        floats = torch.empty(self.pivots + self.tiles, dtype=torch.float64, device=device)
        above = torch.empty(self.tiles, dtype=torch.int32, device=device)
        return Progress(floats[: self.pivots], zeros[1:], floats[self.pivots :], above, zeros[:1])


class Progress(NamedTuple):
    """What the blocks of a launch tell each other, on the device. A launch leaves it as the next one needs it; two that
    are under way at the same time must not share it."""

    pivots: Tensor
    """FP64, written: d of each problem"""
    progress: Tensor
    """(tiles,) int32, counts up in every launch, by as much for each tile of a problem"""
    grown: Tensor
    """(tiles,) FP64, written: growth of each tile"""
    above: Tensor
    """(tiles,) int32, written: positive pivots of each tile"""
    counter: Tensor
    """(1,) int32, tasks that are taken; 0 between launches"""


@cache
def _way(n: int) -> Tensor:
    """Row and column `(tasks, 2)` int32 of the tile of each task of a problem with n rows of tiles, in their order."""
    column, row = torch.triu_indices(n, n, dtype=torch.int32)  # column by column
    keep = row - column != 1
    return torch.stack([row, column], -1)[keep]
