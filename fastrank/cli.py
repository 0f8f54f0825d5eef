"""The command line: ``fastrank sweep | status | report | doctor``. Every command imports what it needs, and no more."""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated

_EXTRA = {"matplotlib", "pandas", "pyarrow", "pydantic", "rich", "sklearn", "typer"}
_REMEDY = "fastrank: this command needs {}, which is not installed: pip install 'fastrank[experiments]'"

try:
    import typer
except ModuleNotFoundError as missing:
    sys.exit(_REMEDY.format(missing.name))

app = typer.Typer(
    help="The exact numerical rank of every weight matrix, at every training step.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's folder.")]


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration, a TOML file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes; made if missing.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default="one a core")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
) -> None:
    """Run the trials of CONFIG that DIR has no result of yet; killed ones resume.

    Exit status: 0 when all trials have a result, 1 when some failed, 2 for a configuration that cannot be used,
    130 when interrupted.
    """
    if plan:
        from fastrank.experiments.plan import print_plan

        print_plan(config, out)
        return
    from fastrank.experiments.sweep import run_sweep

    raise typer.Exit(run_sweep(config, out, workers))


@app.command()
def status(folder: Folder) -> None:
    """Show how far the sweep in DIR has come."""
    from fastrank.experiments.plan import print_status

    print_status(folder)


@app.command()
def report(
    folder: Folder,
    trial: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The trial to look into; the start of its id will do.", show_default="lowest rank"
        ),
    ] = None,
) -> None:
    """Draw the figures of the sweep in DIR and write report.html."""
    from fastrank.experiments.report import write_report

    typer.echo(write_report(folder, trial))


@app.command()
def doctor() -> None:
    """Show versions, devices, and which backend serves each operation, and why."""
    import torch

    from fastrank.backend import report
    from fastrank.experiments.provenance import commit, versions

    for name, value in {**versions(), "commit": commit()}.items():
        typer.echo(f"{name:14}{value}")
    typer.echo(f"{'cpu':14}{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}")
    devices = range(torch.cuda.device_count())
    for i in devices:
        typer.echo(f"{f'cuda:{i}':14}{torch.cuda.get_device_name(i)}")
    if not devices:
        typer.echo(f"{'cuda':14}none: {_why_no_cuda()}")
    typer.echo()
    rows = [("operation", "device", "implementation", "reason"), *report()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        typer.echo("  ".join([*(f"{row[i]:{widths[i]}}" for i in range(3)), row[3]]))


def _why_no_cuda() -> str:
    import torch

    built = "this torch is built for the CPU only" if torch.version.cuda is None else "torch sees no device"
    return built + "; everything runs on the CPU"


def main() -> None:
    """Entry point of the ``fastrank`` command. What the user can mend is said in a line, without a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        sys.exit(_REMEDY.format(package))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"fastrank: {place}{error.strerror or error}")
    except Exception as error:
        status = _exit_status(error)
        if status is None:
            raise
        typer.echo(f"fastrank: {error}", err=True)
        sys.exit(status)


def _exit_status(error: Exception) -> int | None:
    """The exit status of an error that is the user's to mend; None for any other, which is a defect of ours."""
    from fastrank import HistoryError
    from fastrank.experiments.errors import UserError

    match error:
        case UserError():
            return error.exit_status
        case HistoryError():
            return 1
    return None


if __name__ == "__main__":
    main()
