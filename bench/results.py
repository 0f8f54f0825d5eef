"""Rows of results: CSV, one file a device, keyed so that a rerun replaces its rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

KEY = ("operation", "workload", "provider", "dtype")
COLUMNS = (
    *KEY,
    "products",  # of our kernels' Grams and sketches: fp64 or integers; empty: none, or the row is older than integers
    "status",  # ok; wrong: refused, its error is above the limit, or as the note says; failed: it raised that note
    "error",
    "limit",
    "wall_ms",  # median of what the user waits, device synchronised; lowest 20th, highest 80th percentile of a visit
    "wall_p20_ms",
    "wall_p80_ms",
    "device_ms",  # the same of the device alone, on CUDA
    "device_p20_ms",
    "device_p80_ms",
    "device_timer",  # graph: CUDA graph replay; events: CUDA events around the call, launch gaps included
    "baseline_ms",  # where overhead is the point: median of the bare call, timed in turn
    "ratio",  # median over rounds of call / baseline
    "ratio_p20",
    "ratio_p80",
    "rounds",
    "bytes",  # what the operation has to move at least, and what a proven answer has to compute (see costs.py)
    "flops",
    "roof",  # which of those that count takes longer, at the measured rates
    "roof_ms",
    "roof_share",  # roof_ms / device_ms, or / wall_ms on a CPU
    "peak_mib",  # memory above that of the inputs
    "note",
    "device",
    "driver",
    "threads",
    "python",
    "torch",
    "triton",
    "cuda",
    "packages",
    "commit",
    "dirty",
    "date",
)
TIMES = COLUMNS[COLUMNS.index("wall_ms") : COLUMNS.index("note")]
"""Columns of a row that was timed, and of no other."""
Row = dict[str, str]


def load(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save(path: Path, new: Iterable[dict[str, object]], all_of: str = "") -> None:
    """Put rows into a file: each replaces the one of its key, the others stay. The file is whole at any time.

    Args:
        path: of the file.
        new: the rows.
        all_of: an operation whose every row is among the new ones: what else the file has of it goes.
    """
    rows = {key(row): row for row in load(path) if not all_of or row["operation"] != all_of}
    for row in new:
        row = {column: _text(row.get(column)) for column in COLUMNS}
        rows[key(row)] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[k] for k in sorted(rows))
    part.replace(path)


def key(row: Row) -> tuple[str, ...]:
    """What a row is of."""
    return tuple(row[column] for column in KEY)


def number(row: Row, column: str) -> float | None:
    """A column as a number; None where it is empty."""
    return float(row[column]) if row.get(column) else None


def time_ms(row: Row) -> float | None:
    """What a row is compared by: the device's time where there is one, else what the user waits."""
    device = number(row, "device_ms")
    return number(row, "wall_ms") if device is None else device


def path(row: Row) -> str:
    """What is added to the name of a row whose products are not FP64. Rows that are older than integers are FP64."""
    return ", by integers" if row.get("products") == "integers" else ""


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
