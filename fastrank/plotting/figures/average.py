"""Average rank over the steps of training, with the matrix that ends lowest and the one that ends highest."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, PercentFormatter, StrMethodFormatter

from .digest import Digest
from .heat_map import shares
from .style import INK, NEUTRAL, label_ends, short

HEIGHT = 2.4  # inches
RANK, LOWEST = "#1b5e8c", "#d1590c"
LETTERS = 24  # of a matrix's name


def average_values(known: Digest) -> pd.DataFrame:
    """A row for each run of steps: `step_first, step_last`, and `lowest, mean, highest` over the matrices of the rank
    as a share of full rank. The mean is NaN where a matrix was never finite: over the others it would be another
    quantity."""
    values = shares(known)
    return pd.DataFrame(
        {
            "step_first": known.matrix_steps[:, 0],
            "step_last": known.matrix_steps[:, 1],
            "lowest": np.fmin.reduce(values, axis=0),
            "mean": values.mean(axis=0),
            "highest": np.fmax.reduce(values, axis=0),
        }
    )


def draw_average(axes: Axes, known: Digest, height: float, *, start: float = 0.0) -> None:
    """Draw mean, lowest and highest share of full rank into a panel, against steps.

    Args:
        axes: an empty panel.
        known: the history, at its first tolerance.
        height: inches that the panel has.
        start: the step at which the axis begins.
    """
    data, values, names = average_values(known), shares(known), list(known.matrices["name"])
    steps = data["step_last"].to_numpy()
    axes.set_xlim(start, steps[-1])
    axes.set_ylim(0, 1.06)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("step")
    axes.set_ylabel("rank, share of full")
    axes.fill_between(steps, data["lowest"], data["highest"], color=RANK, alpha=0.12, linewidth=0)
    ends = []
    lines = [("average", data["mean"].to_numpy(), RANK, 1.8)]
    last = np.where(np.isfinite(values).any(axis=0))[0]
    if len(names) > 1 and len(last):
        final = values[:, last[-1]]
        colours = {int(np.nanargmax(final)): NEUTRAL} | {int(np.nanargmin(final)): LOWEST}  # one where all are equal
        lines += [(short(names[matrix], LETTERS), values[matrix], colour, 1.2) for matrix, colour in colours.items()]
    for name, curve, colour, width in lines:
        finite = np.isfinite(curve)
        alone = "o" if finite.sum() == 1 else None  # a line of one point cannot be seen
        axes.plot(steps, curve, color=colour, linewidth=width, marker=alone, markersize=4, clip_on=alone is None)
        if finite.any():
            at = np.flatnonzero(finite)[-1]
            ends.append((float(steps[at]), float(curve[at]), f"{name} {curve[at]:.0%}", colour))
    if not ends:
        axes.text(0.5, 0.5, "no matrix was ever finite", transform=axes.transAxes, ha="center", color=INK)
    label_ends(axes, ends, height - 0.6)
