"""``fastrank analyze`` and ``fastrank factorize``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .paths import cache_folder, path_of

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        parser=path_of,
        help="A file of torch.save, safetensors or NumPy; the parts of a model: their folder or index.json; or a "
        "name on the Hugging Face Hub: owner/model, owner/model@revision.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        help="Where the parameters are; a.0 is the first under a.",
        show_default="state_dict, model_state_dict, model, or everywhere",
    ),
]
Include = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only matrices of such names.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="No matrices of such names.")]
RelativeTo = Annotated[
    str, typer.Option(metavar="frobenius|spectral|absolute", help="What the threshold is relative to.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, and nothing else.")]


def analyze(
    checkpoint: Checkpoint,
    tolerance: Annotated[float, typer.Option(min=0, help="Threshold of the numerical rank.")] = 1e-3,
    relative_to: RelativeTo = "frobenius",
    key: Key = None,
    include: Include = None,
    exclude: Exclude = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB=PARTS[:AXIS]",
            help="Names whose weights stack several matrices: a number (3), names (q,k,v) or sizes (4096,1024,1024).",
        ),
    ] = None,
    energy: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            help="Columns more: how many singular values hold this share of the sum of their squares, such as 0.99.",
        ),
    ] = None,
    spectrum: Annotated[
        bool,
        typer.Option(
            "--spectrum/--no-spectrum",
            help="Compute all singular values, for effective ranks and the figure's spectra: a third of the time or "
            "more.",
        ),
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Matrices measured at once, on a CPU; each takes memory.",
            show_default="one a core, at most 8",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            parser=path_of,
            help="Another checkpoint of the same network: the matrices that are in both, side by side.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|svg|pdf", parser=path_of, help="Draw rank, stable rank and spectrum by depth as well."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path_of,
            help="Where rows are kept until all are printed; an interrupted analysis goes on from them.",
            show_default="$XDG_CACHE_HOME/fastrank/analyses, or below ~/.cache",
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where ranks are counted.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", parser=path_of, help="Write a CSV as well.")
    ] = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Show rank and spectrum of every matrix in a checkpoint, of any model; its code is not needed.

    With --json or --csv, what is left out goes to the standard error.

    Matrices are read one by one. Each job needs memory for its matrix as the file has it and in FP32, and for its Gram.

    Weights of float8 are multiplied by their scales, exactly. What is packed otherwise is left out by name.

    Names and shapes tell what a layer makes of its tensors:

    weight norm, spectral norm, pruning: the weight that is used

    four axes, or three and a bias of the first one's length: the kernel of a convolution

    three axes or more and a bias of the second one's length: the kernel of a transposed convolution

    three axes otherwise: a stack of matrices

    in_proj_weight: q, k and v

    weight_ih, weight_hh: the gates of an LSTM or a GRU
    """
    from ..analyze import Request, print_analysis

    form = _form(as_json, as_csv, "--out FILE writes CSV as well")
    asked = Request(
        threshold=(tolerance, relative_to),
        key=key,
        include=include,
        exclude=exclude,
        split=split or (),
        energy=energy or (),
        device=device,
        spectrum=spectrum,
        jobs=jobs,
        keep=keep or cache_folder() / "analyses",
        figure=figure,
    )
    print_analysis(checkpoint, asked, out, form, against)


def factorize(
    checkpoint: Checkpoint,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Factors have the numerical rank: singular values above this.")
    ] = None,
    relative_to: RelativeTo = "frobenius",
    error: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Or the least rank whose proven error is at most this share of the norm."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", parser=path_of, help="The safetensors file to write.", show_default="nothing"
        ),
    ] = None,
    key: Key = None,
    include: Include = None,
    exclude: Exclude = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where factors are computed.")] = "auto",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Write a checkpoint with factors of low rank in the place of matrices, where these have fewer numbers.

    A matrix W of m rows and n columns becomes U (m x k) and V (k x n) if k (m + n) < m n, in its own dtype and under
    its name with .U and .V; all else stays as it is. The error ||W - U V|| of each in the Frobenius norm is proven,
    rounding included. fastrank.load_factorized(FILE, model) puts them into a model, as two layers in sequence.

    Weights of linear layers and convolutions are told by names and shapes. Without --out nothing is written: the table
    shows what would be saved.
    """
    from ..factorize import print_factors

    form = _form(as_json, as_csv, "give one")
    print_factors(checkpoint, tolerance, relative_to, error, out, key, include, exclude, device, form)


def _form(as_json: bool, as_csv: bool, instead: str) -> Literal["table", "json", "csv"]:
    from ..errors import UsageError

    if as_json and as_csv:
        raise UsageError(f"--json, --csv: only one of them can be printed; {instead}")
    return "json" if as_json else "csv" if as_csv else "table"
