"""Heat maps of the rank of every tracked matrix over the steps of training: of one trial, and of a few."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter, StrMethodFormatter

from ..digest import Digest
from ..results import Results
from .corners import choice, corner_panels, corners, settings_columns
from .drawing import Drawing, NothingToDraw
from .style import MUTED, SMALL, WIDTH

NOT_FINITE = "#d5d8de"
COLOURS = colormaps["viridis"].with_extremes(bad=NOT_FINITE)
ROW, LOW_ROW, MANY = 0.34, 0.19, 24  # inches of a matrix; LOW_ROW if there are more than MANY
SMALL_HEIGHT = 1.7  # inches of a panel where there are several


def draw(results: Results, trial: str) -> Drawing:
    """The heat map of the trial with this id, at the first tolerance, a row a matrix."""
    known = results.digests[trial]
    count = len(known.matrices)
    height = 1.3 + (ROW if count <= MANY else LOW_ROW) * max(count, 3)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _draw_cells(axes, known, known.matrix_steps[:, 1], apart=2.5 if count <= MANY else 1.0)
    missing = "not finite" if known.ended else "not recorded"
    for y, (_, matrix) in enumerate(known.matrices.iterrows()):
        full = min(matrix["rows"], matrix["cols"])
        last = missing if np.isnan(matrix["last"]) else f"{matrix['last']:.4g}"
        _note(axes, f"{last} of {full}", (1, y), (5, 0), ("axes fraction", "data"), va="center")
    _note(axes, "last step", (1, 1), (5, 2), "axes fraction")
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_yticks(np.arange(count), [str(name).removesuffix(".weight") for name in known.matrices["name"]])
    _colour_bar(figure, [axes], aspect=max(18, int(height * 12)))
    caption = (
        f"{results.describe(trial)}: numerical rank of every tracked matrix at "
        f"{results.threshold()}, as a share of its full rank min(rows, cols)."
    )
    return Drawing(caption + _grey(known.nonfinite), figure, cells(known))


def draw_corners(results: Results) -> Drawing:
    """The heat maps of at most 12 trials that stand for the grid, at the first tolerance.

    Raises:
        NothingToDraw: none of those that would be shown is done, or the sweep has but one cell.
    """
    found, columns = corners(results)
    if len(found) < 2:
        raise NothingToDraw("the sweep has one cell alone, which is drawn above")
    if not any(corner.trial for corner in found):
        raise NothingToDraw("no done trial at the corners of the grid has a readable history")
    figure, panels = corner_panels(results, found, columns, SMALL_HEIGHT)
    parts, nonfinite = [], 0
    for axes, corner in zip(panels, found, strict=True):
        if corner.trial is None:
            axes.set_axis_off()
            continue
        known = results.digests[corner.trial]
        row: Any = results.table.loc[corner.trial]
        count, epochs = len(known.matrices), row["epochs"] / row["steps"]
        _draw_cells(axes, known, known.matrix_steps[:, 1] * epochs, apart=1.0 if count <= 8 else 0.0)
        axes.set_title(f"{row['test_accuracy']:.0%}", loc="right", color=MUTED, fontweight="normal", fontsize=SMALL)
        axes.yaxis.set_major_locator(FixedLocator([0, count - 1]))
        axes.yaxis.set_major_formatter(lambda place, _: f"{place + 1:.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="upper"))
        axes.set_xlim(0, row["epochs"])
        parts.append(settings_columns(results, corner, cells(known)))
        nonfinite += known.nonfinite
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("matrix, first to last", fontsize="medium")
    _colour_bar(figure, list(figure.axes), aspect=30)
    caption = (
        f"Numerical rank of every tracked matrix at {results.threshold()}, as a share of its full rank; right above it "
        "test accuracy at the end. " + choice(results, found)
    )
    return Drawing(caption + _grey(nonfinite), figure, pd.concat(parts, ignore_index=True))


def cells(known: Digest) -> pd.DataFrame:
    """A row for every matrix and run of steps: mean rank, and its share of full rank; NaN where not finite."""
    matrices, (_, runs) = known.matrices, known.matrix_means.shape
    data = matrices.loc[matrices.index.repeat(runs), ["name", "rows", "cols"]].reset_index(drop=True)
    first, last = np.tile(known.matrix_steps, (len(matrices), 1)).T
    data = data.assign(step_first=first, step_last=last, mean=known.matrix_means.ravel())
    return data.assign(share_of_full=data["mean"] / data[["rows", "cols"]].min(axis=1))


def _draw_cells(axes: Axes, known: Digest, ends: "np.ndarray[tuple[int], np.dtype[Any]]", apart: float) -> None:
    """Draw a heat map, with rows `apart` points from each other; `ends` are the times at which runs of steps end."""
    full = known.matrices[["rows", "cols"]].min(axis=1).to_numpy()
    edges, rows = np.append(0, ends), np.arange(len(full) + 1) - 0.5
    shares = np.ma.masked_invalid(known.matrix_means / full[:, None])
    # Drawn as pixels also in the SVG: thousands of outlined vector cells are slow and show seams.
    axes.pcolormesh(edges, rows, shares, cmap=COLOURS, vmin=0, vmax=1, rasterized=True)
    axes.hlines(rows[1:-1], 0, edges[-1], color="white", linewidth=apart)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(len(full) - 0.5, -0.5)
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


def _colour_bar(figure: Figure, panels: list[Axes], aspect: int) -> None:
    mappable = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(mappable, ax=panels, pad=0.02, aspect=aspect, format=PercentFormatter(1.0))
    bar.set_label("rank, share of full")
    bar.outline.set_visible(False)


def _grey(nonfinite: int) -> str:
    if not nonfinite:
        return ""
    return f" Grey: runs of steps at which the matrix was never finite ({nonfinite:,} rows have no rank)."
