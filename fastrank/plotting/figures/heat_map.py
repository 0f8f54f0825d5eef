"""Heat map of the rank of every tracked matrix over the steps of training, drawn from a digest of the history."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from ..text import evenly
from .digest import Digest, FloatArray
from .style import MUTED, SMALL, WIDTH, short

NOT_FINITE = "#d5d8de"
COLOURS = colormaps["viridis"].with_extremes(bad=NOT_FINITE)
ROW, LOW_ROW, MANY = 0.34, 0.19, 24  # inches of a matrix; LOW_ROW if there are more than MANY
LETTERS = 44  # of a matrix's name, so that the map has a third of the width or more
LEGIBLE = 0.15  # inches that a name takes: of rows that are lower, only some have theirs


def heat_map(known: Digest) -> Figure:
    """A picture of the heat map alone, as high as all its names need."""
    height = heat_map_height(len(known.matrices))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    draw_heat_map(figure.subplots(), known, height)
    return figure


def heat_map_height(count: int) -> float:
    """Inches of a heat map of so many matrices, with its axis."""
    return 1.3 + (ROW if count <= MANY else LOW_ROW) * max(count, 3)


def draw_heat_map(axes: Axes, known: Digest, height: float, *, start: float = 0.0) -> None:
    """Draw the heat map into a panel: a row a matrix, its name at the left, its last rank at the right; a colour bar.

    Args:
        axes: an empty panel.
        known: the history, at its first tolerance.
        height: inches that the panel has. Where that is too little for all names, some of them are written.
        start: the step at which the first cell begins.
    """
    figure, count = axes.figure, len(known.matrices)
    row = (height - 1.3) / max(count, 3)
    apart = 2.5 if count <= MANY else 1.0 if row >= LEGIBLE else 0.0
    draw_cells(axes, known, known.matrix_steps[:, 1], apart=apart, start=start)
    missing = "no rank" if known.ended else "not recorded"
    named = evenly(count, count if row >= LEGIBLE else max(int((height - 1.3) / LEGIBLE), 2))
    for y, matrix in known.matrices.iloc[named].iterrows():
        full = min(matrix["rows"], matrix["cols"])
        last = missing if np.isnan(matrix["last"]) else f"{matrix['last']:.4g}"
        _note(axes, f"{last} of {full}", (1, y), (5, 0), ("axes fraction", "data"), va="center")  # type: ignore[arg-type]
    _note(axes, "last step", (1, 1), (5, 2 if row >= LEGIBLE else SMALL), "axes fraction")
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_yticks(named, [short(str(name), LETTERS) for name in known.matrices["name"].iloc[named]])
    colour_bar(figure, [axes], aspect=max(18, int(height * 12)))


def cells(known: Digest) -> pd.DataFrame:
    """A row for every matrix and run of steps: mean rank, and its share of full rank; NaN where not finite."""
    matrices, (_, runs) = known.matrices, known.matrix_means.shape
    data = matrices.loc[matrices.index.repeat(runs), ["name", "rows", "cols"]].reset_index(drop=True)
    first, last = np.tile(known.matrix_steps, (len(matrices), 1)).T
    data = data.assign(step_first=first, step_last=last, mean=known.matrix_means.ravel())
    return data.assign(share_of_full=share(data["mean"], data[["rows", "cols"]].min(axis=1)))


def shares(known: Digest) -> FloatArray:
    """(matrices, runs of steps), mean ranks as shares of full rank; NaN where never finite."""
    full = known.matrices[["rows", "cols"]].min(axis=1).to_numpy()
    found: FloatArray = share(known.matrix_means, full[:, None])
    return found


def share(rank: Any, full: Any) -> Any:
    """Ranks as shares of full rank; of an empty matrix, whose rank of 0 is full, all of it."""
    return (rank + (full == 0)) / np.maximum(full, 1)


def draw_cells(
    axes: Axes, known: Digest, ends: np.ndarray[tuple[int], np.dtype[Any]], apart: float, *, start: float = 0.0
) -> None:
    """Draw the cells alone, with rows `apart` points from each other.

    Args:
        axes: the panel.
        known: the history.
        ends: (runs,), the times at which runs of steps end, in the unit of the horizontal axis.
        apart: points between rows.
        start: the time at which the first run begins.
    """
    edges, rows = np.append(start, ends), np.arange(len(known.matrices) + 1) - 0.5
    # Drawn as pixels also in the SVG: thousands of outlined vector cells are slow and show seams.
    values = np.ma.masked_invalid(shares(known))
    axes.pcolormesh(edges, rows, values, cmap=COLOURS, vmin=0, vmax=1, rasterized=True)
    axes.hlines(rows[1:-1], start, edges[-1], color="white", linewidth=apart)
    axes.set_xlim(start, edges[-1])
    axes.set_ylim(len(known.matrices) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _note(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], coords: Any, **how: Any
) -> None:
    axes.annotate(
        text, place, xycoords=coords, xytext=offset, textcoords="offset points", color=MUTED, fontsize=SMALL, **how
    )


def colour_bar(figure: FigureBase, panels: list[Axes], aspect: int) -> None:
    """Draw the bar that says which colour is which share of full rank, beside panels."""
    mappable = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(mappable, ax=panels, pad=0.02, aspect=aspect, format=PercentFormatter(1.0))
    bar.set_label("rank, share of full")
    bar.outline.set_visible(False)


def grey(nonfinite: int) -> str:
    """A sentence, after a space, on what is grey in a heat map with so many rows without a rank; empty without any."""
    if not nonfinite:
        return ""
    return f" Grey: runs of steps at which the matrix never had a rank ({nonfinite:,} rows have none)."
