"""Depth: rank, stable rank and spectrum of the matrices of a network, block after block, by types of layers.

Drawn once, of a checkpoint or a model, where the other figures of this room have steps of training on their axis.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from ...files import replacing
from .digest import FloatArray
from .picture import Picture
from .style import MUTED, SMALL, WIDTH, panels_in, styled

SUFFIXES = (".png", ".svg", ".pdf")
TOP, ROW, LEGEND, COLUMNS = 2.3, 1.55, 0.5, 4  # inches of the upper panels, a row of spectra, and the legend
COLOURS = ("#1f4e9c", "#3f8fd6", "#7fb8e8", "#5b3fa6", "#0b7285", "#0ca678", "#b35900", "#868e96", "#e8890c", "#f2b632",
           "#c92a2a", "#343a40", "#d6336c", "#66a80f", "#8b93a1")  # fmt: skip
MARKERS = "osD^vP*XphH<>d8"
FLOOR = 1e-6
"""Singular values below this share of the largest are drawn there: a logarithm has no zero."""
UNNAMED = ["other"]
"""The types where no name tells one: there is nothing to tell apart, so no legend, and no type as a title."""

Spectra = Sequence[Sequence[float] | None]


def save_depths(path: Path, table: pd.DataFrame, kinds: Sequence[str], spectra: Spectra) -> None:
    """Draw a table of `fastrank.analyze` into a file, which is complete or not there.

    Args:
        path: its suffix is one of `SUFFIXES`, and is the format.
        table: with the columns ``rows, cols, rank_lower, rank_upper, stable_rank, layer_type``, and ``depth``: which
            block a matrix is in, <NA> for none.
        kinds: the types of layers, in the order in which they are drawn.
        spectra: of each matrix some of its singular values, descending, as many of each and evenly spread; None where
            they are not known.

    Raises OSError.
    """
    content, form = io.BytesIO(), path.suffix[1:].lower()
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # the same table is the same file
    with styled():
        depth_figure(table, kinds, spectra).savefig(content, format=form, metadata=dates.get(form))
    with replacing(path) as file:
        file.write(content.getvalue())


def depth_figure(table: pd.DataFrame, kinds: Sequence[str], spectra: Spectra) -> Picture:
    """The picture itself; for the arguments see `save_depths`. Call it inside `styled()`."""
    table = table.reset_index(drop=True).assign(place=_places(table), share=_shares(table))
    curves = {kind: _curves(table[table.layer_type == kind], spectra) for kind in kinds}
    curves = {kind: own for kind, own in curves.items() if own}
    below = ROW * -(-len(curves) // COLUMNS)
    options: dict[str, Any] = {"figsize": (WIDTH, TOP + below + LEGEND), "layout": "constrained"}
    figure = Picture(**options)
    parts = figure.subfigures(
        2 if curves else 1, 1, squeeze=False, height_ratios=[TOP + LEGEND, below][: 1 + bool(curves)]
    )
    _draw_by_depth(parts[0, 0], table, kinds)
    if curves:
        _draw_spectra(parts[1, 0], curves, table)
    return figure


def _places(table: pd.DataFrame) -> FloatArray:
    """Where each matrix is drawn: at its block; before or after all, if it is in none. Without blocks, in a row."""
    depth = table["depth"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(depth).all():
        return np.arange(len(depth), dtype=np.float64)
    after = (table.layer_type == "head").to_numpy()
    return np.where(np.isnan(depth), np.where(after, np.nanmax(depth) + 1, -1.0), depth)


def _shares(table: pd.DataFrame) -> FloatArray:
    """Rank over the largest possible; NaN where it is not known."""
    lower, upper = (table[key].to_numpy(dtype=np.float64, na_value=np.nan) for key in ("rank_lower", "rank_upper"))
    shares: FloatArray = (lower + upper) / (2 * np.maximum(table[["rows", "cols"]].min(axis=1).to_numpy(np.float64), 1))
    return shares


def _curves(own: pd.DataFrame, spectra: Spectra) -> dict[float, FloatArray]:
    """By place, the singular values of the matrices there over their largest: the geometric mean of several."""
    found: dict[float, list[FloatArray]] = {}
    for i, place in zip(own.index, own.place, strict=True):
        sigma = np.array(spectra[i] if spectra[i] is not None else [], np.float64)
        if len(sigma) and np.isfinite(sigma).all() and sigma[0] > 0:
            found.setdefault(float(place), []).append(np.log(np.maximum(sigma / sigma[0], FLOOR)))
    return {place: np.exp(np.mean(logs, axis=0)) for place, logs in found.items()}


def _draw_by_depth(part: FigureBase, table: pd.DataFrame, kinds: Sequence[str]) -> None:
    rank, stable = part.subplots(1, 2)
    for number, kind in enumerate(kinds):
        by_place = table[table.layer_type == kind].groupby("place")
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        for axes, column in ((rank, "share"), (stable, "stable_rank")):
            values = by_place[column].agg(["mean", "min", "max"])
            x = values.index.to_numpy(np.float64)
            axes.plot(x, values["mean"], label=kind, markersize=3, linewidth=1.2, **style)
            if (by_place.size() > 1).any():
                axes.fill_between(x, values["min"], values["max"], color=style["color"], alpha=0.15, linewidth=0)
    blocks = bool(table.depth.notna().any())
    ends = (-1.0, float(table.depth.max()) + 1) if blocks else ()
    outside = [x for x in ends if (table.place == x).any()]
    for axes, title in ((rank, "Rank, of the largest possible"), (stable, "Stable rank")):
        axes.set_title(title)
        axes.set_xlabel("block" if blocks else "matrix")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        if blocks:
            for end in outside:
                axes.axvspan(end - 0.5, end + 0.5, color=MUTED, alpha=0.08, linewidth=0)
            axes.xaxis.set_major_formatter(lambda x, _: "" if x in outside else f"{x:g}")
    rank.set_ylim(0, 1.05)
    rank.yaxis.set_major_formatter(PercentFormatter(1))
    if (table.stable_rank > 0).any():
        stable.set_yscale("log")
        stable.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        stable.yaxis.set_minor_formatter(NullFormatter())
        stable.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    if list(kinds) == UNNAMED:
        return
    handles, labels = rank.get_legend_handles_labels()
    part.legend(handles, labels, loc="outside lower center", ncols=min(len(kinds), 6))


def _draw_spectra(part: FigureBase, curves: dict[str, dict[float, FloatArray]], table: pd.DataFrame) -> None:
    blocks = table.depth.notna().any()
    last = float(table.depth.max()) if blocks else float(table.place.max())
    colours = ScalarMappable(Normalize(0, max(last, 1)), colormaps["viridis"])
    panels = panels_in(part, len(curves), COLUMNS)
    lowest = min(float(curve.min()) for own in curves.values() for curve in own.values())
    for panel, (kind, own) in zip(panels, curves.items(), strict=True):
        for place, curve in sorted(own.items()):
            inside = 0 <= place <= last
            x = np.linspace(0, 1, len(curve))
            panel.plot(
                x, curve, color=colours.to_rgba(np.array(place)) if inside else MUTED, linewidth=1, clip_on=False
            )
        _trim(panel, "Spectra" if list(curves) == UNNAMED else kind, lowest)
    part.supylabel("singular value / largest", fontsize=SMALL, color=MUTED)
    part.supxlabel("place in the spectrum: largest to smallest", fontsize=SMALL, color=MUTED)
    bar = part.colorbar(colours, ax=panels, aspect=30, pad=0.01)
    bar.set_label("block" if blocks else "matrix", color=MUTED)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _trim(panel: Axes, title: str, lowest: float) -> None:
    panel.set_title(title)
    panel.set_yscale("log")
    panel.set_ylim(min(max(lowest, FLOOR), 0.1) * 0.8, 1.0)
    panel.yaxis.set_major_locator(LogLocator(numticks=5))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlim(0, 1)
    panel.set_xticks([0, 0.5, 1], ["0", "½", "1"])
