"""Average rank over the course of training: a panel for each value of one setting, a line for each of the other."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fastrank.plotting.figures import columns_of, label_ends, panel_grid, reference_line

from ..axes import AXES, SHORT, number, said
from ..results import Results
from .bound import average, bounds, sentence
from .drawing import Drawing, NothingToDraw
from .style import colours

HEIGHT, LOW = 2.5, 2.1  # inches of a panel; LOW if there are more than MANY
MANY = 9  # panels


def draw(results: Results, suffix: str = "") -> Drawing:
    """The figure at the tolerance with this column suffix; its lines are values of the first of `results.shown`.

    Raises:
        NothingToDraw: no done trial has a readable history.
    """
    trials = results.done[results.done.index.isin(list(results.digests))]
    if trials.empty:
        raise NothingToDraw("no done trial has a readable history")
    line, panel = results.shown
    known = bounds(results, trials, suffix)
    data = _bounded(results, trials, suffix, _curves(results, trials, suffix), known)
    places = [
        (facet, value)
        for facet in results.facets
        for value in sorted(trials.loc[trials["facet"] == facet, panel].unique())
    ]
    height = HEIGHT if len(places) <= MANY else LOW
    figure, panels = panel_grid(len(places), _columns(results, trials, len(places)), height)
    ramp = colours(line, list(trials[line].unique()))
    for axes, (facet, value) in zip(panels, places, strict=True):
        axes.set_title("\n".join(filter(None, [facet, said({panel: value}, panel)])))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlim(0, trials["epochs"].max())
        axes.set_ylim(0, 1.1 * trials["full_rank"].max())
        here = (trials["facet"] == facet) & (trials[panel] == value)
        for full in sorted(trials.loc[here, "full_rank"].unique()):
            reference_line(axes, full, f"full rank {full:.4g}")
        cells = data[(data["facet"] == facet) & (data[panel] == value)]
        _draw_cells(axes, cells, line, ramp, height - 0.6)
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("average rank", fontsize="medium")
    biting = len(data.loc[data["bound"].notna(), list(AXES)].drop_duplicates())
    caption = _caption(results, trials, suffix, sentence(known, biting))
    return Drawing(caption, figure, data.drop(columns="bin"))


def _columns(results: Results, trials: pd.DataFrame, panels: int) -> int:
    """How many columns of panels: with several facets a row for each, if that makes 2 to 4; or as `columns_of` says."""
    values = trials[results.shown[1]].nunique()
    return values if trials["facet"].nunique() > 1 and 1 < values <= 4 else columns_of(panels)


def _curves(results: Results, trials: pd.DataFrame, suffix: str) -> pd.DataFrame:
    """A row for every cell and run of steps: mean rank over the seeds, and the lowest and highest of any seed."""
    parts = []
    for name, trial in trials.iterrows():
        curve = results.digests[str(name)].curves[suffix]
        settings = {key: trial[key] for key in (*AXES, "facet", "collapsed")}
        parts.append(curve.assign(epoch=curve["step_last"] / (trial["steps"] / trial["epochs"]), **settings))
    groups = pd.concat(parts, ignore_index=True).groupby([*AXES, "facet", "bin"], sort=True)
    found: pd.DataFrame = groups.agg(
        seeds=("mean", "count"),
        step_first=("step_first", "min"),
        step_last=("step_last", "max"),
        epoch=("epoch", "max"),
        low=("low", "min"),
        mean=("mean", "mean"),
        high=("high", "max"),
        collapsed=("collapsed", "sum"),
    ).reset_index()
    return found


def _bounded(
    results: Results, trials: pd.DataFrame, suffix: str, data: pd.DataFrame, known: pd.DataFrame
) -> pd.DataFrame:
    """`data` with the theory's `bound` of the average rank where it is less than full rank; NaN elsewhere."""
    data = data.assign(bound=np.nan)
    of_cell = trials.reset_index().groupby(list(AXES))["trial"].agg(list)
    covered = set(map(tuple, known.loc[known["least"] < known["full_most"], list(AXES)].to_numpy()))
    for place, rows in data.groupby(list(AXES)).groups.items():
        if place in covered:
            steps = data.loc[rows, "step_last"].to_numpy(dtype=np.float64)
            bounds_ = [average(results, trial, suffix, steps) for trial in of_cell[place]]
            data.loc[rows, "bound"] = np.max(bounds_, axis=0)  # NaN unless it holds for every seed
    return data


def _draw_cells(axes: Axes, data: pd.DataFrame, line: str, ramp: dict[float, str], height: float) -> None:
    ends = []
    for _, curve in data.groupby(line):
        value = curve[line].iloc[0]
        colour, dashes = ramp[value], (0, (1, 1)) if curve["collapsed"].any() else "solid"
        axes.fill_between(curve["epoch"], curve["low"], curve["high"], color=colour, alpha=0.25, linewidth=0)
        axes.plot(curve["epoch"], curve["mean"], color=colour, linewidth=1.3, linestyle=dashes)
        if curve["bound"].notna().any():
            axes.plot(
                curve["epoch"], curve["bound"], color=colour, linewidth=1, linestyle=(0, (6, 2, 1, 2)), zorder=1.6
            )
        last = curve.dropna(subset="mean").tail(1)
        if len(last):
            ends.append((*last[["epoch", "mean"]].iloc[0], f"{SHORT[line]} {number(value)}", colour))
    label_ends(axes, ends, height)


def _caption(results: Results, trials: pd.DataFrame, suffix: str, bound: str) -> str:
    several = int(trials.groupby(list(AXES)).size().max())
    epochs = (
        ", against epochs, so that trials of different batch sizes (B) end at the same place although they take "
        "different numbers of steps"
        if trials["batch_size"].nunique() > 1
        else ""
    )
    seeds = (
        f" and over up to {several} seeds; shade: lowest to highest step of any seed."
        if several > 1
        else "; shade: lowest to highest step of each."
    )
    text = [
        f"Average numerical rank at {results.threshold(suffix)} at every recorded step{epochs}. "
        f"Lines: mean over short runs of steps{seeds}"
    ]
    if trials["collapsed"].any():
        text.append(f"Dotted: test accuracy below {results.chance}, at the end (collapsed).")
    text.append(bound)
    nonfinite = sum(results.digests[name].nonfinite for name in trials.index)
    if nonfinite:
        text.append(f"Steps with a matrix that was not finite are left out ({nonfinite:,} rows).")
    missing = len(results.done) - len(trials)
    if missing:
        text.append(f"{missing} done trial(s) without a readable history are not shown.")
    return " ".join(filter(None, [*text, results.left_out()]))
