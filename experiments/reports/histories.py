"""Reading the histories of trials from their folders: part by part, and only the columns that are asked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import fastrank

from ..records import history_parts
from .digest import FloatArray, rank_columns, ranks

SHOWN = ("step", "name", "rows", "cols", "frobenius_norm", "singular_values")


def tables(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read these columns of each file, a table a file.

    Raises:
        fastrank.HistoryError, OSError: a file is missing, damaged, or has no such column.
    """
    for file in files:
        yield fastrank.read_history(file, columns=list(columns))


def spectra(folder: Path) -> pd.DataFrame:
    """Read the first and the last recorded spectrum of every matrix.

    Returns:
        `name, rows, cols, step, rank` (at the first tolerance), `frobenius_norm`, `singular_values` and `stage`
        ("first" or "last"), in the order of the matrices; no row where no spectrum was recorded.

    Raises:
        fastrank.HistoryError, OSError: the history is missing or damaged.
    """
    files = history_parts(folder)
    if "singular_values" not in _columns(files[0]):
        return pd.DataFrame(columns=[*SHOWN, "rank", "stage"])
    names = pc.unique(fastrank.read_history(files[0], columns=["name"])["name"]).to_pylist()
    ends = []
    for stage in ("first", "last"):
        found = _nearest(files if stage == "first" else files[::-1], last=stage == "last")
        found = found.assign(stage=stage, order=[names.index(name) for name in found["name"]])
        ends.append(found.sort_values("order").drop(columns="order"))
    return pd.concat(ends, ignore_index=True)


def norms(folder: Path) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Read the recorded steps and the Frobenius norms of every matrix, by its name.

    Raises:
        fastrank.HistoryError, OSError: the history is missing or damaged.
    """
    table = fastrank.read_history(history_parts(folder), columns=["name", "step", "frobenius_norm"])
    frame = table.to_pandas().astype({"step": np.float64})
    return {
        str(name): (own["step"].to_numpy(), own["frobenius_norm"].to_numpy())
        for name, own in frame.groupby("name", observed=True)
    }


def _columns(file: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(file).names
    except (OSError, pa.ArrowException) as error:
        raise fastrank.HistoryError(f"{file}: truncated or not a Parquet file ({error})") from error
    return names


def _nearest(files: Sequence[Path], *, last: bool) -> pd.DataFrame:
    """A row a matrix: its first (or last) one with singular values. Reads no more of the files than that takes."""
    frames: list[pd.DataFrame] = []
    seen: set[str] = set()
    for table in tables(files, [*SHOWN, *rank_columns()]):
        by_name = _valid(table).groupby("name", sort=False)
        frame = by_name.tail(1) if last else by_name.head(1)
        frames.append(frame[~frame["name"].isin(seen)])
        seen |= set(frame["name"])
        if set(pc.unique(table["name"]).to_pylist()) <= seen:
            break
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _valid(table: pa.Table) -> pd.DataFrame:
    table = table.filter(pc.is_valid(table["singular_values"]))
    frame: pd.DataFrame = table.append_column("rank", pa.array(ranks(table))).select([*SHOWN, "rank"]).to_pandas()
    frame["name"] = frame["name"].astype(str)
    return frame
