"""Singular values of every tracked matrix, at the first and the last step at which they were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator

from ...metrics import Tolerance
from ..text import evenly
from .digest import rank_columns, ranks
from .source import Source
from .style import INK, NEUTRAL, SMALL, WIDTH, columns_of, panels_in, short

HEIGHT = 2.0  # inches
MOST = 24  # panels
FLOOR = 1e-8  # of sigma / ||W||_F: what lies below is rounding of single precision, or 0, and is drawn here
DASHES = ((0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
OF = {"frobenius": r" $\|W\|_F$", "spectral": r" $\sigma_1$", "absolute": ""}
STAGES = {"first": NEUTRAL, "last": "#1b5e8c"}
READ = ("step", "name", "rows", "cols", "frobenius_norm", "singular_values")


def spectra(source: Source) -> pd.DataFrame:
    """Read the first and the last recorded spectrum of every matrix, and no more of the history than that takes.

    Returns:
        `name, rows, cols, step, rank` (at the first tolerance), `frobenius_norm`, `singular_values` and `stage`
        ("first" or "last"), in the order of the matrices; no row where no spectrum was recorded.

    Raises:
        fastrank.HistoryError, OSError: the history is missing or damaged.
    """
    if "singular_values" not in source.columns:
        return pd.DataFrame(columns=[*READ, "rank", "stage"])
    names = pc.unique(next(source.tables(["name"]))["name"]).to_pylist()
    ends = []
    for stage in STAGES:
        found = _nearest(source, last=stage == "last")
        found = found.assign(stage=stage, order=[names.index(name) for name in found["name"]])
        ends.append(found.sort_values("order").drop(columns="order"))
    return pd.concat(ends, ignore_index=True)


def _nearest(source: Source, *, last: bool) -> pd.DataFrame:
    """A row a matrix: its first (or last) one with singular values. Reads no more of the parts than that takes."""
    frames: list[pd.DataFrame] = []
    seen: set[str] = set()
    for table in source.tables([*READ, *rank_columns()], backwards=last):
        by_name = _valid(table).groupby("name", sort=False)
        frame = by_name.tail(1) if last else by_name.head(1)
        frames.append(frame[~frame["name"].isin(seen)])
        seen |= set(frame["name"])
        if set(pc.unique(table["name"]).to_pylist()) <= seen:
            break
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _valid(table: pa.Table) -> pd.DataFrame:
    table = table.filter(pc.is_valid(table["singular_values"]))
    frame: pd.DataFrame = table.append_column("rank", pa.array(ranks(table))).select([*READ, "rank"]).to_pandas()
    frame["name"] = frame["name"].astype(str)
    return frame


def spectrum_values(ends: pd.DataFrame) -> pd.DataFrame:
    """A row for each singular value of what `spectra` returned; of at most 24 matrices, evenly chosen."""
    names = list(dict.fromkeys(ends["name"]))
    ends = ends[ends["name"].isin([names[i] for i in evenly(len(names), MOST)])]
    data = ends.explode("singular_values", ignore_index=True).rename(columns={"singular_values": "sigma"})
    data["sigma"] = data["sigma"].astype(float)
    data["index"] = data.groupby(["name", "stage"]).cumcount() + 1
    data["share"] = data["sigma"] / data["frobenius_norm"]
    return data[["name", "rows", "cols", "stage", "step", "rank", "frobenius_norm", "index", "sigma", "share"]]


def spectra_figure(data: pd.DataFrame, tolerances: Sequence[Tolerance] = ()) -> Figure:
    """A picture of what `spectrum_values` returned."""
    figure = Figure(figsize=(WIDTH, spectra_height(data["name"].nunique())), layout="constrained")
    draw_spectra(figure, data, tolerances)
    return figure


def spectra_height(count: int) -> float:
    """Inches of a picture of the spectra of so many matrices."""
    return HEIGHT * -(-count // _columns(count))


def draw_spectra(figure: FigureBase, data: pd.DataFrame, tolerances: Sequence[Tolerance] = ()) -> None:
    """Draw what `spectrum_values` returned into a figure, or a part of one: a panel a matrix.

    Args:
        figure: without panels.
        data: the singular values.
        tolerances: those whose threshold is drawn, as it is at the last step (default: none).
    """
    names = list(dict.fromkeys(data["name"]))
    panels = panels_in(figure, len(names), _columns(len(names)), sharex=False)
    lowest = np.fmin.reduce([data["share"].min(), *(_threshold(data, tolerance) for tolerance in tolerances)])
    bottom = float(np.fmax(lowest, FLOOR))
    for axes, name in zip(panels, names, strict=True):
        matrix = data[data["name"] == name]
        axes.set_title(short(name, 26 if len(names) <= 6 else 19))
        axes.set_yscale("log")
        axes.set_ylim(bottom / 2, 10)
        axes.set_xlim(0, matrix["index"].max() + 1)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _draw_stages(axes, matrix)
        _draw_thresholds(axes, matrix, tolerances)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    figure.supxlabel("index i of the singular value", fontsize="medium")
    figure.supylabel(r"$\sigma_i\,/\,\|W\|_F$ (log scale)", fontsize="medium")


def spectra_caption(shown: int, count: int, *, thresholds: bool = True) -> str:
    """What is to be seen, in words, when `shown` of `count` matrices are; begins with a small letter."""
    dashed = "Dashed: the threshold tau at the last step; the numerical rank counts what lies above. "
    which = "every tracked matrix" if shown == count else f"{shown} of the {count} tracked matrices, evenly chosen"
    return (
        f"singular values of {which}, divided by the Frobenius norm, at the first and the last step at which they were "
        f"recorded. {dashed if thresholds else ''}Values below {FLOOR:g}, which are rounding, are drawn there."
    )


def _columns(count: int) -> int:
    return columns_of(count) if count <= 6 else 4


def _draw_stages(axes: Axes, matrix: pd.DataFrame) -> None:
    for stage, colour in STAGES.items():
        curve = matrix[matrix["stage"] == stage]
        label = f"step {curve['step'].iloc[0]:,}"
        axes.plot(curve["index"], curve["share"].clip(lower=FLOOR), color=colour, linewidth=1.6, label=label)
    first, last = (matrix.loc[matrix["stage"] == stage, "rank"].iloc[0] for stage in STAGES)
    axes.annotate(
        rf"{matrix['rows'].iloc[0]} $\times$ {matrix['cols'].iloc[0]}, rank {first:.4g} → {last:.4g}",
        (1, 1),
        xycoords="axes fraction",
        xytext=(-2, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        color=INK,
        fontsize=SMALL,
    )


def _draw_thresholds(axes: Axes, matrix: pd.DataFrame, tolerances: Sequence[Tolerance]) -> None:
    """Draw a line at tau / ||W||_F for every tolerance, with W as at its last step."""
    for tolerance, dashes in zip(tolerances, cycle(DASHES)):
        name = f"τ = {tolerance.value:g}{OF[tolerance.relative_to]}"
        axes.axhline(_threshold(matrix, tolerance), color=INK, linewidth=1, linestyle=dashes, label=name)


def _threshold(matrix: pd.DataFrame, tolerance: Tolerance) -> float:
    """tau / ||W||_F for the first W of these rows, at its last step; the first row of that has its sigma_1. NaN for a
    zero matrix, unless tau is relative to its norm."""
    if tolerance.relative_to == "frobenius":
        return tolerance.value
    last = matrix[matrix["stage"] == "last"].iloc[0]
    unit = last["sigma"] if tolerance.relative_to == "spectral" else 1.0
    return float(tolerance.value * unit / last["frobenius_norm"]) if last["frobenius_norm"] else np.nan
