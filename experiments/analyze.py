"""``fastrank analyze``: ranks and spectra of the matrices in anybody's checkpoint, without the code of its model."""

import glob
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

import fastrank

from .checkpoints import AnalyzeError, Split, as_layer, choose, pieces, read, weights_in_use
from .errors import UsageError
from .files import write_csv
from .sweeps import kind, number, titled
from .terminal import open_console

__all__ = ["Analysis", "AnalyzeError", "analyze", "parse_split", "print_analysis"]

SPECTRUM = ("effective_rank", "nuclear_norm", "participation_ratio")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LISTED = 5  # names in an error


class Analysis(NamedTuple):
    """What is known of a checkpoint's matrices."""

    rows: list[dict[str, Any]]
    """A row for each matrix: name, rows, cols, rank bounds, norms and the metrics of the spectrum, as in a history."""
    left_out: list[str]
    """Tensors of which no rank is counted, such as those of integers, each with the reason."""
    not_looked_at: list[str]
    """Groups of tensors beside the one that was analysed, each with the key that leads there."""


class Parameters(nn.Module):
    """A module that holds named tensors and nothing else, so that `fastrank.RankTracker` can measure a checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Not by `register_parameter`, which refuses names with dots. And not frozen, because a tracker keeps a copy of
        # what is frozen, to see whether it changes.
        self._parameters.update({name: nn.Parameter(x) for name, x in tensors.items()})


def print_analysis(
    checkpoint: Path,
    threshold: tuple[float, str],
    key: str | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    device: str,
    out: Path | None,
    split: Sequence[str] = (),
) -> None:
    """Print the table of a checkpoint's matrices, and write its rows to the CSV file ``out`` where one is given."""
    try:
        tolerance = fastrank.Tolerance(*threshold)  # type: ignore[arg-type]  # what it cannot be is refused here
    except ValueError as error:
        raise AnalyzeError(str(error)) from error
    found = analyze(
        checkpoint,
        tolerance=tolerance,
        key=key,
        include=include,
        exclude=exclude,
        split=dict(map(parse_split, split)),
        device=kind(device),
    )
    console = open_console()
    console.print(table(found.rows, tolerance))
    for text in (*(f"left out: {x}" for x in found.left_out), *(f"not looked at: {x}" for x in found.not_looked_at)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        write_csv(out, list(found.rows[0]), found.rows)


def parse_split(text: str) -> tuple[str, Split]:
    """``GLOB=PARTS`` or ``GLOB=PARTS:AXIS`` as an item of the argument ``split`` of `fastrank.RankTracker`.

    PARTS is a number of equal parts (``3``), their names (``q,k,v``) or their sizes (``4096,1024,1024``). Raises
    UsageError for any other text.
    """
    name, _, rule = text.rpartition("=")
    parts, _, axis = rule.partition(":")
    listed = parts.split(",")
    try:
        along = int(axis or 0)
        if not name or not all(listed):
            raise ValueError
        if len(listed) > 1 and not any(part.isdecimal() for part in listed):
            return name, (listed, along)
        sizes = [int(part) for part in listed]
        return name, (sizes if len(sizes) > 1 else sizes[0], along)
    except ValueError:
        raise UsageError(
            f"--split {text}: expected GLOB=PARTS or GLOB=PARTS:AXIS, with PARTS a number (3), names (q,k,v) or sizes "
            "(4096,1024,1024)"
        ) from None


def analyze(
    checkpoint: Path,
    *,
    tolerance: fastrank.Tolerance,
    key: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    split: Mapping[str, Split] | None = None,
    device: str = "cpu",
) -> Analysis:
    """Measure every matrix of a checkpoint, once.

    Args:
        checkpoint: what ``torch.save`` wrote, a file of safetensors or NumPy, a folder of the parts of one model, or
            the index of such parts.
        tolerance: threshold of the numerical rank.
        key: where in the checkpoint the parameters are; see `checkpoints.choose`.
        include, exclude: globs of names; a matrix is measured if one of the former matches it and none of the latter.
        split: how weights that stack several matrices are cut, as for `fastrank.RankTracker`. A convolution's kernel
            is a matrix by then.
        device: where ranks are counted.

    What names and shapes tell of layers is used; see `checkpoints.layers`. Tensors that share their memory are measured
    once, under the first name that is chosen.

    Raises AnalyzeError for a file that cannot be read, a key that is not there, and where nothing is a matrix.
    """
    chosen = choose(checkpoint, read(checkpoint), key)
    reasons = {name: reason for name, x in chosen.tensors.items() if (reason := _reason_without_rank(x))}
    tensors, part_of = weights_in_use({name: x for name, x in chosen.tensors.items() if name not in reasons})
    reasons |= {name: f"part of {weight}" for name, weight in part_of.items()}
    known = [name for name, x in tensors.items() if x.ndim > 1]
    wanted = [name for name in known if _is_chosen(name, include, exclude)]
    first: dict[object, str] = {}
    matrices: dict[str, Tensor] = {}
    for name in wanted:
        x, matrix = tensors[name], as_layer(name, tensors)
        same = first.setdefault((x.data_ptr(), x.dtype, x.shape, x.stride(), matrix.shape), name)
        if same == name:
            matrices[name] = matrix.to(device)
        else:
            reasons[name] = f"the same tensor as {same}"
    left_out = [f"{name} ({reasons[name]})" for name in {**chosen.tensors, **tensors} if name in reasons]
    left_out += chosen.left_out
    left_out += _counted(len(tensors) - len(known), "vector or scalar", "vectors and scalars")
    left_out += _counted(len(known) - len(wanted), "matrix that is not chosen", "matrices that are not chosen")
    if not matrices:
        what = f"none of its {len(known)} matrices is chosen" if known else "has no matrix whose rank could be counted"
        raise AnalyzeError(f"{checkpoint}: {what}: {_some(known or left_out)}")
    rows = _measure(checkpoint, matrices, tolerance, _splits(matrices, tensors, split or {}))
    return Analysis(rows, left_out, chosen.not_looked_at)


def _reason_without_rank(tensor: Tensor) -> str:
    """Why no rank of a tensor can be counted; empty for dense matrices, and for vectors, which are not listed."""
    if tensor.is_nested:  # its shape must not be asked for
        return "nested"
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_meta:
        return "meta"
    if tensor.ndim < 2:
        return ""
    if tensor.is_quantized or tensor.dtype not in DTYPES:
        return f"dtype {str(tensor.dtype).removeprefix('torch.')}"
    return "" if tensor.numel() else "empty"


def _is_chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    included = include is None or any(fnmatchcase(name, pattern) for pattern in include)
    return included and not any(fnmatchcase(name, pattern) for pattern in exclude or ())


def _splits(
    matrices: Mapping[str, Tensor], tensors: Mapping[str, Tensor], asked: Mapping[str, Split]
) -> dict[str, Split]:
    """What names and shapes tell, after what the user asks for: the first glob that matches a name decides."""
    told = {glob.escape(name): parts for name in matrices if (parts := pieces(name, tensors))}
    return {**asked, **{name: (parts, 0) for name, parts in told.items() if name not in asked}}


def _measure(
    checkpoint: Path, matrices: Mapping[str, Tensor], tolerance: fastrank.Tolerance, splits: Mapping[str, Split]
) -> list[dict[str, Any]]:
    try:
        tracker = fastrank.RankTracker(Parameters(matrices), tolerance=tolerance, split=splits, spectrum=SPECTRUM)
    except ValueError as error:
        raise AnalyzeError(f"{checkpoint}: {error}; it has {_some(list(matrices))}") from error
    tracker.step()
    rows = [{column: x for column, x in row.items() if column != "step"} for row in tracker.to_arrow().to_pylist()]
    tracker.close()
    return rows


def _counted(count: int, one: str, many: str) -> list[str]:
    return [f"{count} {one if count == 1 else many}"] if count else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def table(rows: Sequence[Mapping[str, Any]], tolerance: fastrank.Tolerance) -> Table:
    """The matrices as a table for the terminal. A rank that is not certified is shown as its bounds."""
    units = {"frobenius": " of the Frobenius norm", "spectral": " of the spectral norm", "absolute": ""}
    many = "matrix" if len(rows) == 1 else "matrices"
    title = f"{len(rows)} {many}; rank: singular values above {tolerance.value:g}{units[tolerance.relative_to]}"
    table = titled(title, min_width=len(title), padding=(0, 1, 0, 0))  # a title is wrapped to its table
    table.add_column("matrix", overflow="fold")
    for head in ("rows x cols", "rank", "of", "stable\nrank", "effective\nrank", "spectral\nnorm"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row["name"]),
            f"{row['rows']} x {row['cols']}",
            _rank(row),
            str(min(row["rows"], row["cols"])),
            number(row["stable_rank"], 1),
            number(row["effective_rank"], 1),
            "-" if row["spectral_norm"] is None else f"{row['spectral_norm']:.4g}",
        )
    return table


def _rank(row: Mapping[str, Any]) -> str:
    lower, upper = row["rank_lower"], row["rank_upper"]
    if lower is None:
        return "not finite"
    return str(lower) if lower == upper else f"{lower} to {upper}"
