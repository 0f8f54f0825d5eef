"""A sweep's results as ``summary.csv`` and as tables for the terminal."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..files import write_csv
from ..records import Status, TrialRecord

COLUMNS = (
    *("trial", "model", "data", "batch_size", "lr", "weight_decay", "momentum", "seed", "epochs", "steps"),
    *("average_rank", "full_rank", "train_accuracy", "test_accuracy", "seconds", "status"),
)

_AXES = ("batch_size", "lr", "weight_decay", "momentum", "seed")
_NUMBERS = {"average_rank": 1, "train_accuracy": 3, "test_accuracy": 3, "seconds": 1}  # digits shown

COLOURS = {
    Status.PENDING: "dim",
    Status.RUNNING: "cyan",
    Status.DONE: "green",
    Status.DIVERGED: "yellow",
    Status.FAILED: "bold red",
}


def summary_row(record: TrialRecord) -> dict[str, Any]:
    """A trial's row of ``summary.csv``; None where there is no number (yet)."""
    spec, result = record.spec, record.result or {}
    shared = ("batch_size", "lr", "weight_decay", "momentum", "seed", "epochs")
    numbers = ("steps", "average_rank", "full_rank", "train_accuracy", "test_accuracy")
    return {
        "trial": record.id,
        "model": model_label(spec["model"]),
        "data": spec["data"]["name"],
        **{key: spec[key] for key in shared},
        **{key: result.get(key) for key in numbers},
        "seconds": None if record.seconds is None else round(record.seconds, 3),
        "status": str(record.status),
    }


def write_summary(path: Path, records: Sequence[TrialRecord]) -> None:
    """Write ``summary.csv``, a row a trial in the order of the grid, atomically."""
    write_csv(path, COLUMNS, map(summary_row, records))


def print_tables(console: Console, records: Sequence[TrialRecord]) -> None:
    """Print the table of trials and those of average rank."""
    for table in (trials_table(records), *rank_tables(records)):
        console.print(table)
        console.print()


def trials_table(records: Sequence[TrialRecord]) -> Table:
    """A row a trial: its settings and its results. Settings that are the same in all trials go into the title."""
    rows = [summary_row(record) for record in records]
    varying = [key for key in _AXES if len({row[key] for row in rows}) > 1]
    shared = [f"{_heading(key)} {rows[0][key]:g}" for key in _AXES if key not in varying]
    title = f"{len(rows)} trials" + (f" with {', '.join(shared)}" if shared else "")
    table = titled(title, padding=(0, 1, 0, 0))
    table.add_column("trial", no_wrap=True)
    for key in (*varying, *_NUMBERS):
        table.add_column(_heading(key).replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for record, row in zip(records, rows, strict=True):
        table.add_row(
            record.id,
            *(f"{row[key]:g}" for key in varying),
            *(number(row[key], digits) for key, digits in _NUMBERS.items()),
            f"[{COLOURS[record.status]}]{record.status}[/]",
        )
    return table


def _heading(key: str) -> str:
    return key.replace("_", " ").replace("accuracy", "acc.")


def rank_tables(records: Sequence[TrialRecord]) -> list[Table]:
    """Average rank and test accuracy over the first two settings that vary, a table for each value of the others."""
    down, across = _shown(records)
    others = [axis for axis in ("lr", "momentum", "batch_size", "weight_decay") if axis not in (down, across)]
    groups: dict[tuple[float, ...], list[TrialRecord]] = defaultdict(list)
    for record in records:
        if record.result and record.result["average_rank"] is not None:
            groups[tuple(record.spec[axis] for axis in others)].append(record)
    return [
        _rank_table(group, down, across, ", ".join(f"{_heading(a)} {v:g}" for a, v in zip(others, values, strict=True)))
        for values, group in groups.items()
    ]


def _shown(records: Sequence[TrialRecord]) -> tuple[str, str]:
    """The settings of rows and columns: batch size and weight decay, unless lr varies and one of these does not."""
    varying = {axis for axis in _AXES if len({record.spec[axis] for record in records}) > 1}
    if "lr" in varying and "batch_size" not in varying:
        return "lr", "weight_decay"
    if "lr" in varying and "weight_decay" not in varying:
        return "batch_size", "lr"
    return "batch_size", "weight_decay"


def _rank_table(records: list[TrialRecord], down: str, across: str, others: str) -> Table:
    results = [record.result or {} for record in records]
    cells: dict[tuple[float, float], list[tuple[float, float]]] = defaultdict(list)
    for record, result in zip(records, results, strict=True):
        cells[record.spec[down], record.spec[across]].append((result["average_rank"], result["test_accuracy"]))
    columns = sorted({column for _, column in cells})
    seeds = max(map(len, cells.values()))
    title = f"Average rank (full: {results[0]['full_rank']:.1f}) and test accuracy; {others}"
    title += f"; mean of {seeds} seeds" if seeds > 1 else ""
    table = titled(title, min_width=len(title))  # a title is wrapped to its table
    table.add_column(_heading(down).replace(" ", "\n"), justify="right", no_wrap=True)
    for column in columns:
        table.add_column(f"{_heading(across)}\n{column:g}", justify="right", no_wrap=True)
    for row in sorted({row for row, _ in cells}):
        table.add_row(f"{row:g}", *(_cell(cells.get((row, column))) for column in columns))
    return table


def model_label(model: dict[str, Any]) -> str:
    """A network's name and its sizes: ``mlp_bn-10x100``, ``vit-6x192x3x4``, ``resnet18``."""
    sizes = [str(value) for key, value in model.items() if key != "name"]
    return "-".join([model["name"], *(["x".join(sizes)] if sizes else [])])


def _cell(values: list[tuple[float, float]] | None) -> str:
    if not values:
        return "-"
    ranks, accuracies = zip(*values, strict=True)
    return f"[bold]{mean(ranks):.1f}[/]  [dim]{mean(accuracies):.3f}[/]"


def titled(title: str, **options: Any) -> Table:
    """An empty table in the look that all tables on the terminal share; ``options`` are `rich.table.Table`'s."""
    return Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, title_justify="left", title_style="bold", **options)


def number(value: float | None, digits: int) -> str:
    """A number for a table; a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"
