"""Where a training step's time goes, from committed rows: what ranks add to it, and kernels of a profiled device."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import tables  # noqa: E402

STEP, RANKS, RIVAL = "#30638e", "#d1495b", "#b9c0cf"
OURS = tables.PROVIDERS[:1]
CASES = {"decided": "ranks decided by sketches", "counted": "ranks counted"}
KERNELS = {"sgd": "step and sketch", "gram": "Grams", "ldl": "counts", "other": "the rest"}
SHADES = {"sgd": STEP, "gram": "#e8a598", "ldl": RANKS, "other": RIVAL}


def draw() -> Figure:
    """A bar a network and way of ranking, of GPUs and the first CPU; then a bar a case of a profile."""
    measured = [rows for _, rows in tables.measured(tables.RESULTS)]
    shown = [rows for rows in measured if rows[0]["cuda"]] + [rows for rows in measured if not rows[0]["cuda"]][:1]
    panels = [("steps", rows[0]["device"], found) for rows in shown if (found := bars(rows))]
    for path in sorted(tables.RESULTS.glob("*/profile.csv")):
        panels.append(("kernels", path.parent.name, profile(path)))
    sizes = [len(found) + 2 for _, _, found in panels]
    figure = Figure(figsize=(7, 0.6 * len(panels) + 0.27 * sum(sizes)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
    for axes, (kind, device, found) in zip(all_axes, panels, strict=True):
        (steps if kind == "steps" else kernels)(axes, device, found)
        axes.set_ylim(-0.6, len(found) + 0.6)
        axes.margins(x=0.1)
        axes.set_xlim(right=1.14 * axes.dataLim.x1)
        axes.grid(visible=False)
        axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=4, borderaxespad=0, columnspacing=1)
    return figure


def bars(rows: list[dict[str, str]]) -> list[tuple[str, float, bool]]:
    """Network and provider, time of a step over that of one without ranks, whether it is ours."""
    return [
        (f"{row['workload']}: {row['provider'].removesuffix(' hook')}", float(row["ratio"]), row["provider"] in OURS)
        for row in sorted(rows, key=lambda row: (row["workload"], row["provider"]), reverse=True)
        if row["operation"] == "training" and row["ratio"] and row["provider"] in (*OURS, tables.PROVIDERS[2])
    ]


def steps(axes: Axes, device: str, found: list[tuple[str, float, bool]]) -> None:
    said = {True: "ranks by fastrank", False: "ranks by SVD"}
    for i, (_, ratio, ours) in enumerate(found):
        label = said.pop(ours, None)
        axes.barh(i, 1, color=STEP, height=0.7, label="step without ranks" if i == 0 else None)
        axes.barh(i, ratio - 1, left=1, color=RANKS if ours else RIVAL, height=0.7, label=label)
        axes.annotate(f"{ratio:.2f}", (ratio, i), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [name for name, *_ in found], fontsize=8)
    axes.set_title(device)
    axes.set_xlabel("time of a training step, over that of one without ranks")


def profile(path: Path) -> list[tuple[str, dict[str, float]]]:
    """Microseconds of a step by what its kernels are for, for each of `CASES`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (said, {kind: sum(float(r["us"]) for r in rows if r["case"] == case and group(r["kernel"]) == kind)
                for kind in KERNELS})
        for case, said in reversed(CASES.items())
        if any(row["case"] == case for row in rows)
    ]  # fmt: skip


def group(kernel: str) -> str:
    return next((kind for kind in ("sgd", "gram", "ldl") if kernel.startswith(f"{kind}_")), "other")


def kernels(axes: Axes, device: str, found: list[tuple[str, dict[str, float]]]) -> None:
    for i, (_, times) in enumerate(found):
        left = 0.0
        for kind, time in times.items():
            axes.barh(i, time, left=left, color=SHADES[kind], height=0.7, label=KERNELS[kind] if i == 0 else None)
            left += time
        axes.annotate(f"{left:.0f} us", (left, i), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [said for said, _ in found], fontsize=8)
    axes.set_title(f"{device}, ResNet-18")
    axes.set_xlabel("microseconds of the device, of an optimizer step with ranks")
