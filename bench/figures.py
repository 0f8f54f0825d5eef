"""Figures of the committed results: `python bench/figures.py [FILE.csv ...]` draws each beside its file, as PNG.

<device>-speed.png      time of a rank against the size of the matrix, with the roof
<device>-tradeoff.png   error against time
<device>-overhead.png   training steps with the ranks, as a multiple of those without
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from results import Row, number, time_ms

RESULTS = Path(__file__).parent / "results"
OURS, RIVAL, INK, MUTED = "#d1495b", "#8d99ae", "#1f2430", "#5b6478"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RIVAL,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#e5e7eb",
    "savefig.bbox": "tight",
    "savefig.dpi": 160,
}


def is_ours(row: Row) -> bool:
    return row["provider"].startswith("fastrank")


def speed(rows: Sequence[Row]) -> Figure | None:
    """Rank of one square matrix: a line a provider, what the operation must take at least below."""
    squares = [
        row
        for row in rows
        if row["operation"] == "rank"
        and row["workload"].removeprefix("square-").isdigit()
        and not row["provider"].endswith("unresolved")
    ]
    points: dict[str, list[tuple[int, float]]] = {}
    roof: dict[int, float] = {}
    for row in squares:
        size, time = int(row["workload"].removeprefix("square-")), time_ms(row)
        if time is not None:
            points.setdefault(row["provider"], []).append((size, time))
            floor = number(row, "roof_ms")
            if floor is not None:
                roof[size] = max(roof.get(size, 0.0), floor)  # of a proof; who proves nothing has its bytes only
    if not points:
        return None
    figure = Figure(figsize=(7, 4.2))
    axes = figure.subplots()
    for provider, line in sorted(points.items(), key=lambda item: item[0].startswith("fastrank")):
        xs, ys = zip(*sorted(line), strict=True)
        ours = provider.startswith("fastrank")
        axes.plot(xs, ys, "o-", color=OURS if ours else RIVAL, lw=2 if ours else 1.2, ms=4 if ours else 3)
    sizes = sorted({size for line in points.values() for size, _ in line})
    axes.plot(sorted(roof), [roof[s] for s in sorted(roof)], "--", color=INK, lw=1)
    axes.set(xscale="log", yscale="log", xlabel="size r of an r x r matrix", ylabel=f"milliseconds, {clock(squares)}")
    axes.set_xticks(sizes, map(str, sizes))
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.set_title("Numerical rank of one matrix")
    ends = [(max(line)[1], provider) for provider, line in points.items() if max(line)[0] == sizes[-1]]
    floors = [(roof[sizes[-1]], "roof")] if sizes[-1] in roof else []
    label_ends(axes, [*ends, *floors], sizes[-1])
    return figure


def label_ends(axes: Axes, ends: list[tuple[float, str]], x: float) -> None:
    """Names at the right ends of lines on a logarithmic axis, pushed apart where they would meet."""
    low, high = (math.log(v) for v in axes.get_ylim())
    ends.sort()
    places = [(math.log(y) - low) / (high - low) for y, _ in ends]
    gap = 1 / 18
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places[-1] = min(places[-1], 1.0)
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1] - gap)
    for (y, name), place in zip(ends, places, strict=True):
        colour = OURS if name.startswith("fastrank") else MUTED
        line = {"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkB": 3}
        axes.annotate(
            name,
            (x, y),
            (1.04, place),
            textcoords="axes fraction",
            color=colour,
            fontsize=8,
            va="center",
            arrowprops=line | {"relpos": (0, 0.5)},
        )


def tradeoff(rows: Sequence[Row]) -> Figure | None:
    """Error against time: one panel an operation, on the largest workload that most providers were timed on."""
    panels = [(title, chosen) for title, name in PANELS if (chosen := widest(rows, name))]
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    for axes, (title, chosen) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        last, lines = 0.0, 0
        for row in sorted(chosen, key=lambda row: number(row, "error") or 0):
            time, error = time_ms(row), number(row, "error")
            assert time is not None
            assert error is not None
            y = max(error, 1e-16)
            lines = lines + 1 if y < 4 * last else 0  # names of points at one height stand above each other
            last = y
            colour = OURS if is_ours(row) else MUTED
            axes.plot(time, y, "o", color=colour, ms=5)
            axes.annotate(
                row["provider"],
                (time, y),
                (6, 3 + 9 * lines),
                textcoords="offset points",
                fontsize=7,
                color=colour,
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4} if lines else None,
            )
        axes.set(xscale="log", yscale="log", xlabel=f"milliseconds, {clock(chosen)}", ylabel=f"error, {title[1]}")
        axes.set_title(f"{title[0]}: {chosen[0]['workload']}")
        axes.margins(x=0.45, y=0.2)
        axes.minorticks_off()
        if math.log10(axes.get_xlim()[1] / axes.get_xlim()[0]) < 2:  # too few powers of ten to read a time from
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(axis="both")
    return figure


PANELS = (
    (("Singular values", "relative to sigma_1"), "spectrum"),
    (("Spectral norm", "relative"), "norm"),
    (("First 16 triplets", "residual above the best"), "lowrank"),
)


def widest(rows: Sequence[Row], operation: str) -> list[Row]:
    """The timed rows of the workload of an operation that most providers were timed on, the costliest of those."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["operation"] == operation and time_ms(row) is not None:
            found.setdefault(row["workload"], []).append(row)
    return max(found.values(), key=lambda some: (len(some), number(some[0], "flops") or 0), default=[])


