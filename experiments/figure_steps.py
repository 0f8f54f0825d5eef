"""Average rank over the course of training, every trial: a panel a weight decay, a line a batch size."""

import pandas as pd
from fastrank.experiments.drawing import Drawing, NothingToDraw
from fastrank.experiments.results import Results
from fastrank.experiments.style import batch_colours, label_ends, number, panel_grid, reference_line
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

HEIGHT = 2.5  # inches


def draw(results: Results, suffix: str = "") -> Drawing:
    """The figure at the tolerance with this column suffix.

    Raises:
        NothingToDraw: no done trial has a readable history.
    """
    trials = results.done[results.done.index.isin(list(results.digests))]
    if trials.empty:
        raise NothingToDraw("no done trial has a readable history")
    data = _curves(results, trials, suffix)
    groups = list(trials.groupby(["facet", "weight_decay"], sort=True))
    figure, panels = panel_grid(len(groups), 3, HEIGHT)
    colours = batch_colours(sorted(trials["batch_size"].unique()))
    for axes, (_, members) in zip(panels, groups, strict=True):
        facet, decay = members[["facet", "weight_decay"]].iloc[0]
        axes.set_title(f"{facet}\nweight decay {number(decay)}".strip())
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlim(0, trials["epochs"].max())
        axes.set_ylim(0, 1.1 * trials["full_rank"].max())
        _draw_panel(axes, data[data["trial"].isin(members.index)], members, colours)
    figure.supxlabel("epoch", fontsize="medium")
    figure.supylabel("average rank", fontsize="medium")
    return Drawing(_caption(results, trials, suffix), figure, data)


def _curves(results: Results, trials: pd.DataFrame, suffix: str) -> pd.DataFrame:
    parts = []
    for name, trial in trials.iterrows():
        curve = results.digests[str(name)].curves[suffix].copy()
        curve.insert(2, "epoch", curve["step_last"] / (trial["steps"] / trial["epochs"]))
        for key in ("seed", "weight_decay", "batch_size", "facet"):
            curve.insert(0, key, trial[key])
        curve.insert(0, "trial", str(name))
        parts.append(curve)
    return pd.concat(parts, ignore_index=True)


def _draw_panel(axes: Axes, data: pd.DataFrame, members: pd.DataFrame, colours: dict[int, str]) -> None:
    for full in sorted(members["full_rank"].unique()):
        reference_line(axes, full, f"full rank {full:.4g}")
    for name, curve in data.groupby("trial", sort=False):
        colour = colours[int(curve["batch_size"].iloc[0])]
        dashes = (0, (1, 1)) if members["collapsed"][name] else "solid"
        axes.fill_between(curve["epoch"], curve["low"], curve["high"], color=colour, alpha=0.25, linewidth=0)
        axes.plot(curve["epoch"], curve["mean"], color=colour, linewidth=1.3, linestyle=dashes)
    ends = []
    for _, curves in data.groupby("batch_size"):
        size = int(curves["batch_size"].iloc[0])
        last = curves.dropna(subset="mean").groupby("trial").last()
        if len(last):
            ends.append((last["epoch"].max(), last["mean"].mean(), f"B = {size}", colours[size]))
    label_ends(axes, ends, HEIGHT - 0.6)


def _caption(results: Results, trials: pd.DataFrame, suffix: str) -> str:
    text = [
        f"Average numerical rank at {results.threshold(suffix)} at every recorded step, "
        "against epochs, so that trials of different batch sizes (B) end at the same place although they take "
        "different numbers of steps. Lines: mean over short runs of steps; shade: lowest to highest step of each."
    ]
    if trials.duplicated(["facet", "weight_decay", "batch_size"]).any():
        text.append("One line a seed.")
    if trials["collapsed"].any():
        text.append("Dotted: test accuracy below twice chance at the end (collapsed).")
    nonfinite = sum(results.digests[name].nonfinite for name in trials.index)
    if nonfinite:
        text.append(f"Steps with a matrix that was not finite are left out ({nonfinite:,} rows).")
    missing = len(results.done) - len(trials)
    if missing:
        text.append(f"{missing} done trial(s) without a readable history are not shown.")
    return " ".join([*text, results.left_out()]).strip()
