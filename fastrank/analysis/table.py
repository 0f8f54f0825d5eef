"""``fastrank.analyze``: measures every matrix of a model, a state dict or a checkpoint, once, and returns a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..metrics import Tolerance
from ..tracking import RankTracker
from ..weights import Choice
from .checkpoint import of_checkpoint
from .errors import AnalyzeError
from .files import missing
from .layers import Split
from .matrices import Holder, Matrices
from .model import of_model
from .parts import read

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SPECTRUM = ("effective_rank", "nuclear_norm", "participation_ratio")


def analyze(
    model: nn.Module | Mapping[str, Any] | str | os.PathLike[str],
    *,
    tolerance: Tolerance | Sequence[Tolerance] | None = None,
    key: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    split: Mapping[str, Split] | None = None,
    energy: float | Sequence[float] = (),
    device: str | torch.device | None = None,
) -> pd.DataFrame:
    """Rank and spectrum of every matrix of a model, a state dict or a checkpoint, as it is now.

    Args:
        model: a `torch.nn.Module`, which is not changed; or a state dict: a mapping of tensors or NumPy arrays, which
            may be nested; or the path of a checkpoint: what `torch.save` wrote, a file of safetensors or NumPy, a
            folder of the parts of one model, or the index of such parts. No code in a file is run.
        tolerance: one `Tolerance` or several, as for `RankTracker` (default 1e-3 of the Frobenius norm).
        key: where in a state dict or checkpoint the parameters are, `"a.0"` for `["a"][0]` (default: under
            `state_dict`, `model_state_dict` or `model`, or else everywhere).
        include, exclude: globs of names; a weight is measured if one of the former matches it (default: all) and none
            of the latter.
        split: `{glob: (parts, axis)}` for weights that stack several matrices, as for `RankTracker`.
        energy: as for `RankTracker`; further columns (default: none).
        device: where ranks are counted (default: where the tensors are; for a checkpoint's file, the CPU).

    Returns:
        A row for each matrix, with the columns of a history: `name, rows, cols, rank_lower, rank_upper, stable_rank,
        spectral_norm, frobenius_norm, status, effective_rank, nuclear_norm, participation_ratio`. The rank is certified
        where both bounds are equal. What is not known is `<NA>` or NaN: of a matrix that is not finite, all.

        `table.attrs["left_out"]` lists the tensors of which no rank is counted, each with the reason, and how many
        vectors there are; `table.attrs["not_looked_at"]` what stands in the checkpoint beside the parameters, such as
        averaged ones, as a dict: by the `key` under which that is analysed, what it holds.

    Raises:
        AnalyzeError: a file that cannot be read, a key that is not there, nothing that is a matrix, a weight without
            numbers. It is a ValueError. OSError: no such file. TypeError: `model` is none of the three.
        ImportError: pandas, pyarrow or, for its files, safetensors is missing: the extra `history` has them.

    A model tells itself what its layers are: weights of normed, pruned and parametrized layers, q, k and v, gates,
    groups, convolutions, as for `RankTracker`. Of a checkpoint names and shapes tell most of that (see
    `fastrank/analysis/layers.py`), not the groups of a convolution; and buffers are measured, which look like weights.
    """
    _check_packages()
    split = split if split is not None else {}
    try:
        choice = Choice(include, exclude, split=split)
    except ValueError as error:
        raise AnalyzeError(str(error)) from error
    with torch.inference_mode(False):
        found = _matrices(model, key, choice, split)
        table = _data_frame(_measure(found.tensors, tolerance, energy, device))
    table.attrs.update(left_out=found.left_out, not_looked_at=found.not_looked_at)
    return table


def _matrices(model: object, key: str | None, choice: Choice, split: Mapping[str, Split]) -> Matrices:
    """What is to be measured of whatever was given."""
    if isinstance(model, nn.Module):
        if key is not None:
            raise AnalyzeError(f"key: {key!r} is for a state dict or a checkpoint, and this is a model")
        return of_model(model, choice)
    if isinstance(model, Mapping):
        return of_checkpoint("state dict", model, key, choice, split)
    if isinstance(model, str | os.PathLike):
        path = Path(model).expanduser()
        return of_checkpoint(path, read(path), key, choice, split)
    given = type(model).__name__
    raise TypeError(f"model: expected a torch.nn.Module, a state dict or the path of a checkpoint, not {given}")


def _measure(
    matrices: Mapping[str, Tensor],
    tolerance: Tolerance | Sequence[Tolerance] | None,
    energy: float | Sequence[float],
    device: str | torch.device | None,
) -> pa.Table:
    """A row of a history for each of the matrices, without the step."""
    holder = Holder({name: x if device is None else x.to(device) for name, x in matrices.items()})
    more: dict[str, Any] = {"energy": energy} if energy != () else {}
    with RankTracker(holder, tolerance=tolerance, spectrum=SPECTRUM, **more) as tracker:
        tracker.step()
        return tracker.to_arrow().drop_columns(["step"])


def _data_frame(measured: pa.Table) -> pd.DataFrame:
    """The rows with names as strings, counts as integers also where some are missing, and all else as floats."""
    import pandas as pd
    import pyarrow as pa

    kinds = {pa.int32(): "Int64", pa.float64(): "float64"}
    types = {field.name: kinds[field.type] for field in measured.schema if field.type in kinds}
    return pd.DataFrame(measured.to_pylist(), columns=measured.column_names).astype(types)


def _check_packages() -> None:
    """Raises ImportError where the table could not be made, before anything is measured."""
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise missing("fastrank.analyze: for its table", error) from error
