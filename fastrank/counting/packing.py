"""Packing: choose which matrices of a ragged batch are in the workspace at the same time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from .batch import Group, group


def packed(matrices: Sequence[Tensor], budget: int, size: Callable[[Tensor], int]) -> Iterator[tuple[Group, ...]]:
    """Divide `matrices` into packs. A pack takes at most `budget` bytes, or holds one matrix that takes more.

    A pack is a tuple of groups, in order of first appearance. Matrices without elements are left out.

    Args:
        size: returns the bytes that a matrix takes, which are the same for all matrices of a group.
    """
    pack: list[Group] = []
    room = budget
    for g in group(matrices, sys.maxsize):
        left = g.indices if g.rows else ()
        each = size(matrices[g.indices[0]]) if left else 0
        while left:
            fitting = len(left) if each == 0 else max(0, room // each)
            taken = left[: fitting if fitting or room < budget else 1]
            if taken:
                pack.append(replace(g, indices=taken))
                room -= each * len(taken)
                left = left[len(taken) :]
            if left:
                yield tuple(pack)
                pack, room = [], budget
    if pack:
        yield tuple(pack)
