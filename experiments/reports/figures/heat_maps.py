"""Heat maps of the rank of every tracked matrix over the steps of training: of one trial, and of a few."""

from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, MaxNLocator

from fastrank.plotting.figures import MUTED, SMALL, cells, colour_bar, draw_cells, grey, heat_map

from ..results import Results
from .corners import choice, corner_panels, corners, settings_columns
from .drawing import Drawing, NothingToDraw

SMALL_HEIGHT = 1.7  # inches of a panel where there are several


def draw(results: Results, trial: str) -> Drawing:
    """The heat map of the trial with this id, at the first tolerance, a row a matrix."""
    known = results.digests[trial]
    caption = (
        f"{results.describe(trial)}: numerical rank of every tracked matrix at "
        f"{results.threshold()}, as a share of its full rank min(rows, cols)."
    )
    return Drawing(caption + grey(known.nonfinite), heat_map(known), cells(known))


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
        draw_cells(axes, known, known.matrix_steps[:, 1] * epochs, apart=1.0 if count <= 8 else 0.0)
        axes.set_title(f"{row['test_accuracy']:.0%}", loc="right", color=MUTED, fontweight="normal", fontsize=SMALL)
        axes.yaxis.set_major_locator(FixedLocator([0, count - 1]))
        axes.yaxis.set_major_formatter(lambda place, _: f"{place + 1:.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="upper"))
        axes.set_xlim(0, row["epochs"])
        parts.append(settings_columns(results, corner, cells(known)))
        nonfinite += known.nonfinite
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("matrix, first to last", fontsize="medium")
    colour_bar(figure, list(figure.axes), aspect=30)
    caption = (
        f"Numerical rank of every tracked matrix at {results.threshold()}, as a share of its full rank; right above it "
        "test accuracy at the end. " + choice(results, found)
    )
    return Drawing(caption + grey(nonfinite), figure, pd.concat(parts, ignore_index=True))
