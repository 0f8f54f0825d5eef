"""``fastrank analyze``: prints what `fastrank.analyze` finds in a checkpoint, as a table, as JSON or as CSV."""

import json
import math
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.markup import escape
from rich.table import Table

import fastrank
from fastrank.plotting import printable

from .against import AGAINST, joined
from .errors import UsageError
from .files import csv_text, write_csv
from .sweeps import kind, number, titled
from .terminal import not_looked_at, print_found, progress_bar

__all__ = ["Format", "Request", "parse_split", "print_analysis"]

Format = Literal["table", "json", "csv"]
Split = tuple[int | Sequence[str] | Sequence[int], int]
"""Parts and axis, as `fastrank.analyze` takes them for its argument ``split``."""


@dataclass(frozen=True)
class Request:
    """What to analyse, and how: the arguments of `fastrank.analyze`, as the command line has them."""

    threshold: tuple[float, str] = (1e-3, "frobenius")
    key: str | None = None
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    split: Sequence[str] = ()
    energy: Sequence[float] = ()
    device: str = "cpu"
    spectrum: bool = True
    jobs: int | None = None
    keep: Path | None = None
    figure: Path | None = None

    @property
    def tolerance(self) -> fastrank.Tolerance:
        try:
            return fastrank.Tolerance(*self.threshold)  # type: ignore[arg-type]  # what it cannot be is refused here
        except ValueError as error:
            raise fastrank.AnalyzeError(str(error)) from error


def print_analysis(
    checkpoint: Path,
    asked: Request = Request(),
    out: Path | None = None,
    form: Format = "table",
    against: Path | None = None,
) -> None:
    """Print the matrices of a checkpoint, and write their rows to the CSV file ``out`` where one is given; with
    ``against``, those that another checkpoint has too, beside what is measured there.

    What is left out is printed below the table, and before it a summary of the types of layers. JSON and CSV stand
    alone on the standard output, for another program, and what is left out then goes to the standard error; JSON holds
    it as well. On a terminal a bar shows how far the analysis has come, on the standard error.

    Rows that were kept are removed when everything has been printed and written.
    """
    energy = asked.energy
    if not all(0 < share <= 1 for share in energy) or len(set(energy)) < len(energy):
        raise UsageError(f"--energy {' '.join(map(str, energy))}: expected shares above 0 and at most 1, each once")
    if against is not None and asked.figure is not None:
        raise UsageError("--against, --figure: a figure is of one checkpoint; draw each by itself")
    found = _analysed(checkpoint, asked)
    kept = [found.attrs["kept"]]
    if against is not None:
        other = _analysed(against, asked)
        kept.append(other.attrs["kept"])
        found = joined(found, other, checkpoint, against)
        if found.empty:
            raise fastrank.AnalyzeError(f"{against}: has no matrix of a name and shape that {checkpoint} has")
    rows = rows_of(found)
    try:
        _print(found, rows, asked, form)
    finally:  # also where nobody has read to the end of what is printed
        if out is not None:
            write_csv(out, list(found.columns), rows)
    for path in kept:
        if path is not None:
            Path(path).unlink(missing_ok=True)


def _analysed(checkpoint: Path, asked: Request) -> pd.DataFrame:
    """What `fastrank.analyze` finds. An interruption says how to go on."""
    try:
        with progress_bar("analyze") as progress:
            return fastrank.analyze(
                checkpoint,
                tolerance=asked.tolerance,
                key=asked.key,
                include=asked.include,
                exclude=asked.exclude,
                split=dict(map(parse_split, asked.split)),
                energy=asked.energy,
                device=kind(asked.device),
                spectrum=asked.spectrum,
                jobs=asked.jobs,
                keep=asked.keep,
                figure=asked.figure,
                progress=progress,
            )
    except KeyboardInterrupt:
        if asked.keep is not None:
            print("interrupted: the same command goes on from here", file=sys.stderr, flush=True)
        if any(thread.name == "fastrank-job" for thread in threading.enumerate()):
            os._exit(130)  # at the second Ctrl-C: Python cannot end well while others are in C++
        raise


def _print(found: pd.DataFrame, rows: list[dict[str, Any]], asked: Request, form: Format) -> None:
    notes = [f"left out: {text}" for text in found.attrs["left_out"]]
    notes += [f"scaled: {text}" for text in found.attrs["scaled"]]
    notes += [*not_looked_at(found.attrs), *found.attrs["notes"]]
    types = found.attrs["layer_types"], found.attrs.get("layer_types_against", ())

    def tables() -> list[Table]:
        return [table(rows, asked.tolerance, asked.energy), types_table(*types)]

    def text() -> str:
        return csv_text(list(found.columns), rows) if form == "csv" else json_text(found, rows, asked.tolerance)

    print_found(form, tables, notes, text)


