"""The look that all figures share: colours, type sizes, panels, labels at the ends of lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from ..text import shorten

INK, MUTED, GRID, NEUTRAL, ALERT = "#1f2430", "#6b7280", "#e8eaee", "#8b93a1", "#b3261e"
WIDTH = 8.0  # inches; at 200 dots an inch, shown 800 pixels wide, 9 points are 12.5 pixels
SIZE, SMALL = 9.0, 8.0  # points
LEADER = 12.0  # points between an axes and the names right of it

STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "svg.hashsalt": "fastrank",  # ids in an SVG are random without it, and a rebuild would differ
    "svg.fonttype": "path",
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": SIZE,
    "axes.labelcolor": INK,
    "axes.edgecolor": NEUTRAL,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style for drawing and saving; the caller's own matplotlib settings come back afterwards.

    Starts from matplotlib's defaults, so that nobody's matplotlibrc changes a figure.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def columns_of(count: int) -> int:
    """In how many columns `count` panels are arranged: at most three, but four panels in two rows of two."""
    return 2 if count == 4 else min(count, 3)


def panel_grid(count: int, columns: int, height: float, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each `height` inches high, in rows of at most `columns`, sharing both axes."""
    rows = ceil(count / min(count, columns))
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, panels_in(figure, count, columns, **kwargs)


def panels_in(figure: FigureBase, count: int, columns: int, **kwargs: Any) -> list[Axes]:
    """`count` panels in a figure, or a part of one, in rows of at most `columns`, sharing both axes.

    `kwargs` are those of matplotlib's `subplots`.
    """
    columns = min(count, columns)
    rows = ceil(count / columns)
    grid = figure.subplots(rows, columns, squeeze=False, **{"sharex": True, "sharey": True, **kwargs})
    panels = list(grid.flat)
    for panel in panels[count:]:
        panel.set_axis_off()
    for above in panels[max(0, count - columns) : count]:
        above.tick_params(labelbottom=True)  # the lowest of its column, also where the last row is short
    return panels[:count]


def reference_line(axes: Axes, y: float, text: str, *, below: bool = False, colour: str = MUTED) -> None:
    """Draw a dashed horizontal line, with its name at the left above it (or `below` it)."""
    axes.axhline(y, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        text,
        (0, y),
        xycoords=blended_transform_factory(axes.transAxes, axes.transData),
        xytext=(3, -3 if below else 3),
        textcoords="offset points",
        va="top" if below else "bottom",
        color=colour,
        fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], height: float) -> None:
    """Write each line's name right of its last point: `(x, y, text, colour)`; `height` inches is the panel's.

    Names that would overlap are moved apart and tied to their points by a hairline. Call it when the axes' limits
    are settled.
    """
    bottom, top = axes.get_ylim()
    per_point = (top - bottom) / (height * 72)
    spread_out = spread([y for _, y, _, _ in ends], gap=1.25 * SMALL * per_point, within=(bottom, top))
    figure = axes.get_figure(root=True)
    assert figure is not None
    right = axes.transAxes + ScaledTranslation(LEADER / 72, 0, figure.dpi_scale_trans)
    for (x, y, text, colour), text_y in zip(ends, spread_out, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(1, text_y),
            textcoords=blended_transform_factory(right, axes.transData),
            va="center",
            color=colour,
            fontsize=SMALL,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 0},
        )


def spread(values: Sequence[float], gap: float, within: tuple[float, float]) -> list[float]:
    """Positions at least `gap` apart, in the order of `values` and near them, inside `within` where they fit."""
    if not values:
        return []
    order = np.argsort(values, kind="stable")
    gap = min(gap, (within[1] - within[0]) / len(values))
    # Without their gaps, positions that keep the order are the closest non-decreasing sequence (pool adjacent
    # violators): clusters of positions that would cross move to their common mean.
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([values[index] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = [float(np.mean(pool)) for pool in pools for _ in pool]
    highest = within[1] - gap / 2 - (len(values) - 1) * gap
    positions = [0.0] * len(values)
    for rank, index in enumerate(order):
        positions[index] = min(max(flat[rank], within[0] + gap / 2), highest) + rank * gap
    return positions


def short(name: str, letters: int) -> str:
    """The end of a matrix's name, at most so many letters, without the ending that nearly all have; as matplotlib shows
    it, for which a dollar would begin a formula."""
    return shorten(name.removesuffix(".weight"), letters).replace("$", r"\$")
