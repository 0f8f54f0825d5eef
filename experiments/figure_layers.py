"""Heat map of one trial: the rank of every tracked matrix over the steps of training."""

import numpy as np
import pandas as pd
import pyarrow as pa
from fastrank.experiments.digest import binned, ranks
from fastrank.experiments.drawing import Drawing, NothingToDraw
from fastrank.experiments.results import Results
from fastrank.experiments.style import MUTED, SMALL, WIDTH
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

NOT_FINITE = "#d5d8de"


def draw(results: Results, trial: str, history: pa.Table) -> Drawing:
    """The figure for the trial with this id and its `history`, at the first tolerance.

    Raises:
        NothingToDraw: the history has no row.
    """
    if history.num_rows == 0:
        raise NothingToDraw(f"the history of trial {trial} is empty")
    data, last = _cells(history)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.34 * max(len(last), 3)), layout="constrained")
    axes = figure.subplots()
    _draw_cells(figure, axes, data, last)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_yticks(np.arange(len(last)), list(last))
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return Drawing(_caption(results, trial), figure, data)


def _cells(history: pa.Table) -> tuple[pd.DataFrame, dict[str, str]]:
    """The heat map's cells, and for every layer its rank at the last step in words."""
    rows = pd.DataFrame(
        {
            "name": history["name"].to_numpy(),
            "step": history["step"].to_numpy(),
            "rows": history["rows"].to_numpy(),
            "cols": history["cols"].to_numpy(),
            "rank": ranks(history),
        }
    )
    parts, last = [], {}
    for name, layer in rows.groupby("name", sort=False):
        part = binned(layer["step"].to_numpy(), layer["rank"].to_numpy())
        part.insert(0, "cols", layer["cols"].iloc[0])
        part.insert(0, "rows", layer["rows"].iloc[0])
        part.insert(0, "name", name)
        parts.append(part)
        rank, full = layer["rank"].iloc[-1], min(layer["rows"].iloc[-1], layer["cols"].iloc[-1])
        last[str(name)] = f"not finite, {full}" if np.isnan(rank) else f"{rank:.4g} of {full}"
    data = pd.concat(parts, ignore_index=True)
    data["share_of_full"] = data["mean"] / data[["rows", "cols"]].min(axis=1)
    return data, last


def _draw_cells(figure: Figure, axes: Axes, data: pd.DataFrame, last: dict[str, str]) -> None:
    colours = colormaps["viridis"].with_extremes(bad=NOT_FINITE)
    for y, name in enumerate(last):
        layer = data[data["name"] == name]
        edges = np.append(layer["step_first"].to_numpy() - 1, layer["step_last"].iloc[-1])
        # Drawn as pixels also in the SVG: thousands of outlined vector cells are slow and show seams.
        mesh = axes.pcolormesh(
            edges,
            [y - 0.44, y + 0.44],
            np.ma.masked_invalid(layer[["share_of_full"]].to_numpy().T),
            cmap=colours,
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        axes.annotate(
            last[name],
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=SMALL,
        )
    axes.set_ylim(len(last) - 0.5, -0.5)
    axes.annotate(
        "last step",
        (1, 1),
        xycoords="axes fraction",
        xytext=(5, 2),
        textcoords="offset points",
        color=MUTED,
        fontsize=SMALL,
    )
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=max(18, 4 * len(last)), format=PercentFormatter(1.0))
    bar.set_label("rank, share of full")
    bar.outline.set_visible(False)


def _caption(results: Results, trial: str) -> str:
    text = (
        f"{results.describe(trial)}: numerical rank of every tracked matrix at "
        f"{results.threshold()}, as a share of its full rank min(rows, cols)."
    )
    return text + (" Grey: steps at which the matrix was not finite." if results.digests[trial].nonfinite else "")
