"""Pending: the rows that have arrived on the host and are in no complete part yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from . import ring
from .block import Block, join_small


class Pending:
    """Blocks of rows, in order.

    Args:
        keeps: whether all rows are kept, and not the last one alone.

    Attributes:
        blocks: the rows.
        previous: the last row before those.
        safe: whether all of them are on disk nevertheless.
        watched: set it to have the blocks that arrive kept in `arrived` as well.
        arrived: those that nobody has taken yet.
    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self.blocks: list[Block] = []
        self.previous: Block | None = None
        self.safe = True
        self.watched = False
        self.arrived: list[Block] = []

    @property
    def steps(self) -> int:
        """How many steps have rows here."""
        return sum(len(block.steps) for block in self.blocks)

    def last(self) -> Block | None:
        """The rows of the last step, as a block of one step."""
        return self.blocks[-1].row(-1) if self.blocks else self.previous

    def known(self) -> list[Block]:
        """The rows, or else the last one before them."""
        return list(self.blocks) or ([] if self.previous is None else [self.previous])

    def take(self, rows: ring.Ring, *, wait: bool) -> bool:
        """Move the rows here that have arrived or, if this is to `wait`, all that the ring has; returns whether there
        were any."""
        known = len(self.blocks)
        (rows.drain if wait else rows.collect)(self.blocks)
        if len(self.blocks) == known:
            return False
        self.safe = False
        if self.watched:
            self.arrived += self.blocks[known:]
        if self.keeps:
            join_small(self.blocks, known, ring.CAPACITY // 2)
        else:
            self.previous, self.blocks = self.last(), []
        return True

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        last = self.last()
        blocks = [asdict(block) for block in self.blocks]
        return {"blocks": blocks, "last": [asdict(last)] if last is not None else []}

    def load(self, state: Mapping[str, Any]) -> None:
        """Have the rows of a `state` instead."""
        self.blocks = [Block(**saved) for saved in state["blocks"]]
        self.previous = Block(**state["last"][0]) if state["last"] else None
        self.safe, self.arrived = False, []
