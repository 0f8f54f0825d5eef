"""``fastrank show``: a history in the terminal, once, or whenever there are new rows on disk."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

import fastrank
from fastrank.plotting import summary_text

from ..errors import UserError
from ..records import Layout
from ..terminal import open_console
from .reader import History, Reader
from .screen import Screen, picture

SECONDS = 0.5  # from one look at the files to the next


class ShowError(UserError):
    """There is nothing that could be shown."""


def show(path: Path, *, follow: bool = False) -> None:
    """Print a history, or draw it again whenever it has grown, until Ctrl-C.

    Args:
        path: a tracker's folder, that of a trial's history in a sweep, or a Parquet file.
        follow: whether to go on. A folder may then be empty at first. Where the output is no terminal, it is a line for
            each change.

    Raises:
        ShowError: there is nothing at `path`, or it is a sweep's folder.
        fastrank.HistoryError: the history cannot be read, without `follow`.
        KeyboardInterrupt: Ctrl-C, with `follow`.
    """
    if not path.exists():
        raise ShowError(f"{path}: no such file or folder")
    if Layout(path).ledger.exists():
        one = next(iter(sorted(Layout(path).history("").glob("*"))), Layout(path).history("TRIAL"))
        raise ShowError(f"{path}: is a sweep's folder; show the history of one of its trials, as {one}")
    console, reader = open_console(), Reader(path)
    if not follow:
        _print(console, picture(reader.read(), Screen.of(console)))
    elif console.is_terminal:
        follow_live(reader, console)
    else:
        follow_lines(reader, console)


def _wait() -> None:
    time.sleep(SECONDS)


def follow_live(reader: Reader, console: Console, wait: Callable[[], None] = _wait) -> None:
    """Draw the history on a screen of its own, again when it or the terminal's size has changed; leave the last one."""
    history: History | None = None
    note, drawn = "", None
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                if reader.changed() or history is None:
                    history, note = _look(reader, history)
                screen = Screen.of(console)
                if (history, note, screen) != drawn:
                    live.update(_drawn(history, screen, note), refresh=True)
                    drawn = history, note, screen
                wait()
    finally:
        if history is not None:
            _print(console, picture(history, Screen.of(console)))


def follow_lines(reader: Reader, console: Console, wait: Callable[[], None] = _wait) -> None:
    """Print a line whenever there are new rows."""
    history: History | None = None
    while True:
        if reader.changed() or history is None:
            before = history
            history, _ = _look(reader, history)
            if history is not None and history is not before:
                _print(console, Text(summary_text(history.standing)))
        wait()


def _look(reader: Reader, history: History | None) -> tuple[History | None, str]:
    """The history as it is now, or as it was before with a note on why it cannot be read."""
    try:
        return reader.read(), ""
    except (fastrank.HistoryError, OSError) as error:
        return history, str(error)


def _drawn(history: History | None, screen: Screen, note: str) -> Text:
    return Text(f"waiting for rows: {note}") if history is None else picture(history, screen, note)


def _print(console: Console, text: Text) -> None:
    console.print(text, highlight=False, soft_wrap=True)
