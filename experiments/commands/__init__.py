"""What can be said on the command line: a function for each command, which imports only what it needs.

Here are options and their texts. What a command does is in the room that it imports.
"""

from typing import Annotated

import typer

from .checkpoints import analyze, factorize
from .data import data
from .histories import show
from .sweeps import compare, report, status, sweep

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fastrank import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The exact numerical rank of every weight matrix, at every training step."""


def doctor(
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Test what proofs assume of each device's arithmetic; exit status 1 if that fails."
        ),
    ] = False,
) -> None:
    """Show versions, devices, and which backend serves each operation, and why."""
    from ..doctor import describe, describe_probes

    lines, sound = describe_probes() if probe else (describe(), True)
    for line in lines:
        typer.echo(line)
    if not sound:
        raise typer.Exit(1)


for command in (sweep, status, report, compare, show, analyze, factorize, doctor):
    app.command()(command)
app.add_typer(data, name="data")
