"""What the drill prints last: a line a stage, a row, and what the profile says, short enough to be read at once."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

import goals
import results
import stages
from gpu_plan import Drill
from stages import Outcome

MOST_ROWS = 60


def summary(drill: Drill, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines; those of the stages come last, for the end of an output is what is always seen."""
    names = {outcome.stage.name for outcome in outcomes}
    if names & {"own rows", "training rows", "rivals"}:
        yield from rows(drill)
    if "profile" in names:
        yield from profiled(drill)
    yield ""
    yield from map(stages.line, outcomes)


def rows(drill: Drill) -> Iterator[str]:
    """Measured rows: what was least possible, what it took, whether it was right; how far ours are from the goals."""
    found = [row for row in results.load(drill.rows) if row["operation"] != "roof"]
    yield ""
    yield f"{'operation':10}{'workload':22}{'provider':34}{'ms':>10}{'floor':>9}{'ratio':>8}  status"
    for row in found[:MOST_ROWS]:
        time = results.time_ms(row)
        shown = "-" if time is None else f"{time:.4g}"
        floor, ratio = row.get("roof_ms") or "-", row.get("ratio") or "-"
        said = f"{row['status']} {row['note'][:30]}".strip() + results.path(row)
        named = f"{row['operation'][:9]:10}{row['workload'][:21]:22}{row['provider'][:33]:34}"
        yield f"{named}{shown:>10}{floor:>9}{ratio:>8}  {said}"
    if len(found) > MOST_ROWS:
        yield f"... and {len(found) - MOST_ROWS} more in {drill.rows.name}"
    yield ""
    yield from goals.lines(found)


def profiled(drill: Drill, most: int = 6) -> Iterator[str]:
    """The costliest kernels of each case."""
    path = drill.folder / "profile.csv"
    if not path.exists():
        return
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    yield ""
    for case in dict.fromkeys(row["case"] for row in found):
        own = [row for row in found if row["case"] == case]
        total = sum(float(row["us"]) for row in own)
        parts = ", ".join(f"{row['kernel'][:24]} {float(row['us']):.0f} ({row['calls']}x)" for row in own[:most])
        yield f"{case}: {total:.0f} us a step: {parts}"
