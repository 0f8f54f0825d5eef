"""What is tracked and how it stands, in a line and as a table for notebooks: the reprs of a tracker.

A repr asks nobody for anything: all it says comes from a `Standing`, and what is not in there is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ..metrics import Status
from .text import printable, sparkline

MOST = 20  # matrices in a table
POINTS = 24  # of a curve in a table


@dataclass(frozen=True)
class Standing:
    """What is known of a history on the host.

    Attributes:
        names: of the matrices, in their order.
        shapes: (rows, cols) of each.
        first, last: the first and the last step that is recorded; None before the first.
        latest: the last row of each matrix, as `RankTracker.latest` returns it; empty before the first.
        model: what the matrices are of: the class of the model. Empty: not said.
        schedule: which steps are recorded, in words: "every 10". Empty: not said.
        owner: what has the history.
        weights: how many of the matrices, the first ones, are weights, of which mean and lowest are said (0: all).
        curves: ranks of a matrix, the oldest first, NaN or None where there is none; no more than are at hand.
    """

    names: Sequence[str]
    shapes: Sequence[tuple[int, int]]
    first: int | None
    last: int | None
    latest: Mapping[str, Mapping[str, Any]]
    model: str = ""
    schedule: str = ""
    owner: str = "RankTracker"
    weights: int = 0
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def full(self, name: str) -> int:
        """The full rank of a matrix."""
        return min(self.shapes[list(self.names).index(name)])


def summary_text(standing: Standing) -> str:
    """What is tracked, since when and how it stands, in one line."""
    return f"{standing.owner}: {_tracked(standing)}{_stands(standing)}"


def summary_html(standing: Standing) -> str:
    """The same for notebooks: that line, and a table of the matrices, those of lowest rank where there are many."""
    rows, known = [], _shares(standing)
    order = [name for name in standing.names if name in standing.latest]
    if len(order) > MOST:  # what is not finite comes first
        order = sorted(order, key=lambda name: known.get(name, -1.0))[:MOST]
    fulls = dict(zip(standing.names, map(min, standing.shapes), strict=True))
    for name in order:
        row, shape = standing.latest[name], standing.shapes[list(standing.names).index(name)]
        cells = [f"{shape[0]} &times; {shape[1]}", escape(rank_of(row)), str(fulls[name])]
        cells += [f"{known[name]:.0%}" if name in known else "", _number(row.get("stable_rank"))]
        if standing.curves:
            curve = [math.nan if rank is None else rank for rank in standing.curves.get(name, ())][-POINTS:]
            cells.append(sparkline(curve, high=fulls[name]))
        columns = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><td style="text-align: left"><code>{escape(name)}</code></td>{columns}</tr>')
    line = f"<p>{escape(summary_text(standing))}</p>"
    if not rows:
        return line
    titles = ["matrix", "rows &times; cols", "rank", "of", "share", "stable rank"]
    titles += ["latest ranks"] if standing.curves else []
    head = "".join(f"<th>{title}</th>" for title in titles)
    hidden = len(standing.latest) - len(rows)
    more = f"<p>{hidden} more of higher rank are left out.</p>" if hidden > 0 else ""
    return f"{line}<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"


def rank_of(row: Mapping[str, Any]) -> str:
    """The rank in a row of a history at the first tolerance, in words: "57", "57 to 59", "not finite" or "absent"."""
    lower, upper = _finite(row.get("rank_lower")), _finite(row.get("rank_upper"))
    if lower is None or upper is None:
        return "absent" if row.get("status") == Status.ABSENT.name else "not finite"
    return f"{lower:.0f}" if lower == upper else f"{lower:.0f} to {upper:.0f}"


def _tracked(standing: Standing) -> str:
    count = len(standing.names)
    tracked = f"{count} {'matrix' if count == 1 else 'matrices'}"
    if standing.model:
        tracked += f" of {standing.model}"
    schedule = f" ({standing.schedule})" if standing.schedule else ""
    if standing.first is None or standing.last is None:
        return f"{tracked}, no step recorded yet{schedule}"
    if standing.first == standing.last:
        return f"{tracked}, step {standing.last:,}{schedule}"
    return f"{tracked}, steps {standing.first:,} to {standing.last:,}{schedule}"


def _stands(standing: Standing) -> str:
    """How it stands at the last step; empty before the first. A mean over some of the matrices is never given."""
    if not standing.latest:
        return ""
    shares, count = _shares(standing), len(standing.latest)
    lost, text = count - len(shares), ""
    pairs = list(zip(standing.names, standing.shapes, strict=True))[: standing.weights or None]
    together = [name for name, shape in pairs if min(shape)]
    known = {name: shares[name] for name in together if name in shares}
    if known:
        lowest = min(known, key=known.__getitem__)
        if len(known) == len(together):
            text += f", mean rank {sum(known.values()) / len(known):.0%} of full"
        text += f", lowest {printable(lowest)} {rank_of(standing.latest[lowest])} of {standing.full(lowest)}"
    proven = sum(row.get("rank_lower") == row.get("rank_upper") for n, row in standing.latest.items() if n in shares)
    text += "; "
    absent = sum(row.get("status") == Status.ABSENT.name for row in standing.latest.values())
    if lost:
        why = [f"{lost - absent} not finite"] * (lost > absent) + [f"{absent} absent"] * (absent > 0)
        text += ", ".join(why) if shares or absent else "none is finite"
    if shares:
        others = " the others" if lost else " all"
        said = f"{others} certified" if proven == len(shares) else f" {proven} of {len(shares)} certified"
        text += f",{said}" if lost else said[1:]
    return text


def _shares(standing: Standing) -> dict[str, float]:
    """The rank of each matrix that has one, as a share of its full rank."""
    found = {}
    for name, shape in zip(standing.names, standing.shapes, strict=True):
        row = standing.latest.get(name, {})
        lower, upper = _finite(row.get("rank_lower")), _finite(row.get("rank_upper"))
        if lower is not None and upper is not None:
            found[name] = (lower + upper) / 2 / max(min(shape), 1)
    return found


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _number(value: Any) -> str:
    known = _finite(value)
    return "" if known is None else f"{known:.1f}"
