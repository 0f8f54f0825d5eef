"""Average rank and test accuracy over two settings: filled contours, or a small grid's cells with their numbers."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from fastrank.plotting.figures import WIDTH, columns_of

from ..axes import AXES, said
from ..results import Results
from ..seed_means import seed_means
from .drawing import Drawing, NothingToDraw
from .map_panel import QUANTITIES, Quantity, draw_panel
from .scale import Scale

MAPPED = AXES[:3]
CONTOURS = 4  # contours are drawn if both settings have so many values above 0; fewer show no shape
HEIGHT = 2.6  # inches of a panel


def pairs(results: Results) -> list[tuple[str, str]]:
    """The pairs of settings that there is a map of, (horizontal, vertical); weight decay lies horizontal."""
    varying = [axis for axis in results.varying if axis in MAPPED]
    found = [(a, b) for i, a in enumerate(varying) for b in varying[i + 1 :]]
    return [(b, a) if b == "weight_decay" else (a, b) for a, b in found]


def draw(results: Results, x: str, y: str) -> Drawing:
    """The map over the settings `x` and `y` at the first tolerance, a pair of panels for each value of the others.

    Raises:
        NothingToDraw: no trial is done.
    """
    data = _grid(results, x, y)
    if data["rank_mean"].isna().all():
        raise NothingToDraw("no trial with an average rank is done")
    values = [tuple(sorted(data[axis].unique())) for axis in (x, y)]
    contours = all(sum(value > 0 for value in known) >= CONTOURS for known in values)
    scales = Scale(x, values[0], even=not contours), Scale(y, values[1], even=not contours)
    facets = list(dict.fromkeys(data["facet"]))
    figure, panels = _panels(len(facets))
    inches = (WIDTH - 1.5) / max(columns_of(len(facets)), 2)
    for quantity, rows in zip(QUANTITIES, panels, strict=True):
        levels = _levels(data, quantity)
        for axes, facet in zip([axes for row in rows for axes in row], facets, strict=False):
            draw_panel(axes, data[data["facet"] == facet], scales, quantity, levels, inches)
            axes.set_title(f"{quantity.name}\n{facet}".strip())
        for row in rows:
            _colour_bar(figure, row, quantity, levels)
            for axes in row[1:]:
                axes.set_ylabel("")
    return Drawing(_caption(results, data, x, contours), figure, data)


def _grid(results: Results, x: str, y: str) -> pd.DataFrame:
    """A row for every cell of the grid, with what was measured there; NaN, and `status`, where nothing was."""
    rest = [axis for axis in results.varying if axis not in (x, y)]
    grid = results.table.groupby(list(AXES), sort=True).agg(
        status=("status", lambda known: " or ".join(sorted(set(known))))
    )
    measured = [f"{name}_{how}" for name in ("rank", "test_accuracy") for how in ("mean", "min", "max")]
    columns = ["trials", "full_rank", "collapsed", *measured]
    data = grid.join(seed_means(results).set_index(list(AXES))[columns]).reset_index().sort_values([*rest, x, y])
    data.insert(0, "facet", [said(row, *rest) for row in data.to_dict("records")])
    return data.reset_index(drop=True)


def _panels(facets: int) -> tuple[Figure, tuple[list[list[Axes]], list[list[Axes]]]]:
    """A figure, and its rows of panels of rank and of accuracy: side by side for one facet, else above each other."""
    if facets == 1:
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.5), layout="constrained")
        grid = figure.subplots(1, 2, squeeze=False)
        return figure, ([[grid[0, 0]]], [[grid[0, 1]]])
    columns = columns_of(facets)
    blocks = -(-facets // columns)
    figure = Figure(figsize=(WIDTH, 2 * blocks * HEIGHT), layout="constrained")
    rows = [list(row) for row in figure.subplots(2 * blocks, columns, squeeze=False, sharex=True, sharey=True)]
    for axes in (*rows[-2][facets - (blocks - 1) * columns :], *rows[-1][facets - (blocks - 1) * columns :]):
        axes.set_axis_off()
    for axes in (axes for row in rows for axes in row):
        axes.tick_params(labelbottom=True)
    return figure, (rows[0::2], rows[1::2])


def _levels(data: pd.DataFrame, quantity: Quantity) -> list[float]:
    """Round numbers over the range of all networks that have not collapsed, or of all where none is left."""
    sound = data[(data["collapsed"] == 0) & data[quantity.column].notna()]
    values = (sound if len(sound) else data)[quantity.column]
    low = min(values.min(), values.max() - quantity.least)
    return list(map(float, MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, values.max())))


def _colour_bar(figure: Figure, row: list[Axes], quantity: Quantity, levels: list[float]) -> None:
    mappable = ScalarMappable(Normalize(levels[0], levels[-1]), quantity.colours)
    written = FuncFormatter(lambda value, _: quantity.written(value).removesuffix(".0"))
    bar = figure.colorbar(mappable, ax=row, pad=0.02, aspect=22, ticks=FixedLocator(levels), format=written)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def _caption(results: Results, data: pd.DataFrame, x: str, contours: bool) -> str:
    seeds = data["trials"].max()
    text = [
        f"Average numerical rank at {results.threshold()} after the last step, and test accuracy"
        + (f", means over up to {seeds:.0f} seeds. " if seeds > 1 else ". ")
        + (
            "Dots: the settings that were trained; the contours between them are interpolated on the logarithms."
            if contours
            else "A cell for each setting that was trained."
        )
    ]
    if x == "weight_decay" and data[x].min() == 0:
        text.append("No weight decay has no place on a logarithm, and is set apart.")
    if (data["collapsed"] > 0).any():
        text.append(f"Hatched: test accuracy below {results.chance}, a collapsed network and no low-rank success.")
    missing = data[data["rank_mean"].isna()]
    if len(missing):
        counts = missing["status"].value_counts(sort=False)
        mark = "Crosses" if contours else "Dashes"
        text.append(f"{mark}: no result there ({', '.join(f'{n} {s}' for s, n in counts.items())}).")
    return " ".join([*text, results.left_out()]).strip()
