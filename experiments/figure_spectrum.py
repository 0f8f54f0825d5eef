"""Singular values of every tracked matrix of one trial, first against last step, with the tolerance's threshold."""

from itertools import cycle

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from fastrank.experiments.digest import ranks
from fastrank.experiments.drawing import Drawing, NothingToDraw
from fastrank.experiments.results import Results
from fastrank.experiments.style import INK, NEUTRAL, SMALL, panel_grid
from matplotlib.axes import Axes

import fastrank

HEIGHT = 2.0  # inches
FLOOR = 1e-8  # of sigma / ||W||_F: what lies below is rounding of single precision, or 0, and is drawn here
DASHES = ((0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
OF = {"frobenius": r" $\|W\|_F$", "spectral": r" $\sigma_1$", "absolute": ""}
STAGES = {"first": NEUTRAL, "last": "#1b5e8c"}


def draw(results: Results, trial: str, history: pa.Table) -> Drawing:
    """The figure for the trial with this id and its `history`.

    Raises:
        NothingToDraw: the history has no singular values.
    """
    if "singular_values" not in history.column_names or history["singular_values"].null_count == len(history):
        raise NothingToDraw(f"no singular values were recorded for trial {trial}")
    data = _spectra(history)
    layers = list(dict.fromkeys(data["name"]))
    columns, letters = (3, 26) if len(layers) <= 6 else (4, 19)
    figure, panels = panel_grid(len(layers), columns, HEIGHT)
    bottom = max(data["share"].min(), FLOOR)
    for axes, name in zip(panels, layers, strict=True):
        layer = data[data["name"] == name]
        axes.set_title(_short(name, letters))
        axes.set_yscale("log")
        axes.set_ylim(bottom / 2, 2)
        axes.set_xlim(0, data["index"].max() + 1)
        _draw_stages(axes, layer)
        _draw_thresholds(axes, layer, results.tolerances)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    figure.supxlabel("index i of the singular value", fontsize="medium")
    figure.supylabel(r"$\sigma_i\,/\,\|W\|_F$ (log scale)", fontsize="medium")
    return Drawing(_caption(results, trial), figure, data)


def _spectra(history: pa.Table) -> pd.DataFrame:
    """A row a singular value, at each matrix's first and last step that has singular values."""
    history = history.append_column("rank", pa.array(ranks(history)))
    columns = ["name", "step", "rows", "cols", "rank", "frobenius_norm", "singular_values"]
    rows: pd.DataFrame = history.select(columns).filter(pc.is_valid(history["singular_values"])).to_pandas()
    rows["name"] = rows["name"].astype(str)
    by_name = rows.groupby("name", sort=False)
    ends = pd.concat([by_name.head(1).assign(stage="first"), by_name.tail(1).assign(stage="last")])
    data = ends.explode("singular_values", ignore_index=True).rename(columns={"singular_values": "sigma"})
    data["sigma"] = data["sigma"].astype(float)
    data["index"] = data.groupby(["name", "stage"]).cumcount() + 1
    data["share"] = data["sigma"] / data["frobenius_norm"]
    return data[["name", "rows", "cols", "stage", "step", "rank", "frobenius_norm", "index", "sigma", "share"]]


def _draw_stages(axes: Axes, layer: pd.DataFrame) -> None:
    for stage, colour in STAGES.items():
        curve = layer[layer["stage"] == stage]
        label = f"step {curve['step'].iloc[0]:,}"
        axes.plot(curve["index"], curve["share"].clip(lower=FLOOR), color=colour, linewidth=1.6, label=label)
    first, last = (layer.loc[layer["stage"] == stage, "rank"].iloc[0] for stage in STAGES)
    axes.annotate(
        rf"{layer['rows'].iloc[0]} $\times$ {layer['cols'].iloc[0]}, rank {first:.4g} → {last:.4g}",
        (1, 1),
        xycoords="axes fraction",
        xytext=(-2, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        color=INK,
        fontsize=SMALL,
    )


def _draw_thresholds(axes: Axes, layer: pd.DataFrame, tolerances: list[fastrank.Tolerance]) -> None:
    """tau / ||W||_F of every tolerance, for W at its last step."""
    last = layer[layer["stage"] == "last"].iloc[0]
    for tolerance, dashes in zip(tolerances, cycle(DASHES)):
        unit = {"frobenius": last["frobenius_norm"], "spectral": last["sigma"], "absolute": 1.0}
        tau = tolerance.value * unit[tolerance.relative_to] / last["frobenius_norm"]
        axes.axhline(
            tau, color=INK, linewidth=1, linestyle=dashes, label=f"τ = {tolerance.value:g}{OF[tolerance.relative_to]}"
        )


def _short(name: str, letters: int) -> str:
    """As much of the end of a matrix's name as a panel is wide."""
    name = name.removesuffix(".weight")
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def _caption(results: Results, trial: str) -> str:
    return (
        f"{results.describe(trial)}: singular values of every tracked matrix, "
        "divided by its Frobenius norm, at the first and the last step at which they were recorded. Dashed: the "
        "threshold tau at the last step; the numerical rank counts what lies above. Values below "
        f"{FLOOR:g}, which are rounding, are drawn there."
    )
