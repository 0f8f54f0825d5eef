"""Histories, a row for each (step, matrix): brought from the device, kept in memory, and stored in Parquet files."""

from .block import SKIPPED, Block
from .history import History
from .parquet import HistoryError, column_names, complete_parts, read_history, write_history
from .parts import HistoryWarning
from .rows import StepNumber, on_host
from .table import Layout

__all__ = [
    "SKIPPED",
    "Block",
    "History",
    "HistoryError",
    "HistoryWarning",
    "Layout",
    "StepNumber",
    "column_names",
    "complete_parts",
    "on_host",
    "read_history",
    "write_history",
]
