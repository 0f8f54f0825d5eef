"""``fastrank factorize``: prints what `fastrank.factorize` has made of a checkpoint, as a table, as JSON or as CSV."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

import fastrank
from fastrank.plotting import printable

from .analyze import Format, rows_of
from .errors import UsageError
from .files import csv_text
from .sweeps import kind, titled
from .terminal import not_looked_at, print_found

__all__ = ["print_factors"]


def print_factors(
    checkpoint: Path,
    tolerance: float | None,
    relative_to: str,
    error: float | None,
    out: Path | None,
    key: str | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    device: str,
    form: Format = "table",
) -> None:
    """Factor the matrices of a checkpoint, write the file ``out`` where one is given, and print what came of each.

    JSON and CSV stand alone on the standard output, for another program; notes then go to the standard error. JSON
    holds them as well. Raises UsageError unless one of ``tolerance`` and ``error`` is given, and in its range.
    """
    if (tolerance is None) == (error is None):
        raise UsageError("--tolerance, --error: give one of them, which says how far the factors may be off")
    if error is not None and not 0 < error <= 1:
        raise UsageError(f"--error {error:g}: expected a share of the norm, above 0 and at most 1")
    try:
        asked = None if tolerance is None else fastrank.Tolerance(tolerance, relative_to)  # type: ignore[arg-type]
    except ValueError as wrong:
        raise UsageError(f"--tolerance, --relative-to: {wrong}") from wrong
    found = fastrank.factorize(
        checkpoint,
        out,
        tolerance=asked,
        error=error,
        key=key,
        include=include,
        exclude=exclude,
        device=kind(device),
    )
    rows = rows_of(found)

    def text() -> str:
        return csv_text(list(found.columns), rows) if form == "csv" else _json_text(found, rows)

    print_found(form, lambda: [_table(rows, found.attrs)], _notes(found.attrs, out), text)


def _notes(attrs: Mapping[Any, Any], out: Path | None) -> list[str]:
    notes = [f"kept: {text}" for text in attrs["kept"]]
    notes += [f"left out: {text}" for text in attrs["left_out"]]
    notes += not_looked_at(attrs)
    return [*notes, "nothing is written: --out FILE writes the factors" if out is None else f"written: {out}"]


def _json_text(found: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> str:
    content = {
        "parameters": found.attrs["parameters"],
        "stored": found.attrs["stored"],
        "matrices": rows,
        "kept": found.attrs["kept"],
        "left_out": found.attrs["left_out"],
        "not_looked_at": [{"key": name, "holds": held} for name, held in found.attrs["not_looked_at"].items()],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], attrs: Mapping[Any, Any]) -> Table:
    """The matrices as a table for the terminal; the last column says why one is kept as it is."""
    factored = sum(not row["kept"] for row in rows)
    many = "matrix" if len(rows) == 1 else "matrices"
    before, after = attrs["parameters"], attrs["stored"]
    share = f" ({after / before:.1%})" if before else ""
    title = f"{factored} of {len(rows)} {many} as factors; parameters: {before:,} before, {after:,} after{share}"
    table = titled(title, min_width=len(title), padding=(0, 1, 0, 0))  # a title is wrapped to its table
    table.add_column("matrix", overflow="fold")
    for head in ("rows x cols", "rank", "of", "proven error\nof the norm", "parameters", "stored"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("kept because", overflow="fold")
    for row in rows:
        table.add_row(
            escape(printable(row["name"])),
            f"{row['rows']} x {row['cols']}",
            "-" if row["k"] is None else str(row["k"]),
            str(min(row["rows"], row["cols"])),
            "-" if row["kept"] else _rounded_up(row["relative_error"]),
            f"{row['parameters']:,}",
            f"{row['stored']:,}",
            row["kept"],
        )
    return table


def _rounded_up(bound: float) -> str:
    """A bound in three digits, of which the last is rounded upwards: less would not be proven."""
    text = f"{bound:.2e}"
    if float(text) >= bound:
        return text
    digits, _, exponent = text.partition("e")
    return f"{(round(float(digits) * 100) + 1) / 100:.2f}e{exponent}"
