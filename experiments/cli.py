"""The command line: ``fastrank sweep | status | report | compare | analyze | data | doctor``.

Each command imports only what it needs.
"""

import sys
from pathlib import Path
from typing import Annotated

_EXTRA = {
    "PIL",
    "datasets",
    "fsspec",
    "matplotlib",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "sklearn",
    "typer",
}
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

data = typer.Typer(help="Data sets: prepared once, then read by every trial without a network.", no_args_is_help=True)
app.add_typer(data, name="data")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's folder.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Where data sets lie.", show_default="$FASTRANK_DATA, or ~/.cache/..."),
]


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration, a TOML file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes; made if missing.")],
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
    from .sweeps import Options, run_sweep

    options = Options(workers, device, stack, engine, storage, tuple(log or ()))
    if plan:
        from .sweeps import print_plan

        print_plan(config, out, options)
        return
    raise typer.Exit(run_sweep(config, out, options))


@app.command()
def status(folder: Folder) -> None:
    """Show how far the sweep in DIR has come."""
    from .sweeps import print_status

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
    from .reports import write_report

    typer.echo(write_report(folder, trial))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of sweeps.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")] = Path("compare.html"),
) -> None:
    """Write a page that sets several sweeps side by side."""
    from .reports import write_comparison

    typer.echo(write_comparison(folders, out))


@app.command()
def analyze(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A file of torch.save or safetensors, or a folder of the latter."),
    ],
    tolerance: Annotated[float, typer.Option(min=0, help="Threshold of the numerical rank.")] = 1e-3,
    relative_to: Annotated[
        str, typer.Option(metavar="frobenius|spectral|absolute", help="What the threshold is relative to.")
    ] = "frobenius",
    key: Annotated[
        str | None,
        typer.Option(
            help="Where the parameters are; a.b is b under a.",
            show_default="state_dict, model_state_dict, model, or everywhere",
        ),
    ] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only matrices of such names.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="No matrices of such names.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where ranks are counted.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write a CSV as well.")] = None,
) -> None:
    """Show rank and spectrum of every matrix in a checkpoint, of any model; its code is not needed."""
    from .analyze import print_analysis

    print_analysis(checkpoint, (tolerance, relative_to), key, include, exclude, device, out)


@data.command("prepare")
def data_prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_PATH",
            help="cifar10, cifar100, fashion_mnist, mnist or svhn; or a folder of images or Parquet files; "
            "or the id of a data set on the Hugging Face hub.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it.", show_default="last part of NAME_OR_PATH")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Scale and crop every image to SIZE x SIZE pixels.")
    ] = None,
    rgb: Annotated[
        bool | None, typer.Option("--rgb/--grey", help="Convert every image; what is transparent becomes black.")
    ] = None,
    cache: Cache = None,
    config: Annotated[str | None, typer.Option(help="Which configuration of a data set of the hub.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images, where there are several.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels, where there are several.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on.", show_default="train")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split to test on.", show_default="test or validation")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the set of this name.")] = False,
) -> None:
    """Decode a data set into the cache, from which trials read it by its name."""
    from .data.decode import Look
    from .data.listing import outcome
    from .data.prepare import prepare
    from .data.source import Choice

    done = prepare(
        source,
        name=name,
        look=Look(size, None if rgb is None else "RGB" if rgb else "L"),
        choice=Choice(config, train_split, test_split, image_column, label_column),
        folder=cache,
        force=force,
    )
    for line in outcome(done):
        typer.echo(line)


@data.command("list")
def data_list(cache: Cache = None) -> None:
    """Show the data sets that are prepared: name, images, shape, classes, digest and file."""
    from .data.listing import list_prepared

    for line in list_prepared(cache):
        typer.echo(line)


@app.command()
def doctor() -> None:
    """Show versions, devices, and which backend serves each operation, and why."""
    from .doctor import describe

    for line in describe():
        typer.echo(line)


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

    from .errors import UserError

    match error:
        case UserError():
            return error.exit_status
        case HistoryError():
            return 1
    return None


if __name__ == "__main__":
    main()
