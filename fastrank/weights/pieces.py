"""Pieces: which part of a matrix this process has, where several processes share the matrix out.

A piece is a tuple of disjoint rectangles, `Span`s, whose elements follow each other in memory, each row by row. That of a
`DTensor` is one span, or none; that of a flattened parameter may begin and end in the midst of a row.
"""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """A rectangle of a matrix: rows from `top` up to `bottom`, columns from `left` up to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return (self.bottom - self.top) * (self.right - self.left)
