"""A history, whatever it is given as: read part by part, and only the columns that are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ...history import HistoryError, column_names, complete_parts, read_history
from ...metrics import Tolerance
from .digest import BINS, Digest, IntArray, columns, digest

PathLike: TypeAlias = str | os.PathLike[str]


class Tracker(Protocol):
    """What is asked of a `fastrank.RankTracker`."""

    tolerances: tuple[Tolerance, ...]

    def to_arrow(self) -> pa.Table: ...


Given: TypeAlias = Tracker | pa.Table | pd.DataFrame | PathLike | Sequence[PathLike]


class Source:
    """The rows of a history. A file is read when its rows are asked for; rows of a table are put in order by step.

    Args:
        history: a `pyarrow.Table`, a `pandas.DataFrame`, a tracker, or what `fastrank.read_history` takes: a Parquet
            file, a folder of parts, a list of parts.
        names: the matrices whose rows are wanted (default: all).

    Raises:
        fastrank.HistoryError: nothing is there, a file is damaged, or there is no column `step`.
        TypeError: `history` is none of these.
    """

    def __init__(self, history: Given, names: Sequence[str] | None = None) -> None:
        if isinstance(names, str):
            raise TypeError(f"names: expected a list of names, not the string {names!r}")
        self.title = "the history"
        self.tolerances: tuple[Tolerance, ...] = tuple(getattr(history, "tolerances", ()))
        self._names = names
        self._parts: list[pa.Table | Path]
        table = _table(history)
        if table is not None:
            self._parts = [_chosen(table, names)]
        else:
            self._parts, self.title = _files(history), str(history)
        self.columns: list[str] = _columns(self._parts[0])
        _check(self, ["step", "name", "rows", "cols"])

    @property
    def suffixes(self) -> list[str]:
        """Column suffix of every tolerance whose bounds were recorded; "" for the first."""
        known = (name.partition("@") for name in self.columns if name.split("@")[0] == "rank_lower")
        return [suffix for _, _, suffix in known]

    def tables(self, columns: Sequence[str], *, backwards: bool = False) -> Iterator[pa.Table]:
        """Read these columns of each part, a table a part, from the last to the first if `backwards`.

        Raises:
            fastrank.HistoryError: a part is missing by now, or damaged, or has no such matrix or column.
        """
        _check(self, columns)
        for part in self._parts[::-1] if backwards else self._parts:
            if isinstance(part, Path):
                yield read_history(part, names=self._names, columns=list(columns))
            else:
                yield part.select(list(columns))

    def digest(self, suffixes: Sequence[str] = ("",), *, bins: int = BINS) -> Digest:
        """The digest of the rows that are there now, in which only recorded steps count.

        The runs of a heat map are thus equal numbers of recorded steps, whatever the schedule that chose them. Rows
        that a training adds to the files meanwhile are left out.

        Raises:
            fastrank.HistoryError: there is no row, or as `tables`.
        """
        steps = [np.unique(part["step"].to_numpy()) for part in self.tables(["step"])]
        recorded = np.unique(np.concatenate(steps))
        if not len(recorded):
            raise HistoryError(f"{self.title}: has no row yet")
        parts = (_numbered(part, recorded) for part in self.tables(columns(suffixes)))
        known = digest(parts, suffixes, len(recorded), bins=bins)
        curves = {suffix: _with_steps(curve, recorded) for suffix, curve in known.curves.items()}
        return replace(known, matrix_steps=recorded[known.matrix_steps - 1], curves=curves)


def _table(history: Any) -> pa.Table | None:
    """The table that was given, or that a tracker makes; None for paths."""
    if isinstance(history, pd.DataFrame):
        return pa.Table.from_pandas(history, preserve_index=False)
    if isinstance(history, pa.Table):
        return history
    if hasattr(history, "to_arrow"):
        return history.to_arrow()
    if isinstance(history, str | os.PathLike | list | tuple):
        return None
    raise TypeError(
        "history: expected a pyarrow.Table, a pandas.DataFrame, a RankTracker, or the path of a tracker's folder or of "
        f"a Parquet file, not {type(history).__name__}"
    )


def _chosen(table: pa.Table, names: Sequence[str] | None) -> pa.Table:
    """The rows of the matrices `names`, in the order of their steps."""
    if names is not None and "name" in table.column_names:
        known = pc.unique(table["name"]).to_pylist()
        unknown = [name for name in names if name not in known]
        if unknown:
            raise HistoryError(f"names: the history has no matrix {unknown[0]!r}; it has {', '.join(known[:5])}, ...")
        table = table.filter(pc.is_in(table["name"].cast(pa.string()), pa.array(list(names))))
    if "step" in table.column_names and np.any(np.diff(table["step"].to_numpy()) < 0):
        table = table.take(np.argsort(table["step"].to_numpy(), kind="stable"))
    return table


def _files(history: Any) -> list[pa.Table | Path]:
    if not isinstance(history, str | os.PathLike):
        return [Path(file).expanduser() for file in history]
    path = Path(history).expanduser()
    return list(complete_parts(path)) if path.is_dir() else [path]


def _columns(part: pa.Table | Path) -> list[str]:
    return list(part.column_names) if isinstance(part, pa.Table) else column_names(part)


def _check(source: Source, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in source.columns:
            raise HistoryError(f"{source.title}: has no column {column!r}")


def _numbered(part: pa.Table, recorded: IntArray) -> pa.Table:
    """The part with the place of each step among those that are recorded, from 1, for the step; without other steps."""
    step = part["step"].to_numpy()
    place = np.searchsorted(recorded, step)
    known = recorded[np.minimum(place, len(recorded) - 1)] == step
    part = part.set_column(part.column_names.index("step"), "step", pa.array(place + 1))
    return part if known.all() else part.filter(pa.array(known))


def _with_steps(curve: pd.DataFrame, recorded: IntArray) -> pd.DataFrame:
    """The curve with steps in place of their numbers."""
    return curve.assign(**{end: recorded[curve[end].to_numpy() - 1] for end in ("step_first", "step_last")})