def rows_of(found: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain numbers and strings, with None for what is missing."""
    names = list(found.columns)
    plain = found.astype(object).where(found.notna(), None)
    return [dict(zip(names, row, strict=True)) for row in plain.itertuples(index=False, name=None)]


def json_text(found: pd.DataFrame, rows: Sequence[Mapping[str, Any]], tolerance: fastrank.Tolerance) -> str:
    """All that was found as one object of JSON, which has no infinity: a norm beyond FP64's range is null there."""
    finite = [{name: None if x in (math.inf, -math.inf) else x for name, x in row.items()} for row in rows]
    types: dict[str, Any] = {
        str(name): held for name, held in found.attrs.items() if str(name).startswith("layer_types")
    }
    content = {
        "tolerance": asdict(tolerance),
        "matrices": finite,
        **types,
        "left_out": found.attrs["left_out"],
        "scaled": found.attrs["scaled"],
        "not_looked_at": [{"key": name, "holds": held} for name, held in found.attrs["not_looked_at"].items()],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def parse_split(text: str) -> tuple[str, Split]:
    """``GLOB=PARTS`` or ``GLOB=PARTS:AXIS`` as an item of the argument ``split`` of `fastrank.RankTracker`.

    PARTS is a number of equal parts (``3``), their names (``q,k,v``) or their sizes (``4096,1024,1024``). Raises
    UsageError for any other text.
    """
    name, _, rule = text.rpartition("=")
    parts, _, axis = rule.partition(":")
    listed = parts.split(",")
    try:
        along = int(axis or 0)
        if not name or not all(listed):
            raise ValueError
        if len(listed) > 1 and not any(part.isdecimal() for part in listed):
            return name, (listed, along)
        sizes = [int(part) for part in listed]
        return name, (sizes if len(sizes) > 1 else sizes[0], along)
    except ValueError:
        raise UsageError(
            f"--split {text}: expected GLOB=PARTS or GLOB=PARTS:AXIS, with PARTS a number (3), names (q,k,v) or sizes "
            "(4096,1024,1024)"
        ) from None


def table(rows: Sequence[Mapping[str, Any]], tolerance: fastrank.Tolerance, energy: Sequence[float] = ()) -> Table:
    """The matrices as a table for the terminal. A rank that is not certified is shown as its bounds."""
    shares = {f"energy\n{share:g}": name for share, name in zip(energy, _energy_ranks(rows), strict=True)}
    units = {"frobenius": " of the Frobenius norm", "spectral": " of the spectral norm", "absolute": ""}
    many = "matrix" if len(rows) == 1 else "matrices"
    title = f"{len(rows)} {many}; rank: singular values above {tolerance.value:g}{units[tolerance.relative_to]}"
    table = titled(title, min_width=len(title), padding=(0, 1, 0, 0))  # a title is wrapped to its table
    table.add_column("matrix", overflow="fold")
    two, whole = f"rank_lower{AGAINST}" in rows[0], "effective_rank" in rows[0]
    for head in ("rows x cols", "rank", "of", *(("rank\nagainst",) if two else ()), "stable\nrank"):
        table.add_column(head, justify="right", no_wrap=True)
    more = ("effective\nrank",) if whole else ()
    for head in (*(("stable\nagainst",) if two else ()), *more, *shares, *(() if two else ("spectral\nnorm",))):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(printable(row["name"])),
            f"{row['rows']} x {row['cols']}",
            _rank(row),
            str(min(row["rows"], row["cols"])),
            *([_rank(row, AGAINST)] if two else []),
            number(row["stable_rank"], 1),
            *([number(row[f"stable_rank{AGAINST}"], 1)] if two else []),
            *([number(row["effective_rank"], 1)] if whole else []),
            *("-" if row[name] is None else str(row[name]) for name in shares.values()),
            *([] if two else ["-" if row["spectral_norm"] is None else f"{row['spectral_norm']:.4g}"]),
        )
    return table


def types_table(types: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]] = ()) -> Table:
    """A row for each type of layer: how many matrices and parameters, mean and lowest rank, mean stable rank; and the
    means of another checkpoint, where there is one."""
    table = titled("by type of layer", padding=(0, 1, 0, 0))
    table.add_column("type")
    others = {row["layer_type"]: row for row in against}
    more = ("rank,\nagainst", "stable,\nagainst") if others else ()
    for head in ("matrices", "parameters", "rank,\nmean", "lowest", "stable\nrank", *more):
        table.add_column(head, justify="right", no_wrap=True)
    for row in types:
        other = others.get(row["layer_type"], {"rank": None, "stable_rank": None})
        table.add_row(
            row["layer_type"],
            str(row["matrices"]),
            f"{row['parameters']:,}",
            _percent(row["rank"]),
            _percent(row["lowest_rank"]),
            number(row["stable_rank"], 1),
            *((_percent(other["rank"]), number(other["stable_rank"], 1)) if others else ()),
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _energy_ranks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of energy ranks, in the order of the shares."""
    return [name for name in rows[0] if name.startswith("energy_rank") and not name.endswith(AGAINST)]


def _rank(row: Mapping[str, Any], end: str = "") -> str:
    lower, upper = row[f"rank_lower{end}"], row[f"rank_upper{end}"]
    if lower is None:
        return "not finite"
    return str(lower) if lower == upper else f"{lower} to {upper}"
