"""Average rank, and the test accuracy that goes with it, against one setting: a line for each value of a second."""

from math import ceil

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastrank.plotting.figures import WIDTH, columns_of, label_ends, reference_line

from ..axes import SHORT, WORDS, number
from ..results import Results
from ..seed_means import seed_means
from .drawing import Drawing, NothingToDraw
from .scale import Scale
from .style import accuracy_axis, colours

Ramp = dict[float, str]  # the colour of every value of the second setting, the same in all panels

RANK_HEIGHT, ACCURACY_HEIGHT = 2.6, 1.0  # inches


def draw(results: Results, suffix: str = "") -> Drawing:
    """The figure at the tolerance with this column suffix, over the two settings that `results.shown` names.

    Raises:
        NothingToDraw: no trial is done.
    """
    data = seed_means(results, f"average_rank@{suffix}" if suffix else "average_rank")
    if data.empty:
        raise NothingToDraw("no trial with an average rank is done")
    scale = Scale(results.shown[0], tuple(sorted(data[results.shown[0]].unique())))
    ramp = colours(results.shown[1], list(data[results.shown[1]].unique()))
    facets = [facet for facet in results.facets if (data["facet"] == facet).any()]
    columns = columns_of(len(facets))
    rows = ceil(len(facets) / columns)
    figure = Figure(figsize=(WIDTH, 0.8 + rows * (RANK_HEIGHT + ACCURACY_HEIGHT)), layout="constrained")
    axes = figure.subplots(
        2 * rows,
        columns,
        squeeze=False,
        sharex=True,
        height_ratios=[RANK_HEIGHT, ACCURACY_HEIGHT] * rows,
    )
    for panel in axes.flat[:]:
        panel.set_axis_off()
    for index, facet in enumerate(facets):
        row, column = divmod(index, columns)
        upper, lower = axes[2 * row, column], axes[2 * row + 1, column]
        part = data[data["facet"] == facet]
        _draw_rank(upper, part, results.shown, scale, ramp, top=data["full_rank"].max(), narrow=columns > 1)
        _draw_accuracy(lower, part, results.shown, scale, ramp, _reached(data), WIDTH / columns - 1.3)
        upper.set_title(facet)
        upper.tick_params(labelleft=column == 0)
        lower.tick_params(labelleft=column == 0)
        if column == 0:
            upper.set_ylabel("average rank")
            lower.set_ylabel("test accuracy")
    figure.align_ylabels()
    return Drawing(_caption(results, data, suffix), figure, data)


def _draw_lines(
    axes: Axes, data: pd.DataFrame, shown: tuple[str, str], scale: Scale, ramp: Ramp, quantity: str
) -> list[tuple[float, float, str, str]]:
    """Draw a line for each value of the second setting. Returns where each line ends, its name and its colour."""
    places, ends = scale.positions(), []
    for value, colour in ramp.items():
        line = data[data[shown[1]] == value]
        if line.empty:
            continue
        line = line.assign(place=line[shown[0]].map(places))
        # No line leads from zero to the logarithm: between them there is no distance.
        for part in (line[line[shown[0]] > 0], line[line[shown[0]] == 0]) if scale.zero else (line,):
            axes.plot(
                part["place"],
                part[f"{quantity}_mean"],
                color=colour,
                marker="o",
                markersize=4.5,
                markeredgecolor="white",
            )
            low, high = part[f"{quantity}_min"], part[f"{quantity}_max"]
            if len(part) > 1:
                axes.fill_between(part["place"], low, high, color=colour, alpha=0.2, linewidth=0)
            else:
                axes.vlines(part["place"], low, high, color=colour, alpha=0.35, linewidth=4)
        ends.append((float(line["place"].iloc[-1]), float(line[f"{quantity}_mean"].iloc[-1]), number(value), colour))
    return ends


def _draw_collapsed(
    axes: Axes, data: pd.DataFrame, shown: tuple[str, str], scale: Scale, ramp: Ramp, quantity: str
) -> None:
    """Draw crosses over the cells with collapsed networks; those below the axis stand on its lower edge."""
    places, bottom = scale.positions(), axes.get_ylim()[0]
    for _, cell in data[data["collapsed"] > 0].iterrows():
        y = max(cell[f"{quantity}_mean"], bottom)
        axes.scatter(places[cell[shown[0]]], y, s=60, marker="X", color=ramp[cell[shown[1]]], zorder=4, clip_on=False)


def _reached(data: pd.DataFrame) -> "pd.Series[float]":
    """Test accuracies that the axis has to show: those of cells without a collapsed network, where there are any."""
    sound = data[data["collapsed"] == 0]
    return (sound if len(sound) else data)["test_accuracy_min"]


def _draw_rank(
    axes: Axes, data: pd.DataFrame, shown: tuple[str, str], scale: Scale, ramp: Ramp, top: float, *, narrow: bool
) -> None:
    axes.set_axis_on()
    axes.set_ylim(0, 1.1 * top)
    for full in sorted(data["full_rank"].unique()):
        reference_line(axes, full, f"full rank {full:.4g}")
    name = (SHORT if narrow else WORDS)[shown[1]]
    drawn = _draw_lines(axes, data, shown, scale, ramp, "rank")
    ends = [(x, y, f"{name} {text}", colour) for x, y, text, colour in drawn]
    _draw_collapsed(axes, data, shown, scale, ramp, "rank")
    scale.draw_gap(axes)
    label_ends(axes, ends, RANK_HEIGHT)
    axes.tick_params(labelbottom=False)


def _draw_accuracy(
    axes: Axes,
    data: pd.DataFrame,
    shown: tuple[str, str],
    scale: Scale,
    ramp: Ramp,
    reached: "pd.Series[float]",
    inches: float,
) -> None:
    axes.set_axis_on()
    _draw_lines(axes, data, shown, scale, ramp, "test_accuracy")
    accuracy_axis(axes, reached)
    _draw_collapsed(axes, data, shown, scale, ramp, "test_accuracy")
    scale.draw_gap(axes)
    scale.draw_x(axes, inches)
    axes.tick_params(labelbottom=True)


def _caption(results: Results, data: pd.DataFrame, suffix: str) -> str:
    text = [
        "Average over the tracked matrices of the numerical rank after the last step, at "
        f"{results.threshold(suffix)}, and test accuracy below it."
    ]
    if data["trials"].max() > 1:
        text.append(f"Lines: mean over up to {data['trials'].max()} seeds; bands: lowest to highest seed.")
    unknown = len(results.done) - int(data["trials"].sum())
    if unknown:
        text.append(f"{unknown} done trial(s) whose history lacks that step are not shown.")
    if data["collapsed"].any():
        text.append(f"A cross marks test accuracy below {results.chance}: a collapsed network, not a low-rank success.")
    return " ".join([*text, results.left_out()]).strip()
