"""Block: consecutive rows on the host. A row is here what is measured in one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]
"""(rows, cols) of each matrix at a step."""

SKIPPED = -1
"""Step number of a row that must not be kept: the optimizer did not step (its gradients had overflowed)."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows in which every matrix has one shape."""

    steps: Tensor
    """(n,) int64."""
    values: Tensor
    """(n, matrices, columns) FP64."""
    spectra: dict[int, Tensor]
    """Singular values of all matrices, end to end, FP64, by the row's place in this block; only where recorded."""
    shapes: Shapes

    def row(self, i: int) -> Block:
        """Row `i` as a block of one row, which shares no memory with this block."""
        i %= len(self.steps)
        spectra = {0: self.spectra[i].clone()} if i in self.spectra else {}
        return Block(self.steps[i : i + 1].clone(), self.values[i : i + 1].clone(), spectra, self.shapes)

    def without_skipped(self) -> Block:
        """This block without its rows whose step is `SKIPPED`."""
        kept = (self.steps != SKIPPED).nonzero().flatten()
        if len(kept) == len(self.steps):
            return self
        place = {int(old): new for new, old in enumerate(kept)}
        spectra = {place[i]: sigma for i, sigma in self.spectra.items() if i in place}
        return Block(self.steps[kept], self.values[kept], spectra, self.shapes)

    def followed_by(self, other: Block) -> Block:
        """This block and the next, whose matrices have the same shapes, as one."""
        spectra = self.spectra | {len(self.steps) + i: sigma for i, sigma in other.spectra.items()}
        steps, values = torch.cat((self.steps, other.steps)), torch.cat((self.values, other.values))
        return Block(steps, values, spectra, self.shapes)


def join_small(blocks: list[Block], new: int, limit: int) -> None:
    """Join blocks, so that there are few although whoever reads the last row at every step makes blocks of one step.

    Args:
        blocks: consecutive blocks. Each new one is joined with those before it that are not larger than it.
        new: place of the first new block.
        limit: number of steps; a block of more is not joined with a later one.
    """
    while new < len(blocks):
        before, block = blocks[new - 1], blocks[new]
        if new and before.shapes == block.shapes and len(before.steps) <= min(len(block.steps), limit):
            blocks[new - 1 : new + 1] = [before.followed_by(block)]
            new -= 1
        else:
            new += 1
