"""``fastrank.factorize``: replaces the matrices of a model by factors where these have fewer numbers."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..analysis import AnalyzeError, Chosen, choose, local, missing, read
from ..arguments import check_share
from ..metrics import Tolerance
from ..weights import Choice
from .candidates import reason_by_shape, reasons_to_keep
from .file import VERSION, refuse_unwritable, room_for, write
from .layers import by_clean_name, reason_against
from .rank import Found, by_error, by_tolerance

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    **{"name": "object", "dtype": "object", "rows": "int64", "cols": "int64", "k": "Int64"},
    **{"relative_error": "float64", "error": "float64", "parameters": "int64", "stored": "int64", "kept": "object"},
}
"""Of the table, with their dtypes in pandas."""


def factorize(
    model: nn.Module | Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    tolerance: Tolerance | None = None,
    error: float | None = None,
    key: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> pd.DataFrame:
    """Replace matrices W by factors U V of low rank, where these have fewer numbers, and prove the error of each.

    Args:
        model: a `torch.nn.Module`, which is not changed; or a state dict; or the path of a checkpoint: all that
            `fastrank.analyze` reads.
        out: the file of safetensors to write, for `fastrank.load_factorized`; one that is there is replaced. None
            (default) writes nothing: the table tells what would be saved.
        tolerance: factors have the numerical rank of the matrix at this `Tolerance` (its upper bound where it is not
            certified).
        error: in its place, above 0 and at most 1: factors have the least rank at which the proven
            `||W - U V||_F / ||W||_F` is at most this. A matrix for which no rank that saves numbers is enough is kept.
        key: where in a state dict or checkpoint the parameters are, as for `fastrank.analyze`.
        include, exclude: globs of names; a matrix becomes factors if one of the former matches it (default: all) and
            none of the latter.
        device: where factors are computed (default: where the tensors are; for a checkpoint's file, the CPU).

    Returns:
        A row for each matrix that a linear layer or a convolution would take as factors. `rows, cols` are of the matrix
        (a kernel `(c_out, c_in, kh, kw)` is `(c_out, c_in * kh * kw)`), `k` is the rank that its factors have or would
        need, `parameters` and `stored` are how many numbers it has and how many are stored in their place. `kept` is
        empty for a matrix that became factors, and says of any other why it is kept as it is. `error` and
        `relative_error` are proven upper bounds of `||W - U V||_F`, for the factors as they are stored, and of its
        share of `||W||_F`; 0 for a matrix that is kept.

        `table.attrs` has `parameters` and `stored` of all tensors together; `kept`, the other tensors of two axes or
        more, each with the reason; and `left_out` and `not_looked_at`, what is not in the file, as of `analyze`.

    Raises:
        AnalyzeError: a file that cannot be read, a key that is not there, a tensor that cannot be written; `out` is the
            checkpoint itself, or in the folder of its parts. It is a ValueError.
        TypeError, ValueError: not one of `tolerance` and `error`, or out of range.
        OSError: no such file, or `out` cannot be written; what was there before is still there.
        ImportError: pandas, pyarrow or safetensors is missing: the extra `history` has them.

    A factor pair of rank k is U `(rows, k)` and V `(k, cols)` in the dtype of W, and replaces W where
    k (rows + cols) < rows cols. Matrices are read, factored and written one after the other. So what is in memory are
    about eight FP64 copies of the largest one, and the checkpoint itself only where it cannot be mapped: NumPy's `.npz`
    and files of `torch.save` before PyTorch 1.6.
    """
    _check_packages()
    find = _way(tolerance, error)
    choice = Choice(include, exclude)
    model = local(model) if isinstance(model, str | os.PathLike) else model
    with torch.inference_mode(False), torch.no_grad():
        chosen, reasons = _chosen(model, key)
        for name, x in chosen.tensors.items():
            if x.ndim > 1 and choice.reason_against(name, nn.Module()):
                reasons[name] = "not chosen"
        rows: list[dict[str, Any]] = []
        tensors = _factored(chosen.tensors, reasons, rows, find, device)
        if out is None:
            deque(tensors, maxlen=0)
        else:
            path = Path(out).expanduser()
            candidates = _refuse(path, model, chosen.tensors, reasons)
            asked = {"tolerance": None if tolerance is None else asdict(tolerance), "error": error}
            told = {"version": VERSION, **asked, "matrices": rows}
            write(path, tensors, room_for(chosen.tensors, candidates), told)
    return _table(rows, chosen, reasons)


def _way(tolerance: Tolerance | None, error: float | None) -> Callable[[Tensor], Found]:
    """How the factors of a matrix are found."""
    if (tolerance is None) == (error is None):
        raise TypeError("factorize: expected one of tolerance and error, and not both")
    if error is not None:
        return partial(by_error, error=check_share(error, "error"))
    if not isinstance(tolerance, Tolerance):
        raise TypeError(f"tolerance: expected a fastrank.Tolerance, not {tolerance!r}")
    return partial(by_tolerance, tolerance=tolerance)


def _chosen(model: object, key: str | None) -> tuple[Chosen, dict[str, str]]:
    """The tensors of whatever was given, and why those of two axes or more are no candidates."""
    if isinstance(model, nn.Module):
        if key is not None:
            raise AnalyzeError(f"key: {key!r} is for a state dict or a checkpoint, and this is a model")
        chosen = choose("model", model.state_dict(), "")
    elif isinstance(model, Mapping):
        chosen = choose("state dict", model, key)
    elif isinstance(model, Path):
        chosen = choose(model, read(model), key)
    else:
        given = type(model).__name__
        raise TypeError(f"model: expected a torch.nn.Module, a state dict or the path of a checkpoint, not {given}")
    for name, x in chosen.tensors.items():
        refuse_unwritable(name, x)
    if isinstance(model, nn.Module):
        own = by_clean_name(model.state_dict())
        return chosen, reasons_to_keep(chosen.tensors, lambda name: reason_against(model, own.get(name, name)))
    return chosen, reasons_to_keep(chosen.tensors, lambda name: reason_by_shape(name, chosen.tensors))


def _refuse(path: Path, model: object, tensors: Mapping[str, Tensor], reasons: Mapping[str, str]) -> list[str]:
    """Raise AnalyzeError for what cannot be written; return the names of the candidates."""
    if isinstance(model, Path):
        if path.resolve() == model.resolve():
            raise AnalyzeError(f"{path}: is the checkpoint itself: give the file of factors another name")
        folder = model if model.is_dir() else model.parent if model.suffix == ".json" else None
        if folder is not None and path.parent.resolve() == folder.resolve():
            raise AnalyzeError(f"{path}: would be taken for a part of the checkpoint: write it to another folder")
    candidates = [name for name, x in tensors.items() if x.ndim > 1 and name not in reasons]
    factors = [f"{name}.{factor}" for name in candidates for factor in "UV"]
    for name, count in Counter(["__metadata__", *tensors, *factors]).items():
        if count > 1:
            raise AnalyzeError(f"{name}: a file of factors has another use for this name")
    return candidates


def _factored(
    tensors: Mapping[str, Tensor],
    reasons: Mapping[str, str],
    rows: list[dict[str, Any]],
    find: Callable[[Tensor], Found],
    device: str | torch.device | None,
) -> Iterator[tuple[str, Tensor]]:
    """What is to be written, in order; and a row for each candidate, when its turn has come."""
    for name, x in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        if x.ndim < 2 or name in reasons:
            yield name, x
            continue
        matrix = x.flatten(1) if device is None else x.flatten(1).to(device)
        found = find(matrix)
        factors = found.factors
        rows.append(
            {
                "name": name,
                "shape": list(x.shape),
                "dtype": str(x.dtype).removeprefix("torch."),
                "rows": matrix.shape[0],
                "cols": matrix.shape[1],
                "k": found.k,
                "relative_error": 0.0 if factors is None else factors.relative_error,
                "error": 0.0 if factors is None else factors.error,
                "parameters": x.numel(),
                "stored": x.numel() if factors is None else factors.u.numel() + factors.v.numel(),
                "kept": found.reason,
            }
        )
        yield from [(name, x)] if factors is None else [(f"{name}.U", factors.u), (f"{name}.V", factors.v)]


def _table(rows: Sequence[Mapping[str, Any]], chosen: Chosen, reasons: Mapping[str, str]) -> pd.DataFrame:
    """The rows in the order of the checkpoint, and what is said of all that has none."""
    import pandas as pd

    by_name = {row["name"]: row for row in rows}
    ordered = [by_name[name] for name in chosen.tensors if name in by_name]
    table = pd.DataFrame(ordered, columns=list(COLUMNS)).astype(COLUMNS)
    parameters = sum(x.numel() for x in chosen.tensors.values())
    table.attrs.update(
        parameters=parameters,
        stored=parameters - sum(row["parameters"] - row["stored"] for row in rows),
        kept=[f"{name} ({reason})" for name, reason in reasons.items()],
        left_out=chosen.left_out,
        not_looked_at=chosen.not_looked_at,
    )
    return table


def _check_packages() -> None:
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise missing("fastrank.factorize: for its table", error) from error
