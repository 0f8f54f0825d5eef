"""Reading the histories of trials from their folders: part by part, and only the columns that are asked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

import fastrank
from fastrank.plotting import figures
from fastrank.plotting.figures import FloatArray, Source

from ..records import history_parts


def tables(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read these columns of each file, a table a file.

    Raises:
        fastrank.HistoryError, OSError: a file is missing, damaged, or has no such column.
    """
    for file in files:
        yield fastrank.read_history(file, columns=list(columns))


def spectra(folder: Path) -> pd.DataFrame:
    """Read the first and the last recorded spectrum of every matrix, as `fastrank.plotting.figures.spectra` does.

    Raises:
        fastrank.HistoryError, OSError: the history is missing or damaged.
    """
    return figures.spectra(Source(history_parts(folder)))


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
