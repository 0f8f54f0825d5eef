"""One panel of a map over two settings: contours or cells, hatched where a network collapsed, and marked if empty."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from fastrank.plotting.figures import ALERT, INK, MUTED, NEUTRAL, SMALL

from .scale import Scale
from .style import lightness


@dataclass(frozen=True)
class Quantity:
    """What a panel shows: a column of `seed_means`, its name, colours, and how its numbers are written."""

    column: str
    name: str
    colours: str
    written: Callable[[float], str]
    least: float  # least width of the range of colours


QUANTITIES = (
    Quantity("rank_mean", "average rank", "viridis", lambda rank: f"{rank:.1f}", least=1.0),
    Quantity("test_accuracy_mean", "test accuracy (%)", "cividis", lambda share: f"{100 * share:.1f}", least=0.02),
)


def draw_panel(
    axes: Axes, data: pd.DataFrame, scales: tuple[Scale, Scale], quantity: Quantity, levels: list[float], inches: float
) -> None:
    """Draw `quantity` over two settings.

    Args:
        axes: an empty panel.
        data: a row a cell of the grid; NaN where there is no result.
        scales: horizontal and vertical. With even scales cells are drawn, with their numbers; with others contours.
        quantity: what is shown.
        levels: values at which contours lie; the colours go from the first to the last.
        inches: width of the panel.
    """
    x, y = scales
    contours, norm = not x.even, Normalize(levels[0], levels[-1])
    columns, rows = _cells(x), _cells(y)
    colours = colormaps[quantity.colours]
    if contours:
        _draw_contours(axes, data, scales, quantity, levels, norm)
    for _, cell in data.iterrows():
        (left, right), (bottom, top) = columns[cell[x.axis]], rows[cell[y.axis]]
        place = (left, bottom), right - left, top - bottom
        value = cell[quantity.column]
        if not contours or cell[x.axis] == 0:
            _draw_cell(axes, place, value, quantity, colours(norm(value)) if np.isfinite(value) else None)
        else:
            at = x.positions()[cell[x.axis]], y.positions()[cell[y.axis]]
            _draw_point(axes, at, missing=bool(np.isnan(value)))
        if cell["collapsed"] > 0:
            axes.add_patch(Rectangle(*place, fill=False, edgecolor=ALERT, hatch="////", linewidth=0, zorder=3))
    axes.set_xlim(min(left for left, _ in columns.values()), max(right for _, right in columns.values()))
    axes.set_ylim(min(bottom for bottom, _ in rows.values()), max(top for _, top in rows.values()))
    x.draw_gap(axes)
    x.draw_x(axes, inches)
    y.draw_y(axes)
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _cells(scale: Scale) -> dict[float, tuple[float, float]]:
    """From where to where the cell of every value reaches on a scale.

    On a logarithm the outer cells reach hardly beyond their values, because contours end there.
    """
    edges, places = scale.edges(), scale.positions()
    if scale.even:
        return edges
    regular = [places[value] for value in edges if value > 0]
    margin = 0.04 * (max(regular) - min(regular))
    low, high = min(regular) - margin, max(regular) + margin
    return {value: (max(a, low), min(b, high)) if value > 0 else (a, b) for value, (a, b) in edges.items()}


def _draw_contours(
    axes: Axes,
    data: pd.DataFrame,
    scales: tuple[Scale, Scale],
    quantity: Quantity,
    levels: list[float],
    norm: Normalize,
) -> None:
    x, y = scales
    table = data[data[x.axis] > 0].pivot(index=y.axis, columns=x.axis, values=quantity.column)
    places = (
        [x.positions()[float(value)] for value in table.columns],
        [y.positions()[float(value)] for value in table.index],
    )
    values = np.ma.masked_invalid(table.to_numpy())
    style: dict[str, Any] = {"levels": levels, "extend": "both"}
    axes.contourf(*places, values, **style, cmap=quantity.colours, norm=norm)
    axes.contour(*places, values, levels=levels, colors="white", linewidths=0.6, alpha=0.7)


def _draw_cell(axes: Axes, place: tuple[Any, float, float], value: float, quantity: Quantity, colour: Any) -> None:
    """Draw a filled cell with its number, or a dashed outline with a dash where it has no colour."""
    (left, bottom), width, height = place
    centre = left + width / 2, bottom + height / 2
    if colour is None:
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=NEUTRAL, linewidth=0.8, linestyle=(0, (2, 2))))
        axes.annotate("\N{EN DASH}", centre, ha="center", va="center", color=MUTED)
        return
    axes.add_patch(Rectangle(*place, facecolor=colour, edgecolor="white", linewidth=1.2))
    ink = INK if lightness(colour) > 0.2 else "white"  # near where either has the same contrast
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
    text = axes.annotate(quantity.written(value), centre, ha="center", va="center", color=ink, fontsize=SMALL, zorder=4)
    text.set_bbox(box)


def _draw_point(axes: Axes, centre: tuple[float, float], *, missing: bool) -> None:
    """Draw a dot where a value was measured, a cross where it is missing."""
    style: dict[str, Any] = (
        {"marker": "x", "s": 34, "color": MUTED}
        if missing
        else {"s": 9, "color": INK, "edgecolor": "white", "linewidth": 0.5}
    )
    axes.scatter(*centre, **style, zorder=4, clip_on=False)
