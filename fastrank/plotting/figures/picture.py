"""The picture of one history: heat map, average rank and spectra in one figure, or one of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator

from ..draw import Kind
from .average import HEIGHT, draw_average
from .digest import Digest
from .heat_map import draw_heat_map, heat_map_height
from .source import Source
from .spectra import draw_spectra, spectra, spectra_height, spectrum_values
from .style import WIDTH, styled

HIGHEST = 9.0  # inches of a heat map: with more matrices its rows are lower, and not all have a name
SHARP = 2  # pixels of a notebook's picture for each one that it is shown with


class Picture(Figure):
    """A matplotlib figure that a notebook shows, although `matplotlib.pyplot` knows nothing of it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = io.BytesIO()
        with styled():
            self.savefig(content, format="png", dpi=SHARP * self.dpi)
        width, height = (round(inches * self.dpi) for inches in self.get_size_inches())
        return content.getvalue(), {"width": width, "height": height}


def draw_history(source: Source, kind: Kind | None = None) -> Picture:
    """The picture of a history: of all that was recorded, or of one kind; for the other arguments see `fastrank.plot`.

    Raises:
        ValueError: no such kind, or it is `"spectra"` and no singular values were recorded.
        fastrank.HistoryError: there is no row, or the history cannot be read.
    """
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind: expected one of {', '.join(map(repr, get_args(Kind)))} or None, not {kind!r}")
    with styled():
        values = spectrum_values(spectra(source)) if kind in (None, "spectra") else None
        if values is None or values.empty:
            if kind == "spectra":
                raise ValueError(
                    "kind: no singular values were recorded; make the tracker with spectrum=('singular_values',)"
                )
            return draw_over_steps(source.digest(), kind)
        low = spectra_height(values["name"].nunique())
        if kind == "spectra":
            figure = _figure(low)
            draw_spectra(figure, values, source.tolerances)
            return figure
        known = source.digest()
        high = _height(known)
        figure = _figure(high + low)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[high, low])[:, 0]
        _draw_both(upper, known)
        draw_spectra(lower, values, source.tolerances)
        return figure


def draw_over_steps(known: Digest, kind: Kind | None) -> Picture:
    """The picture of what is drawn against steps: heat map, average, or both. Call it inside `styled()`."""
    if kind is None:
        figure = _figure(_height(known))
        _draw_both(figure, known)
        return figure
    height = HEIGHT if kind == "average" else _heat_map_height(known)
    draw = draw_average if kind == "average" else draw_heat_map
    figure = _figure(height)
    _draw_against_steps(figure.subplots(), known, draw, height)
    return figure


def _draw_both(figure: FigureBase, known: Digest) -> None:
    heights = [_heat_map_height(known), HEIGHT]
    panels = figure.subplots(2, 1, height_ratios=heights)
    for axes, draw, height in zip(panels, (draw_heat_map, draw_average), heights, strict=True):
        _draw_against_steps(axes, known, draw, height)
    panels[0].set_xlabel("")


def _draw_against_steps(axes: Axes, known: Digest, draw: Callable[..., None], height: float) -> None:
    """Draw into a panel; its axis of steps is logarithmic where most of the recorded steps would else fall together."""
    ends = known.matrix_steps[:, 1]
    geometric = len(ends) > 3 and np.median(ends) < 0.1 * ends[-1]
    draw(axes, known, height, start=_start(known, geometric))
    if geometric:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _start(known: Digest, geometric: bool) -> float:
    """Where the first cell begins: at 0, or as far before the first step as the second is after it.

    The weights before training, step 0, are thus seen as a cell of their own.
    """
    first, ends = int(known.matrix_steps[0, 0]), known.matrix_steps[:, 1]
    if geometric:
        return min(0.0, first - 0.5)
    apart = float(np.median(np.diff(ends))) if len(ends) > 1 else max(first, 1.0)
    return max(0.0, first - apart) if first > 0 else first - apart


def _height(known: Digest) -> float:
    return _heat_map_height(known) + HEIGHT


def _heat_map_height(known: Digest) -> float:
    return min(heat_map_height(len(known.matrices)), HIGHEST)


def _figure(height: float) -> Picture:
    options: dict[str, Any] = {"figsize": (WIDTH, height), "layout": "constrained"}
    return Picture(**options)
