"""``fastrank analyze``: ranks and spectra of the matrices in anybody's checkpoint, without the code of its model."""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import fastrank

from .errors import UserError
from .files import write_csv
from .sweeps import kind, number, titled

SPECTRUM = ("effective_rank", "nuclear_norm", "participation_ratio")
USUAL_KEYS = ("state_dict", "model_state_dict", "model")
SAFETENSORS = ".safetensors"


class AnalyzeError(UserError):
    """A checkpoint cannot be analysed. The message names the file and says what to do."""


class Analysis(NamedTuple):
    """What is known of a checkpoint's matrices."""

    rows: list[dict[str, Any]]
    """A row for each matrix: name, rows, cols, rank bounds, norms and the metrics of the spectrum, as in a history."""
    left_out: list[str]
    """Tensors of which no rank is counted, such as those of integers, each with the reason."""


class Parameters(nn.Module):
    """A module that holds named tensors and nothing else, so that `fastrank.RankTracker` can measure a checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Not by `register_parameter`, which refuses names with dots.
        self._parameters.update({name: nn.Parameter(x, requires_grad=False) for name, x in tensors.items()})


def print_analysis(
    checkpoint: Path,
    threshold: tuple[float, str],
    key: str | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    device: str,
    out: Path | None,
) -> None:
    """Print the table of a checkpoint's matrices, and write its rows to the CSV file ``out`` where one is given."""
    try:
        tolerance = fastrank.Tolerance(*threshold)  # type: ignore[arg-type]  # what it cannot be is refused here
    except ValueError as error:
        raise AnalyzeError(str(error)) from error
    found = analyze(checkpoint, tolerance=tolerance, key=key, include=include, exclude=exclude, device=kind(device))
    console = Console()
    console.print(table(found.rows, tolerance))
    for text in found.left_out:
        console.print(f"left out: {text}", markup=False, highlight=False)
    if out is not None:
        write_csv(out, list(found.rows[0]), found.rows)


def analyze(
    checkpoint: Path,
    *,
    tolerance: fastrank.Tolerance,
    key: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    device: str = "cpu",
) -> Analysis:
    """Measure every matrix of a checkpoint, once.

    Args:
        checkpoint: what ``torch.save`` wrote, a ``.safetensors`` file, or a folder of those (the parts of one model).
        tolerance: threshold of the numerical rank.
        key: where in the checkpoint the parameters are, ``"a.b"`` for ``checkpoint["a"]["b"]``; by default under the
            first of `USUAL_KEYS` that it has, otherwise everywhere in it.
        include, exclude: globs of names, as of `fastrank.RankTracker`.
        device: where ranks are counted.

    A tensor of three dimensions is taken for a stack of matrices, and one of more dimensions for the kernel of a
    convolution. The kernel of a one-dimensional convolution is taken for a stack, since a checkpoint does not tell.

    Raises AnalyzeError for a file that cannot be read, a key that is not there, and where nothing is a matrix.
    """
    state = _read(checkpoint)
    tensors = dict(_tensors(_part(checkpoint, state, key)))
    if not tensors:
        raise AnalyzeError(f"{checkpoint}: holds no tensors{f' under {key}' if key else ''}")
    sparse = [f"{name} ({str(x.layout).removeprefix('torch.')})" for name, x in tensors.items() if not _is_dense(x)]
    matrices = {name: x.to(device) for name, x in tensors.items() if x.ndim > 1 and _is_dense(x)}
    try:
        tracker = fastrank.RankTracker(
            Parameters(matrices), tolerance=tolerance, include=include, exclude=exclude, spectrum=SPECTRUM
        )
    except ValueError as error:
        names = ", ".join(list(tensors)[:5]) + (", ..." if len(tensors) > 5 else "")
        raise AnalyzeError(f"{checkpoint}: none of its {len(tensors)} tensors is chosen: {names}") from error
    tracker.step()
    rows = [{column: x for column, x in row.items() if column != "step"} for row in tracker.to_arrow().to_pylist()]
    tracker.close()
    other = [f"{c.name} {c.reason}" for c in tracker.coverage() if c.reason.startswith("(dtype")]
    return Analysis(rows, [*other, *sparse])


def table(rows: Sequence[Mapping[str, Any]], tolerance: fastrank.Tolerance) -> Table:
    """The matrices as a table for the terminal. A rank that is not certified is shown as its bounds."""
    units = {"frobenius": " of the Frobenius norm", "spectral": " of the spectral norm", "absolute": ""}
    title = f"{len(rows)} matrices; rank: singular values above {tolerance.value:g}{units[tolerance.relative_to]}"
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


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized


def _rank(row: Mapping[str, Any]) -> str:
    lower, upper = row["rank_lower"], row["rank_upper"]
    if lower is None:
        return "not finite"
    return str(lower) if lower == upper else f"{lower} to {upper}"


def _read(path: Path) -> Any:
    parts = sorted(path.glob(f"*{SAFETENSORS}")) if path.is_dir() else [path]
    if not parts:
        raise AnalyzeError(f"{path}: a folder with no {SAFETENSORS} file in it; name the checkpoint's file")
    if parts[0].suffix == SAFETENSORS:
        try:
            return {name: tensor for part in parts for name, tensor in load_file(part).items()}
        except SafetensorError as error:
            raise AnalyzeError(f"{path}: is not a whole {SAFETENSORS} file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, LookupError, AttributeError, TypeError, AssertionError) as error:
        raise AnalyzeError(
            f"{path}: holds more than tensors and plain values, or is no checkpoint, and is not unpickled, since that "
            f"could run any code. Save model.state_dict() instead"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename:  # an error of the system; those of torch do not name the file
            raise
        raise AnalyzeError(f"{path}: is not a whole checkpoint of torch.save: {error}") from error


def _part(path: Path, state: Any, key: str | None) -> Any:
    if key is None:
        usual = [k for k in USUAL_KEYS if isinstance(state, Mapping) and isinstance(state.get(k), Mapping)]
        return state[usual[0]] if usual else state
    for name in key.split("."):
        if not isinstance(state, Mapping) or name not in state:
            known = ", ".join(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise AnalyzeError(f"{path}: has no {key!r}: there is no {name!r} among {known}")
        state = state[name]
    return state


def _tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries and lists, by their dotted names."""
    if isinstance(state, Tensor):
        yield prefix or "tensor", state.detach()
    elif isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for name, value in items:
            yield from _tensors(value, f"{prefix}.{name}" if prefix else str(name))
