"""The terminal, or the file or pipe in its place, and plain tables for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float, float], None] | None]:
    """A bar with the time that is left, on the standard error, which goes when it is done; None if that is no terminal.

    What it gives is called with how much is done, and how much there is to do.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600)
    with bar:
        task = bar.add_task(what, total=None)

        def tell(done: float, total: float) -> None:
            bar.update(task, completed=done, total=total)

        yield tell
