"""The terminal, or the file or pipe in its place, and plain tables for it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 10_000  # columns


def open_console() -> Console:
    """The standard output. What goes into a file or a pipe is as wide as it is: nothing is cut short or wrapped."""
    from rich.console import Console  # not above: tables are printed where it is not installed

    return Console(width=None if sys.stdout.isatty() else WIDE)


def print_found(
    form: str, tables: Callable[[], Iterable[object]], notes: Iterable[str], text: Callable[[], str]
) -> None:
    """Print what a command has found: as tables, with notes below; in another form, `text` alone on the standard
    output, for another program, and notes on the standard error."""
    from fastrank.plotting import printable

    if form == "table":
        console = open_console()
        for table in tables():
            console.print(table)
        for note in notes:
            console.print(printable(note), markup=False, highlight=False, soft_wrap=True)
        return
    for note in notes:
        print(printable(note), file=sys.stderr)
    # Flushed here, where the command line knows what to do if nobody reads on, and not when Python ends.
    print(text(), end="", flush=True)


def not_looked_at(attrs: Mapping[Any, Any]) -> list[str]:
    """A note for each part of a checkpoint that nobody has asked for, with the option that does."""
    return [
        f"not looked at: {name} ({held}; --key {shlex.quote(name)})" for name, held in attrs["not_looked_at"].items()
    ]


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
