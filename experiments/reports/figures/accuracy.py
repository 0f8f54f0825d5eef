"""Rank against test accuracy, a point a trial, coloured by how hard SGD and weight decay pull: lr * wd / B."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fastrank.plotting.figures import ALERT, INK, MUTED, NEUTRAL, SMALL, WIDTH

from ..axes import AXES
from ..results import Results
from .drawing import Drawing, NothingToDraw
from .style import accuracy_axis

HEIGHT = 3.8  # inches
COLUMNS = ("facet", *AXES, "seed", "pull", "average_rank", "full_rank")


def draw(results: Results) -> Drawing:
    """The figure, at the first tolerance.

    Raises:
        NothingToDraw: no trial with a rank and a test accuracy is done.
    """
    done = results.done.dropna(subset=["average_rank", "test_accuracy"])
    if done.empty:
        raise NothingToDraw("no trial with a rank and a test accuracy is done")
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(0, 1.04 * done["full_rank"].max())
    for full in sorted(done["full_rank"].unique()):
        _draw_full_rank(axes, full)
    _draw_points(figure, axes, done)
    axes.set_xlabel("average rank")
    axes.set_ylabel("test accuracy")
    accuracy_axis(axes, done["test_accuracy"])
    data = done.reset_index()[["trial", *COLUMNS, "test_accuracy", "collapsed"]]
    return Drawing(_caption(results, done), figure, data)


def _draw_points(figure: Figure, axes: Axes, done: pd.DataFrame) -> None:
    style: dict[str, Any] = {"s": 52, "edgecolor": "white", "linewidth": 0.8, "zorder": 3}
    free, decayed = done[done["pull"] == 0], done[done["pull"] > 0]
    if len(free):
        axes.scatter(
            free["average_rank"],
            free["test_accuracy"],
            **{**style, "edgecolor": NEUTRAL, "linewidth": 1.4},
            marker="s",
            facecolor="none",
            label="no weight decay",
        )
    if len(decayed):
        low, high = decayed["pull"].min(), decayed["pull"].max()
        norm = LogNorm(low, high) if low < high else LogNorm(low / 2, low * 2)
        points = axes.scatter(
            decayed["average_rank"],
            decayed["test_accuracy"],
            **style,
            c=decayed["pull"],
            cmap="viridis_r",
            norm=norm,
            label="with weight decay",
        )
        values = np.unique(decayed["pull"])
        ticks = values if len(values) <= 8 else np.geomspace(low, high, 6)
        bar = figure.colorbar(points, ax=axes, pad=0.02, aspect=30, ticks=FixedLocator(list(ticks)), format=_scientific)
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.set_label(r"lr $\times$ weight decay / batch size (log scale)")
        bar.outline.set_visible(False)
    sunk = done[done["collapsed"]]
    if len(sunk):
        axes.scatter(
            sunk["average_rank"],
            sunk["test_accuracy"],
            s=130,
            marker="x",
            color=ALERT,
            linewidth=1.4,
            zorder=4,
            label="collapsed",
        )
    figure.legend(loc="outside upper left", labelcolor=INK, ncols=3)


def _draw_full_rank(axes: Axes, full: float) -> None:
    axes.axvline(full, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        f"full rank {full:.4g}",
        (full, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color=MUTED,
        fontsize=SMALL,
    )


@FuncFormatter
def _scientific(value: float, _: int | None) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return rf"${mantissa} \times 10^{{{int(exponent)}}}$"


def _caption(results: Results, done: pd.DataFrame) -> str:
    text = [
        f"A point a trial, after its last step: average numerical rank at {results.threshold()} and test accuracy. "
        "The darker, the harder SGD and weight decay pull towards low rank; hollow squares have no weight decay."
    ]
    if done["collapsed"].any():
        text.append(f"Crossed out: test accuracy below {results.chance}, a collapsed network and no low-rank success.")
    return " ".join([*text, results.left_out()]).strip()
