"""``fastrank sweep``, and what looks at sweeps: ``status``, ``report`` and ``compare``."""

from pathlib import Path
from typing import Annotated

import typer

from .paths import config_of, path_of

Folder = Annotated[Path, typer.Argument(metavar="DIR", parser=path_of, help="A sweep's folder.")]


def sweep(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            parser=config_of,
            help="The configuration: a TOML file, or the name of one that comes with the package, such as digits.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=path_of, help="Where everything goes; made if missing.")
    ],
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and what it would take.")] = False,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="Processes here, or a Ray cluster.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time.", show_default="one a core, or what fits on the GPUs")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where trials run.")] = "auto",
    stack: Annotated[
        int | None,
        typer.Option(min=1, help="Most perceptrons trained as one program; 1: none.", show_default="32, CUDA: 512"),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where histories and checkpoints go, e.g. s3://...", show_default="DIR"),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also log to tensorboard, wandb or mlflow; may be repeated."),
    ] = None,
) -> None:
    """Run the trials of CONFIG that DIR has no result of yet; killed ones resume.

    Exit status: 0 when all trials have a result, 1 when some failed, 2 for a configuration that cannot be used,
    130 when interrupted.
    """
    from ..sweeps import Options, run_sweep

    options = Options(workers, device, stack, engine, storage, tuple(log or ()))
    if plan:
        from ..sweeps import print_plan

        print_plan(config, out, options)
        return
    raise typer.Exit(run_sweep(config, out, options))


def status(folder: Folder) -> None:
    """Show how far the sweep in DIR has come."""
    from ..sweeps import print_status

    print_status(folder)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=path_of, help="A sweep's folder, a tracker's, or a Parquet file.")
    ],
    trial: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The trial to look into; the start of its id will do.", show_default="lowest rank"
        ),
    ] = None,
) -> None:
    """Draw the figures of the sweep, or of the tracker's history, in DIR and write report.html.

    The report of a Parquet file, x.parquet, is written to a folder x beside it.
    """
    from ..reports import write_any_report

    typer.echo(write_any_report(folder, trial))


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", parser=path_of, help="Folders of sweeps.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", parser=path_of, help="The page to write.")] = Path(
        "compare.html"
    ),
) -> None:
    """Write a page that sets several sweeps side by side."""
    from ..reports import write_comparison

    typer.echo(write_comparison(folders, out))