def overhead(rows: Sequence[Row]) -> Figure | None:
    """Whole training steps in which every rank is measured, as a multiple of bare ones."""
    found = [r for r in rows if r["operation"] == "training" and r["ratio"]]
    if not found:
        return None
    workloads = sorted({row["workload"] for row in found})
    figure = Figure(figsize=(7, 0.35 * len(found) + 0.6 * len(workloads)), layout="constrained")
    for axes, workload in zip(
        figure.subplots(len(workloads), 1, sharex=True, squeeze=False)[:, 0], workloads, strict=True
    ):
        some = sorted((r for r in found if r["workload"] == workload), key=lambda r: -(number(r, "ratio") or 0))
        for i, row in enumerate(some):
            ratio, low, high = (number(row, c) or 0.0 for c in ("ratio", "ratio_p20", "ratio_p80"))
            axes.barh(i, ratio, color=OURS if is_ours(row) else RIVAL, height=0.65)
            axes.plot([low, high], [i, i], color=INK, lw=1)
            axes.annotate(f"{ratio:.2f}", (max(ratio, high), i), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(some)), [row["provider"] for row in some])
        axes.axvline(1, color=INK, lw=0.8)
        axes.set_title(workload)
    axes.set_xlabel("time of a training step, as a multiple of an untracked one (line: 20th to 80th percentile)")
    return figure


def clock(rows: Sequence[Row]) -> str:
    return "device time" if any(row["device_ms"] for row in rows) else "wall time"


FIGURES = {"speed": speed, "tradeoff": tradeoff, "overhead": overhead}


def draw(path: Path) -> list[Path]:
    """Draw the figures that a file of results has rows for."""
    rows = results.load(path)
    drawn = []
    with mpl.rc_context(STYLE):
        for name, make in FIGURES.items():
            figure = make(rows)
            if figure is not None:
                figure.text(0, -0.03, f"{rows[0]['device']}, torch {rows[0]['torch']}", fontsize=7, color=MUTED)
                drawn.append(path.with_name(f"{path.stem}-{name}.png"))
                figure.savefig(drawn[-1])
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="results (default: all in bench/results)")
    for path in parser.parse_args().files or sorted(RESULTS.glob("*.csv")):
        for figure in draw(path):
            print(figure.name)


if __name__ == "__main__":
    main()
