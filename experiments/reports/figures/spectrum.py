"""Singular values of every tracked matrix of one trial, at its first and last step, with the rank's thresholds."""

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

import fastrank

from ..histories import spectra
from ..results import Results
from .corners import evenly
from .drawing import Drawing, NothingToDraw
from .style import INK, NEUTRAL, SMALL, columns_of, panel_grid

HEIGHT = 2.0  # inches
MOST = 24  # panels
FLOOR = 1e-8  # of sigma / ||W||_F: what lies below is rounding of single precision, or 0, and is drawn here
DASHES = ((0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
OF = {"frobenius": r" $\|W\|_F$", "spectral": r" $\sigma_1$", "absolute": ""}
STAGES = {"first": NEUTRAL, "last": "#1b5e8c"}


def draw(results: Results, trial: str) -> Drawing:
    """The figure for the trial with this id.

    Raises:
        NothingToDraw: its history has no singular values, or cannot be read.
    """
    try:
        ends = spectra(results.history(trial))
    except (fastrank.HistoryError, OSError) as error:
        raise NothingToDraw(f"the history of trial {trial} could not be read ({error})") from error
    if ends.empty:
        raise NothingToDraw(f"no singular values were recorded for trial {trial}")
    names = list(dict.fromkeys(ends["name"]))
    chosen = [names[i] for i in evenly(len(names), MOST)]
    data = _values(ends[ends["name"].isin(chosen)])
    columns, letters = (columns_of(len(chosen)), 26) if len(chosen) <= 6 else (4, 19)
    figure, panels = panel_grid(len(chosen), columns, HEIGHT, sharex=False)
    bottom = max(min(data["share"].min(), *(_threshold(data, tolerance) for tolerance in results.tolerances)), FLOOR)
    for axes, name in zip(panels, chosen, strict=True):
        matrix = data[data["name"] == name]
        axes.set_title(_short(name, letters))
        axes.set_yscale("log")
        axes.set_ylim(bottom / 2, 10)
        axes.set_xlim(0, matrix["index"].max() + 1)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _draw_stages(axes, matrix)
        _draw_thresholds(axes, matrix, results.tolerances)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    figure.supxlabel("index i of the singular value", fontsize="medium")
    figure.supylabel(r"$\sigma_i\,/\,\|W\|_F$ (log scale)", fontsize="medium")
    return Drawing(_caption(results, trial, len(chosen), len(names)), figure, data)


def _values(ends: pd.DataFrame) -> pd.DataFrame:
    """A row for each singular value of `ends`, which `spectra` returned."""
    data = ends.explode("singular_values", ignore_index=True).rename(columns={"singular_values": "sigma"})
    data["sigma"] = data["sigma"].astype(float)
    data["index"] = data.groupby(["name", "stage"]).cumcount() + 1
    data["share"] = data["sigma"] / data["frobenius_norm"]
    return data[["name", "rows", "cols", "stage", "step", "rank", "frobenius_norm", "index", "sigma", "share"]]


def _draw_stages(axes: Axes, matrix: pd.DataFrame) -> None:
    for stage, colour in STAGES.items():
        curve = matrix[matrix["stage"] == stage]
        label = f"step {curve['step'].iloc[0]:,}"
        axes.plot(curve["index"], curve["share"].clip(lower=FLOOR), color=colour, linewidth=1.6, label=label)
    first, last = (matrix.loc[matrix["stage"] == stage, "rank"].iloc[0] for stage in STAGES)
    axes.annotate(
        rf"{matrix['rows'].iloc[0]} $\times$ {matrix['cols'].iloc[0]}, rank {first:.4g} → {last:.4g}",
        (1, 1),
        xycoords="axes fraction",
        xytext=(-2, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        color=INK,
        fontsize=SMALL,
    )


def _draw_thresholds(axes: Axes, matrix: pd.DataFrame, tolerances: list[fastrank.Tolerance]) -> None:
    """Draw a line at tau / ||W||_F for every tolerance, with W as at its last step."""
    for tolerance, dashes in zip(tolerances, cycle(DASHES)):
        name = f"τ = {tolerance.value:g}{OF[tolerance.relative_to]}"
        axes.axhline(_threshold(matrix, tolerance), color=INK, linewidth=1, linestyle=dashes, label=name)


def _threshold(matrix: pd.DataFrame, tolerance: fastrank.Tolerance) -> float:
    """tau / ||W||_F for the first W of these rows, at its last step; the first row of that has its sigma_1."""
    last = matrix[matrix["stage"] == "last"].iloc[0]
    unit = {"frobenius": last["frobenius_norm"], "spectral": last["sigma"], "absolute": 1.0}
    return float(tolerance.value * unit[tolerance.relative_to] / last["frobenius_norm"])


def _short(name: str, letters: int) -> str:
    """The end of a matrix's name, at most so many letters, for the title of a panel."""
    name = name.removesuffix(".weight")
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def _caption(results: Results, trial: str, shown: int, count: int) -> str:
    which = "every tracked matrix" if shown == count else f"{shown} of the {count} tracked matrices, evenly chosen"
    return (
        f"{results.describe(trial)}: singular values of {which}, "
        "divided by the Frobenius norm, at the first and the last step at which they were recorded. Dashed: the "
        "threshold tau at the last step; the numerical rank counts what lies above. Values below "
        f"{FLOOR:g}, which are rounding, are drawn there."
    )
