"""Average rank, and the test accuracy that goes with it, against batch size: one line a weight decay."""

import pandas as pd
from fastrank.experiments.drawing import Drawing, NothingToDraw
from fastrank.experiments.results import Results
from fastrank.experiments.style import WIDTH, accuracy_axis, decay_colours, label_ends, number, reference_line
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

RANK_HEIGHT, ACCURACY_HEIGHT = 2.6, 1.0  # inches


def draw(results: Results, suffix: str = "") -> Drawing:
    """The figure at the tolerance with this column suffix.

    Raises:
        NothingToDraw: no trial is done.
    """
    rank = f"average_rank@{suffix}" if suffix else "average_rank"
    data = _points(results, rank)
    if data.empty:
        raise NothingToDraw("no trial with an average rank is done")
    facets = list(dict.fromkeys(data["facet"]))
    columns = min(len(facets), 3)
    rows = -(-len(facets) // columns)
    figure = Figure(figsize=(WIDTH, 0.8 + rows * (RANK_HEIGHT + ACCURACY_HEIGHT)), layout="constrained")
    axes = figure.subplots(
        2 * rows,
        columns,
        squeeze=False,
        sharex=True,
        sharey="row",
        height_ratios=[RANK_HEIGHT, ACCURACY_HEIGHT] * rows,
    )
    for panel in axes.flat[:]:
        panel.set_axis_off()
    for index, facet in enumerate(facets):
        row, column = divmod(index, columns)
        upper, lower = axes[2 * row, column], axes[2 * row + 1, column]
        _draw_rank(upper, data[data["facet"] == facet], top=data["full_rank"].max(), narrow=columns > 1)
        _draw_accuracy(lower, data[data["facet"] == facet], list(data["batch_size"].unique()))
        upper.set_title(facet)
        if column == 0:
            upper.set_ylabel("average rank")
            lower.set_ylabel("test accuracy")
    figure.align_ylabels()
    return Drawing(_caption(results, data, suffix), figure, data)


def _points(results: Results, rank: str) -> pd.DataFrame:
    done = results.done
    done = done[done[rank].notna()]
    groups = done.groupby(["facet", "weight_decay", "batch_size"], sort=True)
    return groups.agg(
        trials=("seed", "size"),
        rank_mean=(rank, "mean"),
        rank_min=(rank, "min"),
        rank_max=(rank, "max"),
        full_rank=("full_rank", "mean"),
        test_accuracy_mean=("test_accuracy", "mean"),
        test_accuracy_min=("test_accuracy", "min"),
        test_accuracy_max=("test_accuracy", "max"),
        collapsed=("collapsed", "sum"),
    ).reset_index()


def _draw_lines(axes: Axes, data: pd.DataFrame, quantity: str) -> list[tuple[float, float, str, str]]:
    ends = []
    colours = decay_colours(sorted(data["weight_decay"].unique()))
    for _, line in data.groupby("weight_decay"):
        decay = float(line["weight_decay"].iloc[0])
        x, mean = line["batch_size"], line[f"{quantity}_mean"]
        colour = colours[decay]
        axes.plot(x, mean, color=colour, marker="o", markersize=4.5, markeredgecolor="white")
        low, high = line[f"{quantity}_min"], line[f"{quantity}_max"]
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        sunk = line[line["collapsed"] > 0]
        axes.scatter(sunk["batch_size"], sunk[f"{quantity}_mean"], s=70, marker="X", color=colour, zorder=3)
        ends.append((float(x.iloc[-1]), float(mean.iloc[-1]), number(decay), colour))
    return ends


def _draw_rank(axes: Axes, data: pd.DataFrame, top: float, *, narrow: bool) -> None:
    axes.set_axis_on()
    axes.set_ylim(0, 1.1 * top)
    for full in sorted(data["full_rank"].unique()):
        reference_line(axes, full, f"full rank {full:.4g}")
    prefix = "wd " if narrow else "weight decay "
    ends = [(x, y, prefix + text, colour) for x, y, text, colour in _draw_lines(axes, data, "rank")]
    label_ends(axes, ends, RANK_HEIGHT)
    axes.tick_params(labelbottom=False)


def _draw_accuracy(axes: Axes, data: pd.DataFrame, sizes: list[int]) -> None:
    axes.set_axis_on()
    _draw_lines(axes, data, "test_accuracy")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:.0f}")
    accuracy_axis(axes, data["test_accuracy_min"])
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("batch size (log scale)")


def _caption(results: Results, data: pd.DataFrame, suffix: str) -> str:
    text = [
        "Average over the tracked matrices of the numerical rank after the last step, at "
        f"{results.threshold(suffix)}, and test accuracy below it."
    ]
    if data["trials"].max() > 1:
        text.append(f"Lines: mean over up to {data['trials'].max()} seeds; bands: lowest to highest seed.")
    if data["collapsed"].any():
        text.append("A cross marks test accuracy below twice chance: a collapsed network, not a low-rank success.")
    return " ".join([*text, results.left_out()]).strip()
