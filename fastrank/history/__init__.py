"""Histories, a row for each (step, matrix): brought from the device, kept in memory, and stored in Parquet files."""

from .block import SKIPPED, Block
from .extra import check_installed
from .history import History
from .parquet import HistoryError, column_names, complete_parts, read_history, write_history
from .parts import HistoryWarning
from .rows import StepNumber, on_host
from .table import Layout, step_rows

__all__ = [
    "SKIPPED",
    "Block",
    "History",
    "HistoryError",
    "HistoryWarning",
    "Layout",
    "StepNumber",
    "check_installed",
    "column_names",
    "complete_parts",
    "on_host",
    "read_history",
    "step_rows",
    "write_history",
]
