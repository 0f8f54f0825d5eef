"""``fastrank.analyze``: measures every matrix of a model, a state dict or a checkpoint, once, and returns a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..backend import compiled_serve
from ..metrics import Tolerance
from ..plotting import check_picture, draw_depths
from ..weights import Choice
from .checkpoint import of_checkpoint
from .errors import AnalyzeError
from .files import missing
from .kept import Kept, Row, identity
from .kinds import depths, summary
from .layers import Split
from .matrices import Matrices
from .measure import Progress, Settings, measure, schema_of
from .model import of_model
from .parts import files_of, local, read

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
    spectrum: bool = True,
    jobs: int | None = None,
    keep: str | os.PathLike[str] | None = None,
    figure: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Rank and spectrum of every matrix of a model, a state dict or a checkpoint, as it is now.

    Args:
        model: a `torch.nn.Module`, which is not changed; or a state dict: a mapping of tensors or NumPy arrays, which
            may be nested; or the path of a checkpoint: what `torch.save` wrote, a file of safetensors or NumPy, a
            folder of the parts of one model, or the index of such parts; or a name on the Hugging Face Hub,
            `owner/model` or `owner/model@revision`. No code in a file is run.
        tolerance: one `Tolerance` or several, as for `RankTracker` (default 1e-3 of the Frobenius norm).
        key: where in a state dict or checkpoint the parameters are, `"a.0"` for `["a"][0]` (default: under
            `state_dict`, `model_state_dict` or `model`, or else everywhere).
        include, exclude: globs of names; a weight is measured if one of the former matches it (default: all) and none
            of the latter.
        split: `{glob: (parts, axis)}` for weights that stack several matrices, as for `RankTracker`.
        energy: as for `RankTracker`; further columns (default: none).
        device: where ranks are counted (default: where the tensors are; for a checkpoint's file, the CPU).
        spectrum: whether all singular values are computed, which takes a third of the time or more. Without them there
            are no columns `effective_rank, nuclear_norm, participation_ratio`, and no energy ranks (default True).
        jobs: how many weights are measured at once on a CPU, by a thread each; no row depends on it. Memory does: see
            below (default: as many as PyTorch has threads, and at most 8).
        keep: a folder where the rows of a checkpoint are kept as they are found, in a file whose name is
            `table.attrs["kept"]`. The same analysis goes on from them: of the same files, which neither their sizes nor
            times say to have changed, with the same settings and versions (default: none).
        figure: a file, `.png`, `.svg` or `.pdf`, to draw rank, stable rank and spectrum by depth in (default: none).
        progress: called after each weight with how much is done and how much there is in all, in flops, nearly.

    Returns:
        A row for each matrix, with the columns of a history: `name, rows, cols, rank_lower, rank_upper, stable_rank,
        spectral_norm, frobenius_norm, status, effective_rank, nuclear_norm, participation_ratio`; and `layer_type`, as
        names tell it, such as `attention q`, `mlp down`, `embedding`, `convolution`, `other`. The rank is certified
        where both bounds are equal. What is not known is `<NA>` or NaN: of a matrix that is not finite, all.

        `table.attrs["left_out"]` lists the tensors of which no rank is counted, each with the reason, and how many
        vectors there are; `table.attrs["not_looked_at"]` what stands in the checkpoint beside the parameters, such as
        averaged ones, as a dict: by the `key` under which that is analysed, what it holds; `table.attrs["scaled"]`
        which weights of float8 were multiplied by which scales, exactly; `table.attrs["layer_types"]` a summary of each
        type of layer; `table.attrs["notes"]` whatever else there is to say.

    Raises:
        AnalyzeError: a file that cannot be read, a key that is not there, nothing that is a matrix, a weight without
            numbers. It is a ValueError. OSError: no such file. TypeError: `model` is none of the three.
        ImportError: a package is missing: pandas, pyarrow or, for its files, safetensors, which the extra `history`
            has; matplotlib for a figure; huggingface_hub for a name on the Hub.

    A model tells itself what its layers are: weights of normed, pruned and parametrized layers, q, k and v, gates,
    groups, convolutions, as for `RankTracker`. Of a checkpoint names and shapes tell most of that (see
    `fastrank/analysis/layers.py`), not the groups of a convolution; and buffers are measured, which look like weights.

    Files of safetensors, those that `torch.save` writes since 1.6, and `.npy` are read tensor by tensor. Each job has
    at a time its weight as the file has it, the largest matrix of it in FP32 (in FP64: one of FP64, or of float8 whose
    scales need it), and about 40 bytes for the square of that matrix's smaller side. Beyond this nothing grows with the
    model but the rows. Older files, and `.npz`, are in memory as a whole.
    """
    _check_packages()
    split = split if split is not None else {}
    try:
        choice = Choice(include, exclude, split=split)
    except ValueError as error:
        raise AnalyzeError(str(error)) from error
    if jobs is not None and (isinstance(jobs, bool) or jobs < 1):
        raise AnalyzeError(f"jobs: expected a number of at least 1, not {jobs!r}")
    if not spectrum and energy != ():
        raise AnalyzeError("energy: energy ranks need the whole spectrum, and spectrum is False")
    settings = Settings(tolerance, energy, spectrum, device)
    picture = _picture(figure)
    with torch.inference_mode(False):
        schema = schema_of(settings)
        files, found = _matrices(model, key, choice, split)
        kept = Kept(_folder(keep) if files else None, _key(files, settings, (key, include, exclude, split)))
        try:
            rows = measure(found, settings, kept, jobs, progress, mapped=bool(files))
        finally:
            kept.close()
        table = _data_frame(rows, schema)
    notes = [f"rows are not kept: {kept.trouble}"] if kept.trouble else []
    if kept.known:
        notes.append(f"known from an earlier run: {len(kept.known)} of {len(found.weights)} weights")
    table.attrs.update(left_out=found.left_out, not_looked_at=found.not_looked_at, scaled=found.scaled)
    table.attrs.update(layer_types=summary(rows), notes=notes, kept=None if kept.path is None else str(kept.path))
    if picture is not None:
        _draw(picture, table, rows)
    return table


