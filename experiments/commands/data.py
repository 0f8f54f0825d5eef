"""``fastrank data prepare`` and ``fastrank data list``."""

from pathlib import Path
from typing import Annotated

import typer

from .paths import path_of

data = typer.Typer(help="Data sets: prepared once, then read by every trial without a network.", no_args_is_help=True)

Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        parser=path_of,
        help="Where data sets lie.",
        show_default="$FASTRANK_DATA, or ~/.cache/...",
    ),
]


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
    from ..data.decode import Look
    from ..data.listing import outcome
    from ..data.prepare import prepare
    from ..data.source import Choice

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
    from ..data.listing import list_prepared

    for line in list_prepared(cache):
        typer.echo(line)
