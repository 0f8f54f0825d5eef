"""A few trials that stand for a whole grid: its corners, and what lies evenly between them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastrank.plotting import evenly
from fastrank.plotting.figures import ALERT, MUTED, panel_grid

from ..axes import said
from ..results import Results

MOST = 12  # trials
FIRST = {1: (MOST,), 2: (4, MOST), 3: (3, 2, MOST), 4: (2, 2, 2, MOST)}  # by axes that vary: most values of each


@dataclass(frozen=True)
class Corner:
    """A cell of the grid. `trial` is its done trial of the lowest seed; where that is None, `status` says why."""

    settings: Mapping[str, Any]
    title: str
    trial: str | None
    status: str


def corners(results: Results) -> tuple[list[Corner], int]:
    """Choose at most 12 cells of the grid, its corners among them. Returns them and the number of columns of panels.

    In the order of the cells the first of the settings that vary changes fastest.
    """
    varying, room, chosen = results.varying, MOST, []
    for axis, most in zip(varying, FIRST.get(len(varying), ()), strict=True):
        values = sorted(results.table[axis].unique())
        chosen.append([values[i] for i in evenly(len(values), min(most, room))])
        room //= len(chosen[-1])
    places = [dict(zip(varying[::-1], values, strict=True)) for values in product(*chosen[::-1])]
    return [_corner(results, settings) for settings in places], _columns([len(values) for values in chosen])


def _columns(counts: list[int]) -> int:
    """How many columns of panels, given how many values are shown of each setting that varies.

    A row has a panel for each value of the first setting, or twice as many where that has two values and there are more
    than six panels. Panels of a single setting are in rows of at most four.
    """
    panels = math.prod(counts)
    if len(counts) < 2:
        return 4 if panels > 4 else max(panels, 1)
    return 4 if counts[0] == 2 and panels > 6 else counts[0]


def _corner(results: Results, settings: dict[str, Any]) -> Corner:
    cell = results.table
    for axis, value in settings.items():
        cell = cell[cell[axis] == value]
    known = cell[cell.index.isin(list(results.digests))].sort_values("seed")
    title = said(settings, *(axis for axis in results.varying if axis in settings), short=True)
    trial = str(known.index[0]) if len(known) else None
    status = "history not readable" if (cell["status"] == "done").any() else ", ".join(sorted(set(cell["status"])))
    return Corner(settings, title, trial, status)


def corner_panels(results: Results, found: list[Corner], columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for every corner: its title, and whether it collapsed, or why there is no trial."""
    figure, panels = panel_grid(len(found), columns, height)
    for axes, corner in zip(panels, found, strict=True):
        axes.set_title(corner.title)
        if corner.trial is None:
            axes.text(0.5, 0.5, corner.status, transform=axes.transAxes, ha="center", va="center", color=MUTED)
        elif results.table.loc[corner.trial, "collapsed"]:
            axes.set_title(f"{corner.title}\ncollapsed", color=ALERT)
    return figure, panels


def choice(results: Results, found: list[Corner]) -> str:
    """Which trials are shown, and what a collapsed one is, in words."""
    cells = results.table.drop_duplicates(results.varying) if results.varying else results.table.head(1)
    which = f"{len(found)} of the grid's {len(cells)} cells, its corners and what lies evenly between them"
    which = which if len(found) < len(cells) else "Every cell of the grid"
    seeds = results.table["seed"].nunique() > 1
    text = which + ("; the lowest seed that is done of each." if seeds else ".")
    if results.table.loc[[corner.trial for corner in found if corner.trial], "collapsed"].any():
        text += f" Collapsed: test accuracy below {results.chance} at the end; its low rank is no success."
    return text


def settings_columns(results: Results, corner: Corner, data: pd.DataFrame) -> pd.DataFrame:
    """Insert columns into `data`, before its own: the corner's trial, its settings and how it ended."""
    row = results.table.loc[str(corner.trial)]
    data.insert(0, "collapsed", row["collapsed"])
    data.insert(0, "final_test_accuracy", row["test_accuracy"])
    for axis in ("seed", "momentum", "weight_decay", "lr", "batch_size"):
        data.insert(0, axis, row[axis])
    data.insert(0, "trial", corner.trial)
    return data