def _matrices(
    model: object, key: str | None, choice: Choice, split: Mapping[str, Split]
) -> tuple[list[Path], Matrices]:
    """What is to be measured of whatever was given, and the files it is in, if it is in some."""
    if isinstance(model, nn.Module):
        if key is not None:
            raise AnalyzeError(f"key: {key!r} is for a state dict or a checkpoint, and this is a model")
        return [], of_model(model, choice)
    if isinstance(model, Mapping):
        return [], of_checkpoint("state dict", model, key, choice, split)
    if isinstance(model, str | os.PathLike):
        path = local(model)
        files = files_of(path)
        return files, of_checkpoint(path, read(path), key, choice, split)
    given = type(model).__name__
    raise TypeError(f"model: expected a torch.nn.Module, a state dict or the path of a checkpoint, not {given}")


def _picture(figure: str | os.PathLike[str] | None) -> Path | None:
    """Where the figure goes. Whatever would keep it from being written is said before anything is measured."""
    if figure is None:
        return None
    path = Path(figure).expanduser()
    try:
        check_picture(path)
    except ValueError as error:
        raise AnalyzeError(str(error)) from error
    return path


def _draw(path: Path, table: pd.DataFrame, rows: Sequence[Row]) -> None:
    import pandas as pd

    placed = table.assign(depth=pd.array(depths(list(table.name)), dtype="Int64"))
    kinds = [row["layer_type"] for row in table.attrs["layer_types"]]
    draw_depths(path, placed, kinds, [row.get("spectrum") for row in rows])


def _folder(keep: str | os.PathLike[str] | None) -> Path | None:
    return None if keep is None else Path(keep).expanduser()


def _key(files: Sequence[Path], settings: Settings, chosen: Sequence[object]) -> dict[str, Any]:
    """All that the rows of these files depend on."""
    from importlib.metadata import version

    versions = {
        "fastrank": version("fastrank"),
        "torch": torch.__version__,
        "compiled": compiled_serve(torch.device("cpu")),
    }
    return {"files": identity(files), "settings": repr(settings), "chosen": repr(chosen), "versions": versions}


def _data_frame(rows: Sequence[Row], schema: pa.Schema) -> pd.DataFrame:
    """The rows with names as strings, counts as integers also where some are missing, and all else as floats."""
    import pandas as pd
    import pyarrow as pa

    kinds = {pa.int32(): "Int64", pa.float64(): "float64"}
    types = {field.name: kinds[field.type] for field in schema if field.type in kinds}
    return pd.DataFrame(rows, columns=[*schema.names, "layer_type"]).astype(types)


def _check_packages() -> None:
    """Raises ImportError where the table could not be made, before anything is measured."""
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise missing("fastrank.analyze: for its table", error) from error
