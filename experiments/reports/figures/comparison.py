"""Average rank and test accuracy of several sweeps against each setting: small multiples, a line a sweep."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, PercentFormatter

from fastrank.plotting.figures import WIDTH

from ..trends import SETTINGS
from .drawing import Drawing, NothingToDraw
from .scale import Scale
from .style import accuracy_axis

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1f2430")  # Okabe and Ito's
MARKERS = "os^DvPX"
HEIGHT = 2.3  # inches of a panel


def draw(means: Mapping[str, pd.DataFrame]) -> Drawing:
    """The figure.

    Args:
        means: by the name of the sweep, what `fastrank.experiments.reports.trends.means` gives.

    Raises:
        NothingToDraw: no sweep has two values of a setting.
    """
    parts = [table.assign(sweep=name) for name, table in means.items() if len(table)]
    if not parts:
        raise NothingToDraw("no sweep has results at two values of batch size, learning rate or weight decay")
    data = pd.concat(parts, ignore_index=True)
    axes = [axis for axis in SETTINGS if (data["axis"] == axis).any()]
    figure = Figure(figsize=(WIDTH, 2 * HEIGHT + 0.6), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes):
        part = data[data["axis"] == axis]
        scale = Scale(axis, tuple(sorted(part["value"].unique())))
        for row, quantity in enumerate(("rank_share", "test_accuracy")):
            for number, name in enumerate(means):
                line = part[part["sweep"] == name]
                _draw_line(panels[row, column], line, scale, quantity, name, number)
            scale.draw_gap(panels[row, column])
        scale.draw_x(panels[1, column], inches=(WIDTH - 1) / len(axes))
    _finish(figure, panels[0, 0], panels[1, 0], data)
    return Drawing("", figure, data[["sweep", "axis", "value", "rank_share", "test_accuracy", "cells"]])


def _draw_line(axes: Axes, line: pd.DataFrame, scale: Scale, quantity: str, name: str, number: int) -> None:
    """Draw a sweep's line. Zero is not joined to the other values: on a logarithm there is no distance to it."""
    colour = COLOURS[number % len(COLOURS)]
    marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
    places = line["value"].map(scale.positions())
    for part in (line["value"] > 0, line["value"] == 0) if scale.zero else (line["value"] >= 0,):
        axes.plot(
            places[part],
            line.loc[part, quantity],
            color=colour,
            marker=marker,
            markersize=6,
            markeredgecolor="white",
            label=_plain(name),
        )


def _plain(name: str) -> str:
    """A name that matplotlib shows as it is: a dollar would begin a formula, and a first underscore hide the line."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _finish(figure: Figure, upper: Axes, lower: Axes, data: pd.DataFrame) -> None:
    upper.set_ylim(0, 1.05)
    upper.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    upper.set_ylabel("average rank, share of full")
    lower.set_ylabel("test accuracy")
    accuracy_axis(lower, data["test_accuracy"])
    named: dict[str, Artist] = {}
    for axes in figure.axes:
        named |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    columns = max(1, min(4, 90 // (6 + max(map(len, named)))))
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=columns)
