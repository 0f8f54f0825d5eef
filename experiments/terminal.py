"""The terminal, or the file or pipe in its place, and plain tables for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 10_000  # columns


def open_console() -> Console:
    """The standard output. What goes into a file or a pipe is as wide as it is: nothing is cut short or wrapped."""
    from rich.console import Console  # not above: tables are printed where it is not installed

    return Console(width=None if sys.stdout.isatty() else WIDE)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Make one line of every row of texts. Columns are aligned, with two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
