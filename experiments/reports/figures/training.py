"""Rank and accuracy over the course of training, both as shares of the most they can be, for a few trials of a grid."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from ..results import Results
from .corners import Corner, choice, corner_panels, corners, settings_columns
from .drawing import Drawing, NothingToDraw

HEIGHT = 1.8  # inches
RANK, TEST = "#1b5e8c", "#d1590c"


def draw(results: Results) -> Drawing:
    """The figure, at the first tolerance.

    Raises:
        NothingToDraw: no trial of those that would be shown has test accuracies of its epochs.
    """
    found, columns = corners(results)
    drawn = {corner.trial: _curves(results, corner) for corner in found if corner.trial}
    if not any(data["test_accuracy"].notna().any() for data in drawn.values()):
        raise NothingToDraw("no trial has recorded its test accuracy after each epoch")
    figure, panels = corner_panels(results, found, columns, HEIGHT)
    for axes, corner in zip(panels, found, strict=True):
        axes.set_ylim(0, 1.06)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.set_xlim(0, 1.02 * results.table["epochs"].max())
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if corner.trial:
            _draw_panel(axes, drawn[corner.trial], results.result(corner.trial).get("train_accuracy"))
    named = next(axes for axes, corner in zip(panels, found, strict=True) if corner.trial)
    figure.legend(*named.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    figure.supxlabel("epoch", fontsize="medium")
    data = pd.concat([settings_columns(results, c, drawn[c.trial]) for c in found if c.trial], ignore_index=True)
    return Drawing(_caption(results, found), figure, data)


def _curves(results: Results, corner: Corner) -> pd.DataFrame:
    """A row with the rank for each run of steps, and one with the test accuracy for each epoch."""
    trial = str(corner.trial)
    row, result = results.table.loc[trial], results.result(trial)
    curve = results.digests[trial].curves[""]
    rank = pd.DataFrame(
        {
            "epoch": curve["step_last"] * row["epochs"] / row["steps"],
            **{f"rank_share_{how}": curve[how] / row["full_rank"] for how in ("low", "mean", "high")},
        }
    )
    accuracies = np.array(result.get("test_accuracies") or [np.nan], dtype=float)
    accuracy = pd.DataFrame({"epoch": np.arange(1.0, len(accuracies) + 1), "test_accuracy": accuracies})
    return pd.concat([rank, accuracy], ignore_index=True)


def _draw_panel(axes: Axes, data: pd.DataFrame, train_accuracy: float | None) -> None:
    rank, accuracy = data.dropna(subset="rank_share_mean"), data.dropna(subset="test_accuracy")
    axes.fill_between(
        rank["epoch"], rank["rank_share_low"], rank["rank_share_high"], color=RANK, alpha=0.25, linewidth=0
    )
    axes.plot(rank["epoch"], rank["rank_share_mean"], color=RANK, linewidth=1.5, label="average rank, share of full")
    axes.plot(
        accuracy["epoch"],
        accuracy["test_accuracy"],
        color=TEST,
        linewidth=1.2,
        linestyle="dashed",
        label="test accuracy",
    )
    if train_accuracy is not None:
        axes.plot(
            data["epoch"].max(),
            train_accuracy,
            color=TEST,
            marker="o",
            markersize=5,
            markerfacecolor="white",
            linestyle="none",
            label="train accuracy at the end",
            clip_on=False,
        )


def _caption(results: Results, found: list[Corner]) -> str:
    text = [
        f"Average numerical rank at {results.threshold()}, as a share of full rank; test accuracy after each epoch.",
        choice(results, found),
    ]
    return " ".join(text)
