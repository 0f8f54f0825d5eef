"""The goals of a certified count, and how far rows are from them: what the drill prints of all that it has measured.

Times are the device's, on an H100 or H200. The goal against rivals is a ratio: rows of the same file are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from results import Row, time_ms

MILLISECONDS = {"resnet18-cifar": 0.35, "batch-640x512": 5.0, "square-4096": 3.0}
"""Workload -> most that the certified rank of all its matrices may take."""
COUNTED = (*MILLISECONDS, "square-512", "square-512-flat", "vit-b16")
"""Workloads of which a count is reported. At `square-512` the rank is 308: two counts, one on either side of tau; at
`square-512-flat` it is 512, and the lower count proves that alone."""
STOCK, TRICKS = 100, 5
"""Times slower than we are that `torch.linalg.svdvals` is to be, and the best of all other rivals."""
OURS = ("fastrank.rank_bounds unresolved", "fastrank.rank_bounds")
"""The count alone, in a graph, if it was measured; or with the host's part."""


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each workload that has a row of ours, and one that says what a row is measured against."""
    found = {name: line for name in COUNTED if (line := _line(name, rows))}
    if found:
        yield f"certified rank: ms (goal); svdvals' best driver (goal {STOCK}x), best other rival (goal {TRICKS}x)"
        yield from found.values()


def _line(workload: str, rows: Sequence[Row]) -> str | None:
    right = {r["provider"]: r for r in rows if (r["operation"], r["workload"], r["status"]) == ("rank", workload, "ok")}
    timed = {name: time for name, row in right.items() if (time := time_ms(row)) is not None}
    ours = next((timed[name] for name in OURS if name in timed), None)
    if ours is None:
        return None
    goal = MILLISECONDS.get(workload)
    rivals = {name: time for name, time in timed.items() if not name.startswith("fastrank")}
    stock = {name: time for name, time in rivals.items() if name.startswith("torch.linalg.svdvals")}
    tricks = {name: time for name, time in rivals.items() if name not in stock}
    against = (_best(kind, ours) for kind in (stock, tricks))
    return f"  {workload:18}{ours:9.4g} ({'no goal' if goal is None else f'{goal:g}'}); {', '.join(against)}"


def _best(times: dict[str, float], ours: float) -> str:
    """The fastest, as a multiple of our time."""
    if not times:
        return "none measured"
    name = min(times, key=lambda name: times[name])
    return f"{name} {times[name] / ours:.3g}x"
