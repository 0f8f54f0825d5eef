"""``fastrank show``."""

from pathlib import Path
from typing import Annotated

import typer

from .paths import path_of


def show(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", parser=path_of, help="A tracker's folder, a trial's in a sweep, or a Parquet file."
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, and draw again when there are new rows; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Show the history in DIR in the terminal: the rank of every matrix over the steps, and how it stands.

    Training may go on meanwhile. Its rows are on disk a minute after they were measured, or sooner: see the tracker's
    flush_every.
    """
    from ..show import show as show_history

    show_history(path, follow=follow)
